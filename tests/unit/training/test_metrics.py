"""What is counted over whom: empty cases, cases without lungs, labels or known consolidation, sites."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.fixtures.judged import judged, label
from training import metrics
from training.judge import Cohort, Judged


def compute(*cases: Judged) -> dict[str, Any]:
    made = metrics.compute(Cohort(cases))
    json.dumps(made, allow_nan=False)
    return made


MIXED = (
    judged("a", label(8, 4), 8, 4, patient="p1"),
    judged("b", label(8, 2), 4, 1, patient="p1"),
    judged("c", label(4), 6, consolidation=False),
    judged("d", label(2), 2, 1),
    judged("e", label(0), 0),
    judged("f", label(0), 2),
)


def test_dice_per_case_and_pooled_with_the_policy_for_empty_cases() -> None:
    made = compute(*MIXED)
    dice = [1.0, 2 * 4 / 12, 2 * 4 / 10, 1.0, 1.0, 0.0]
    assert made["infection"]["dice_case_mean"] == pytest.approx(np.mean(dice))
    assert made["infection"]["dice_case_sd"] == pytest.approx(np.std(dice, ddof=1))
    assert made["infection"]["dice_case_median"] == pytest.approx(np.median(dice))
    assert made["infection"]["dice_pooled"] == pytest.approx(
        2 * (8 + 4 + 4 + 2) / (8 + 8 + 4 + 2 + 8 + 4 + 6 + 2 + 2)
    )
    assert made["infection"]["dice_case_mean_of_labelled"] == pytest.approx(np.mean(dice[:4]))
    assert made["infection"]["cases_with_empty_label"] == 2
    assert made["consolidation"]["dice_case_mean"] == pytest.approx(np.mean([1, 2 / 3, 1, 0, 1, 1]))
    low, high = made["infection"]["dice_case_mean_ci"]
    assert low < made["infection"]["dice_case_mean"] < high
    assert made["threshold"]["dice_pooled"] == 0, "nothing is denser than −200 HU"
    assert made["consolidation_minus_threshold"]["dice_pooled"] == made["consolidation"]["dice_pooled"]


def test_a_case_without_lungs_scores_as_nothing_found_and_is_named() -> None:
    without = judged("x", label(4, 2), fault="no lungs found: 3 ml", consolidation=True)
    made = compute(*MIXED, without)
    assert made["infection"]["cases"] == 7
    assert made["infection"]["dice_case_mean"] < compute(*MIXED)["infection"]["dice_case_mean"]
    assert made["cohort"]["without_lungs"] == {"x": "no lungs found: 3 ml"}
    assert made["lungs"]["cases_without_lungs"] == 1
    assert made["lungs"]["infection_inside"] == pytest.approx(22 / 26)
    assert made["severity"]["left_out"] == ["x"]
    assert made["mann_whitney"]["positive"]["cases"] == 3, "its score is 0, and it counts"


def test_labels_outside_the_lungs_cost_dice_but_not_the_clipped_figure() -> None:
    outside = label(4)
    outside[:, 29:31, 8:24] = 1  # below the lungs
    made = compute(judged("a", outside, 4), judged("b", label(3), 3))
    assert made["infection"]["dice_case_mean"] == pytest.approx((8 / 10 + 1) / 2)
    assert made["infection"]["clipped_by_lungs"]["dice_case_mean"] == 1
    assert made["lungs"]["infection_inside"] == pytest.approx(7 / 9)


def test_labels_that_do_not_tell_consolidation_count_for_infection_only() -> None:
    made = compute(judged("a", label(8), 8, 4), judged("b", label(4), 4))
    assert made["consolidation"] == {"cases": 0} | dict.fromkeys(
        ("dice_case_mean", "dice_case_sd", "dice_case_median", "dice_pooled", "dice_case_mean_of_labelled")
    )
    assert made["cohort"]["labels_do_not_tell_consolidation"] == ["a", "b"]
    assert made["lungs"]["consolidation_inside"] is None
    assert made["mann_whitney"]["unknown"] == ["a", "b"]
    mixed = compute(judged("a", label(8), 8, 4, consolidation=True), judged("b", label(4, 2), 4, 2))
    assert mixed["consolidation"]["cases"] == 1, "consolidation is there by the table, but not drawn"
    assert mixed["mann_whitney"]["positive"]["cases"] == 2


def test_cases_without_pixel_labels_still_serve_the_image_level_figures() -> None:
    cases = [judged(f"p{k}", None, 6, k, consolidation=True) for k in range(1, 5)]
    cases += [judged(f"n{k}", None, 6, 0, consolidation=False) for k in range(4)]
    made = compute(*cases)
    assert made["infection"]["cases"] == 0
    assert made["mann_whitney"]["auc"] == 1
    expected = stats.mannwhitneyu([k / 24 for k in range(1, 5)], [0] * 4, alternative="greater")
    assert made["mann_whitney"]["p_one_sided"] == pytest.approx(expected.pvalue)
    assert made["cohort"]["without_pixel_labels"] == [one.case.name for one in cases]


def test_one_class_alone_gives_no_test() -> None:
    made = compute(*(judged(f"p{k}", label(8, k), 8, k) for k in range(1, 5)))
    assert made["mann_whitney"]["auc"] is None
    assert made["mann_whitney"]["negative"] == {"cases": 0, "mean": None, "median": None}


def test_severity_is_over_the_lungs_and_labels_beyond_them() -> None:
    cases = [judged(str(k), label(k), k + 1) for k in range(1, 12)]
    made = compute(*cases)
    assert cases[3].share("infection") == pytest.approx(5 / 24)
    assert cases[3].reference("infection") == pytest.approx(4 / 24)
    assert made["severity"]["pearson_r"] == pytest.approx(1)
    assert made["severity"]["bias"] == pytest.approx(1 / 24)
    assert np.sum(made["severity"]["class_table"]) == 11
    assert made["severity"]["class_table"][0] == [0, 1, 0, 0], "4 % by the expert, 8 % by the pipeline"


def test_perfect_agreement_of_classes_is_kappa_one() -> None:
    made = compute(*(judged(str(k), label(k), k) for k in (1, 4, 8, 14)))
    assert made["severity"]["class_agreement"] == 1
    assert made["severity"]["class_kappa_linear"] == pytest.approx(1)


def test_figures_are_given_per_site_where_sites_are_named() -> None:
    made = compute(judged("a", label(4), 4, site="north"), judged("b", label(4), 0), judged("c", label(2), 2))
    assert made["sites"]["north"]["infection"]["dice_case_mean"] == 1
    assert made["sites"]["(none)"]["infection"]["dice_case_mean"] == 0.5
    assert "sites" not in compute(*MIXED)


def test_curves_fit_and_dilations_fall() -> None:
    cases = [judged(str(k), label(12, k), 12, k + 1) for k in range(2, 9)]
    made = compute(*cases)
    assert made["rates"]["consolidation"]["cases"] == 7
    assert 0 <= made["rates"]["consolidation"]["gamma"] < 0.1, "all is found with few false positives"
    falls = made["dilation"]["consolidation"]
    assert falls[0] > 0
    assert falls[1] == 0, "the false positives are one row beside the label"
    assert made["sweep"]["dice_pooled"] is not None
    assert np.array(made["sweep"]["dice_pooled"]).shape == (len(made["sweep"]["b2"]), len(made["sweep"]["k2"]))


def test_the_sweep_gives_negatives_no_label() -> None:
    positives = [judged(f"p{k}", label(8, 4), 8, 4) for k in range(2)]
    negative = judged("n", label(8), 8, 8, consolidation=False)
    with_negative = compute(*positives, negative)["sweep"]
    assert with_negative["dice_pooled"] == compute(*positives)["sweep"]["dice_pooled"]
    assert with_negative["auc"][0][0] is not None
