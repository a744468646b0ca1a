"""The figures of an evaluation as one nested dictionary: what metrics.json holds and the page shows.

Fractions of 1. Intervals (`…_ci`) are 95 % percentile intervals of a bootstrap by patient. None: there is no such
value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from pipeline.types import severity_class
from training import curves, resample
from training.judge import LOWEST, SECONDS, Cohort, Judged
from training.resample import Floats
from training.score import Overlap

CLASSES = ("< 5 %", "5-25 %", "25-50 %", "> 50 %")


def compute(cohort: Cohort) -> dict[str, Any]:
    """Every figure of the cohort, and the main ones of each site where sites are named."""
    metrics = {"cohort": _counts(cohort), **main_figures(cohort)}
    metrics["sweep"] = curves.sweep(cohort)
    metrics["rates"] = {name: curves.gamma(cohort, name) for name in SECONDS}
    metrics["dilation"] = {name: curves.dilation(cohort, name) for name in SECONDS}
    sites = sorted({one.case.site for one in cohort.judged})
    if any(sites):
        metrics["sites"] = {site or "(none)": main_figures(cohort.at(site)) for site in sites}
    return metrics


def _counts(cohort: Cohort) -> dict[str, Any]:
    judged = cohort.judged
    return {
        "cases": len(judged),
        "patients": len({one.case.patient for one in judged}),
        "single_slices": sum(one.slices == 1 for one in judged),
        "labelled": len(cohort.labelled),
        "labels_tell_consolidation": len(cohort.of("consolidation")),
        "labels_do_not_tell_consolidation": [
            one.case.name for one in cohort.labelled if not cohort.tells_consolidation(one)
        ],
        "without_pixel_labels": [one.case.name for one in judged if one.pixels is None],
        "without_lungs": {one.case.name: one.fault for one in judged if one.fault},
    }


def main_figures(cohort: Cohort) -> dict[str, Any]:
    """Dice, lungs, severity and Mann-Whitney of a cohort or a site."""
    return {
        **{figure: dice(cohort.of(figure), figure) for figure in LOWEST},
        "consolidation_minus_threshold": difference(cohort.of("consolidation")),
        "lungs": lungs(cohort),
        "severity": agreement(cohort.labelled, "infection") | classes(cohort.labelled),
        "consolidation_score": agreement(cohort.of("consolidation"), "consolidation"),
        "mann_whitney": mann_whitney(cohort, "consolidation"),
        "mann_whitney_threshold": mann_whitney(cohort, "threshold"),
    }


def _times(judged: Sequence[Judged]) -> Floats:
    return resample.weights([one.case.patient for one in judged])


def _overlaps(judged: Sequence[Judged], figure: str, clipped: bool = False) -> list[Overlap]:
    pixels = [one.pixels for one in judged if one.pixels is not None]
    return [(one.clipped if clipped else one.scores)[figure] for one in pixels]


def _case_dice(overlaps: Sequence[Overlap]) -> Floats:
    return np.array([one.dice for one in overlaps])


def _pooled(times: Floats, overlaps: Sequence[Overlap]) -> Floats:
    both = times @ np.array([one.both for one in overlaps], float)
    wrong = times @ np.array([one.predicted_only + one.label_only for one in overlaps], float)
    return np.where(both + wrong > 0, resample.ratio(2 * both, 2 * both + wrong), 1.0)


def dice(judged: Sequence[Judged], figure: str) -> dict[str, Any]:
    """Dice per case and pooled; a case with neither label nor prediction scores 1, with only one of them 0."""
    names = ("dice_case_mean", "dice_case_sd", "dice_case_median", "dice_pooled", "dice_case_mean_of_labelled")
    if not judged:
        return {"cases": 0, **dict.fromkeys(names)}
    overlaps, times = _overlaps(judged, figure), _times(judged)
    values = _case_dice(overlaps)
    filled = np.array([one.both + one.label_only > 0 for one in overlaps])
    clipped = _overlaps(judged, figure, clipped=True)
    return {
        "cases": len(judged),
        "cases_with_empty_label": int((~filled).sum()),
        **resample.named("dice_case_mean", resample.mean(times, values)),
        "dice_case_sd": float(values.std(ddof=1)) if len(values) > 1 else None,
        "dice_case_median": float(np.median(values)),
        **resample.named("dice_pooled", _pooled(times, overlaps)),
        "dice_case_mean_of_labelled": float(values[filled].mean()) if filled.any() else None,
        "clipped_by_lungs": {
            "dice_case_mean": float(_case_dice(clipped).mean()),
            "dice_pooled": float(_pooled(times[:1], clipped)[0]),
        },
    }


def difference(judged: Sequence[Judged]) -> dict[str, Any]:
    """UNet-2 minus the rival on the same resamples: a paired interval."""
    if not judged:
        return {"dice_case_mean": None, "dice_pooled": None}
    times = _times(judged)
    ours, rival = (_overlaps(judged, name) for name in SECONDS)
    return {
        **resample.named("dice_case_mean", resample.mean(times, _case_dice(ours) - _case_dice(rival))),
        **resample.named("dice_pooled", _pooled(times, ours) - _pooled(times, rival)),
    }


def lungs(cohort: Cohort) -> dict[str, Any]:
    """The share of labelled voxels inside the lungs that were found."""
    made: dict[str, Any] = {}
    for figure, judged in (("infection", cohort.labelled), ("consolidation", cohort.of("consolidation"))):
        pixels = [one.pixels for one in judged if one.pixels is not None]
        inside = np.array([one.inside[figure] for one in pixels], float)
        total = np.array([one.labelled[figure] for one in pixels], float)
        if not pixels:
            made[f"{figure}_inside"] = None
            continue
        times = _times(judged)
        made |= resample.named(f"{figure}_inside", resample.ratio(times @ inside, times @ total))
    return made | {"cases_without_lungs": sum(bool(one.fault) for one in cohort.judged)}


def scored(judged: Sequence[Judged], figure: str) -> list[Judged]:
    """The cases of which score and reference score are known."""
    return [one for one in judged if np.isfinite(one.reference(figure))]


def agreement(judged: Sequence[Judged], figure: str) -> dict[str, Any]:
    """Score against reference: Pearson's r, and Bland and Altman's bias with limits of agreement (± 1.96 SD)."""
    used = scored(judged, figure)
    made: dict[str, Any] = {
        "cases": len(used),
        "left_out": [one.case.name for one in judged if one not in used],
        **dict.fromkeys(("pearson_r", "pearson_r_ci", "pearson_p", "bias", "limits_of_agreement")),
    }
    if len(used) < 3:
        return made
    found, true = (np.array([of(one, figure) for one in used]) for of in (Judged.share, Judged.reference))
    made |= resample.named("pearson_r", resample.pearson(_times(used), found, true))
    gap = found - true
    reach = 1.96 * float(gap.std(ddof=1))
    made |= {"bias": float(gap.mean()), "limits_of_agreement": [gap.mean() - reach, gap.mean() + reach]}
    if made["pearson_r"] is not None:
        told = stats.pearsonr(found, true)
        with np.errstate(invalid="ignore"):  # r of exactly 1 has no such interval
            interval = told.confidence_interval()
        made |= {
            "pearson_p": float(told.pvalue),
            "pearson_r_ci_fisher": [resample.number(interval.low), resample.number(interval.high)],
        }
    return made


def classes(judged: Sequence[Judged]) -> dict[str, Any]:
    """Severity classes: rows are the reference's, columns the score's."""
    table = np.zeros((len(CLASSES), len(CLASSES)), int)
    used = scored(judged, "infection")
    for one in used:
        true, found = (severity_class(score) for score in (one.reference("infection"), one.share("infection")))
        table[CLASSES.index(true), CLASSES.index(found)] += 1
    return {
        "classes": list(CLASSES),
        "class_table": table.tolist(),
        "class_agreement": float(np.trace(table) / len(used)) if used else None,
        "class_kappa_linear": _kappa(table),
    }


def _kappa(table: Any) -> float | None:
    """Cohen's kappa with linear weights; None where chance alone explains the table."""
    far = np.abs(np.subtract.outer(np.arange(len(table)), np.arange(len(table))))
    total = table.sum()
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total if total else table
    by_chance = float((far * expected).sum())
    return 1.0 - float((far * table).sum()) / by_chance if by_chance else None


