"""`cases.csv` of an evaluation: one row per case, empty where there is no such value."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from training.judge import LOWEST, Cohort, Judged, Pixels


def write(cohort: Cohort) -> str:
    """The text of the table."""
    rows = [_row(cohort, one) for one in cohort.judged]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0], *COLUMNS], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        row | (_counts(one.pixels, cohort.tells_consolidation(one)) if one.pixels is not None else {})
        for row, one in zip(rows, cohort.judged, strict=True)
    )
    return text.getvalue()


def _row(cohort: Cohort, one: Judged) -> dict[str, Any]:
    truth = cohort.consolidated(one)
    return {
        "case": one.case.name,
        "patient": one.case.patient,
        "site": one.case.site,
        "slices": one.slices,
        "lungs": one.fault or "found",
        "consolidation": "" if truth is None else int(truth),
        "lung_voxels": one.lung,
        "reference_lung_voxels": one.reference_lung,
        "severity": _digits(one.share("infection")),
        "severity_reference": _digits(one.reference("infection")),
        "consolidation_score": _digits(one.share("consolidation")),
        "consolidation_score_reference": (
            _digits(one.reference("consolidation")) if cohort.tells_consolidation(one) else ""
        ),
        "threshold_score": _digits(one.share("threshold")),
    }


def _counts(pixels: Pixels, tells_consolidation: bool) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for figure in LOWEST if tells_consolidation else ("infection",):
        score = pixels.scores[figure]
        row |= {
            f"{figure}_dice": _digits(score.dice),
            f"{figure}_dice_clipped_by_lungs": _digits(pixels.clipped[figure].dice),
            f"{figure}_both": score.both,
            f"{figure}_predicted_only": score.predicted_only,
            f"{figure}_label_only": score.label_only,
        }
        if figure in pixels.rates:
            rates = pixels.rates[figure]
            row |= {f"{figure}_tpr": _digits(rates.tpr), f"{figure}_fpr": _digits(rates.fpr)}
        if figure != "threshold":
            row[f"{figure}_labelled"] = pixels.labelled[figure]
            row[f"{figure}_inside_lungs"] = pixels.inside[figure]
    return row


_EACH = ("dice", "dice_clipped_by_lungs", "both", "predicted_only", "label_only")
_MORE = {
    "infection": ("labelled", "inside_lungs"),
    "consolidation": ("tpr", "fpr", "labelled", "inside_lungs"),
    "threshold": ("tpr", "fpr"),
}
COLUMNS = tuple(f"{figure}_{what}" for figure, more in _MORE.items() for what in (*_EACH, *more))


def _digits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"
