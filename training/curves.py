"""Figures 3, 4 and 6 of a cohort from the counts of its cases."""

from __future__ import annotations

from typing import Any

import numpy as np

from training import rates, resample
from training.judge import Cohort, Judged
from training.resample import Floats

GAMMAS = np.geomspace(0.01, 100.0, 2001)


def rate_points(cohort: Cohort, figure: str) -> tuple[list[Judged], Floats, Floats]:
    """The cases with consolidation and other infection among their labels, their FPR and TPR."""
    used = [(one, one.pixels.rates[figure]) for one in cohort.of("consolidation") if one.pixels is not None]
    used = [(one, rate) for one, rate in used if rate.positives and rate.negatives]
    return (
        [one for one, _ in used],
        np.array([rate.fpr for _, rate in used]),
        np.array([rate.tpr for _, rate in used]),
    )


def gamma(cohort: Cohort, figure: str) -> dict[str, Any]:
    """The exponent of TPR = FPR^γ by least squares, each case weighing the same; the curve's area is 1/(1 + γ)."""
    used, fpr, tpr = rate_points(cohort, figure)
    if len(used) < 2:
        return {"cases": len(used), "gamma": None, "gamma_ci": None, "area": None}
    errors = (tpr[:, None] - fpr[:, None] ** GAMMAS[None]) ** 2
    best = GAMMAS[np.argmin(resample.weights([one.case.patient for one in used]) @ errors, axis=1)]
    return {"cases": len(used), **resample.named("gamma", best), **resample.named("area", 1 / (1 + best))}


def dilation(cohort: Cohort, figure: str) -> list[float | None]:
    """Pooled FPR inside the labelled infection farther than 0 … 9 pixels from the labelled consolidation."""
    of = [one.pixels.rates[figure] for one in cohort.of("consolidation") if one.pixels is not None]
    false = sum((rate.false_by for rate in of), np.zeros(rates.DISTANCES, np.int64))
    negatives = sum((rate.negatives_by for rate in of), np.zeros(rates.DISTANCES, np.int64))
    return [float(f / n) if n else None for f, n in zip(false, negatives, strict=True)]


def sweep(cohort: Cohort) -> dict[str, Any]:
    """Figure 3: pooled and mean Dice of the E-step's labels, and the AUC of their share of the lungs, by b₂ and k₂.

    A case known to be without consolidation gets no label (z = 0). AUC is taken without z.
    """
    made: dict[str, Any] = {"b2": list(rates.B2), "k2": [*rates.K2, rates.PRIOR_ALONE]}
    used = [one for one in cohort.of("consolidation") if cohort.consolidated(one) is not None]
    if not used:
        return made | {"dice_pooled": None, "dice_case_mean": None, "auc": None}
    counts = np.array([one.pixels.sweep for one in used if one.pixels is not None], float)
    truth = np.array([bool(cohort.consolidated(one)) for one in used])
    lung = np.array([max(one.lung, 1) for one in used], float)
    share = counts[..., :2].sum(axis=-1) / lung[:, None, None]
    counts[~truth, ..., :2] = 0  # z = 0
    both, wrong = counts[..., 0], counts[..., 1] + counts[..., 2]
    per_case = np.where(both + wrong > 0, resample.ratio(2 * both, 2 * both + wrong), 1.0)
    pooled = resample.ratio(2 * both.sum(axis=0), 2 * both.sum(axis=0) + wrong.sum(axis=0))
    once = np.ones((1, len(used)))
    areas = [[float(resample.auc(once, column, truth)[0]) for column in row.T] for row in share.transpose(1, 0, 2)]
    return made | {
        "cases": len(used),
        "dice_pooled": _listed(pooled),
        "dice_case_mean": _listed(per_case.mean(axis=0)),
        "auc": _listed(np.array(areas)),
    }


def _listed(table: Floats) -> list[list[float | None]]:
    return [[resample.number(value) for value in row] for row in table]