def groups(cohort: Cohort, figure: str) -> tuple[Floats, Floats]:
    """Scores of the cases without and with consolidation."""
    known = [(one.share(figure), cohort.consolidated(one)) for one in cohort.known]
    return tuple(np.array([score for score, truth in known if truth is wanted]) for wanted in (False, True))  # type: ignore[return-value]


def mann_whitney(cohort: Cohort, figure: str) -> dict[str, Any]:
    """Consolidation scores of cases with against those without consolidation (image-level labels)."""
    negative, positive = groups(cohort, figure)
    made: dict[str, Any] = {
        "unit": "case",
        "positive": _group(positive),
        "negative": _group(negative),
        "unknown": [one.case.name for one in cohort.judged if cohort.consolidated(one) is None],
        **dict.fromkeys(("u", "auc", "auc_ci", "p_two_sided", "p_one_sided")),
    }
    if not len(positive) or not len(negative):
        return made
    known = cohort.known
    scores = np.array([one.share(figure) for one in known])
    truth = np.array([bool(cohort.consolidated(one)) for one in known])
    two = stats.mannwhitneyu(positive, negative, alternative="two-sided")
    one = stats.mannwhitneyu(positive, negative, alternative="greater")
    return made | {
        "u": float(two.statistic),
        **resample.named("auc", resample.auc(_times(known), scores, truth)),
        "p_two_sided": float(two.pvalue),
        "p_one_sided": float(one.pvalue),
    }


def _group(scores: Floats) -> dict[str, Any]:
    if not len(scores):
        return {"cases": 0, "mean": None, "median": None}
    return {"cases": len(scores), "mean": float(scores.mean()), "median": float(np.median(scores))}
