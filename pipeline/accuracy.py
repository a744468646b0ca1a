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

from pipeline.notation import points

UNKNOWN = "How far the figures lie from an expert's is not known: the model package does not say."


def sentence(metrics: Mapping[str, float]) -> str:
    """ASCII, for SR and picture. Figures that are not finite say nothing and are passed over."""
    metrics = {name: figure for name, figure in metrics.items() if math.isfinite(figure)}
    cases = metrics.get("heldout_cases")
    unseen = f"On {cases:.0f} unseen CTs" if cases else "On unseen CTs"
    low, high = metrics.get("heldout_severity_limit_low"), metrics.get("heldout_severity_limit_high")
    overlap = metrics.get("heldout_infection_dice_case_mean")
    told = []
    if low is not None and high is not None:
        told.append(
            f"{unseen} the severity score lay between {points(low)} and {points(high)} percentage points of an "
            "expert's, in 95 of 100."
        )
    if overlap is not None:
        told.append(f"{unseen} the outlines overlapped an expert's by {overlap:.2f} (mean Dice; 1 is the same).")
    return " ".join(told) or UNKNOWN


def found_in_healthy(metrics: Mapping[str, float]) -> float | None:
    """Severity score (fraction of 1) that the model finds where there is none; None where nobody has measured."""
    names = ("healthy_infection_fraction", "healthy_phantom_infection_fraction")
    return next((metrics[name] for name in names if math.isfinite(metrics.get(name, math.nan))), None)
