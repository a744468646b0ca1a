"""How far the figures of a model lie from the truth, from what its manifest says was measured.

In plain words: from an expert's, on unseen CTs; figures of data that the model was trained on are not told to a
reader. All names are optional: `heldout_severity_limit_low`, `…_high` (Bland and Altman's limits of agreement of
the severity score, pipeline minus expert, fractions of 1), `heldout_infection_dice_case_mean`, `heldout_cases`; and
the severity score found in lungs without any opacity, `healthy_infection_fraction` or, of synthetic ones,
`healthy_phantom_infection_fraction`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.notation import points

MOST_IN_HEALTHY = 0.025  # a model that finds more in healthy lungs is of no use; or the figure is in per cent
TOLD: Mapping[str, tuple[float, float]] = {  # what readers see, and between what it lies
    "heldout_severity_limit_low": (-1.0, 1.0),
    "heldout_severity_limit_high": (-1.0, 1.0),
    "heldout_infection_dice_case_mean": (0.0, 1.0),
    "heldout_cases": (1.0, 1e9),
    "healthy_infection_fraction": (0.0, MOST_IN_HEALTHY),
    "healthy_phantom_infection_fraction": (0.0, MOST_IN_HEALTHY),
}
UNKNOWN = "How far the figures lie from an expert's is not known: the model package does not say."


@dataclass(frozen=True)
class Healthy:
    """What the model finds where there is no opacity.

    Attributes:
        fraction: severity score, fraction of 1.
        where: the lungs that it was measured in.
    """

    fraction: float
    where: str


def sentence(metrics: Mapping[str, float]) -> str:
    """ASCII, for SR and picture. Figures that cannot be say nothing and are passed over."""
    cases, low, high, overlap = (
        _figure(metrics, f"heldout_{name}")
        for name in ("cases", "severity_limit_low", "severity_limit_high", "infection_dice_case_mean")
    )
    unseen = f"On {cases:.0f} unseen CTs" if cases is not None else "On unseen CTs"
    told = []
    if low is not None and high is not None:
        told.append(
            f"{unseen} the severity score lay between {points(low)} and {points(high)} percentage points of an "
            "expert's, in 95 of 100."
        )
    if overlap is not None:
        told.append(f"{unseen} the outlines overlapped an expert's by {overlap:.2f} (mean Dice; 1 is the same).")
    return " ".join(told) or UNKNOWN


def found_in_healthy(metrics: Mapping[str, float]) -> Healthy | None:
    """What is measured of lungs without opacity, real ones before synthetic ones; None where nothing is."""
    for name, where in (
        ("healthy_infection_fraction", "healthy lungs"),
        ("healthy_phantom_infection_fraction", "synthetic healthy chests"),
    ):
        if fraction := _figure(metrics, name):
            return Healthy(fraction, where)
    return None


def verify(metrics: Mapping[str, object]) -> None:
    """Raise ValueError where a figure that readers see is misspelt or cannot be; for whoever makes a package."""
    for name, figure in metrics.items():
        if isinstance(figure, bool) or not isinstance(figure, int | float) or not math.isfinite(figure):
            raise ValueError(f"metrics: {name} is {figure!r}, not a number")
        if name.startswith(("heldout_", "healthy_")) and name not in TOLD:
            raise ValueError(f"metrics: {name} is not known; readers are told {', '.join(sorted(TOLD))}")
        if name in TOLD and _figure({name: figure}, name) is None:
            raise ValueError(f"metrics: {name} is {figure:g}, not within {TOLD[name][0]:g} and {TOLD[name][1]:g}")
        if name == "heldout_cases" and not float(figure).is_integer():
            raise ValueError(f"metrics: {name} is {figure:g}, not a whole number")
    low, high = (metrics.get(f"heldout_severity_limit_{end}") for end in ("low", "high"))
    if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
        raise ValueError("metrics: heldout_severity_limit_low is above heldout_severity_limit_high")


def _figure(metrics: Mapping[str, float], name: str) -> float | None:
    """A figure that readers see; None where it is absent or cannot be."""
    low, high = TOLD[name]
    figure = metrics.get(name, math.nan)
    return figure if low <= figure <= high else None
