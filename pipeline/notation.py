"""How figures are written for people, on the picture and on the console; result.json and the SR hold them exactly.

A rounded figure says nothing else than the figure itself: it is in the same severity class, what is there does not
read 0, and what was not measured does not read as a number.
"""

from __future__ import annotations

from decimal import Decimal
from itertools import count

from pipeline.types import severity_class

NOT_MEASURED = "not measured"


def percent(fraction: float | None, decimals: int = 1) -> str:
    """A fraction of 1 as per cent, with at least so many decimals: 0.0496 is "4.96 %", not "5.0 %" in "< 5 %"."""
    if fraction is None:
        return NOT_MEASURED
    exact = 100 * Decimal(fraction)
    rounded = next(
        value
        for places in count(decimals)
        if severity_class(float((value := round(exact, places)) / 100)) == severity_class(fraction)
    )
    if exact > 0 and not rounded:
        return f"< {Decimal(1).scaleb(-decimals)} %"
    return f"{rounded} %"


def points(difference: float | None) -> str:
    """A difference of two fractions in percentage points, signed; what is there does not read 0."""
    if difference is None:
        return NOT_MEASURED
    exact = 100 * Decimal(difference)
    rounded = next(value for places in count(1) if (value := round(exact, places)) or not exact or places >= 2)
    return f"{rounded:+}" if rounded else "0.0" if not exact else "about 0"


def millilitres(volume_ml: float) -> str:
    """A volume in whole ml, without the unit; "< 1" where it would read 0."""
    text = f"{volume_ml:.0f}"
    return "< 1" if volume_ml > 0 and text == "0" else text


def hounsfield(value: float | None) -> str:
    """A mean HU, or a dash where there is nothing to take the mean of."""
    return "-" if value is None else f"{value:.0f}"
