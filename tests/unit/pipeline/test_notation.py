"""What people read says the same as the figures."""

from __future__ import annotations

import math
import re
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.notation import hounsfield, millilitres, percent
from pipeline.types import severity_class

LIMITS = [0.05, 0.25, 0.5]


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (None, "not measured"),
        (0.0, "0.0 %"),
        (0.0004, "< 0.1 %"),
        (0.0612, "6.1 %"),
        (0.0496, "4.96 %"),
        (0.05, "5.0 %"),
        (0.2496, "24.96 %"),
        (0.5, "50.0 %"),
        (0.5004, "50.04 %"),
        (0.499999, "50.0 %"),
        (1.0, "100.0 %"),
    ],
)
def test_percent(fraction: float | None, expected: str) -> None:
    assert percent(fraction) == expected


def test_whole_per_cent() -> None:
    assert [percent(fraction, decimals=0) for fraction in (0.0, 0.004, 0.3, 0.046)] == [
        "0 %",
        "< 1 %",
        "30 %",
        "4.6 %",
    ]


@given(
    st.floats(0, 1) | st.sampled_from(LIMITS).flatmap(lambda at: st.floats(at - 1e-6, at + 1e-6)), st.integers(0, 2)
)
@example(math.nextafter(0.05, 0), 1)
@example(math.nextafter(0.25, 0), 0)
@example(math.nextafter(0.5, 1), 1)
@example(5e-324, 1)
def test_percent_says_neither_another_class_nor_zero(fraction: float, decimals: int) -> None:
    text = percent(fraction, decimals)
    found = re.fullmatch(r"(< )?(\d+(?:\.(\d+))?) %", text)
    assert found
    number = float(found[2])
    if found[1]:
        assert 0 < 100 * fraction < number == 10.0**-decimals
        return
    assert (number == 0) == (fraction == 0)
    assert severity_class(float(Decimal(found[2]) / 100)) == severity_class(fraction)
    assert len(found[3] or "") >= decimals
    assert abs(number - 100 * fraction) <= 0.5 * 10.0**-decimals + 1e-9


@given(st.floats(0, 20_000))
@example(0.5)
@example(0.03)
def test_a_volume_that_is_there_does_not_read_zero(volume_ml: float) -> None:
    text = millilitres(volume_ml)
    if text == "< 1":
        assert 0 < volume_ml < 1
    else:
        assert abs(int(text) - volume_ml) <= 0.5
        assert (int(text) == 0) == (volume_ml == 0)


def test_hounsfield() -> None:
    assert (hounsfield(None), hounsfield(-712.6)) == ("-", "-713")
