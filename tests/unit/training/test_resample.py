"""The bootstrap: patients whole, statistics equal to those of scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from training import resample


def test_all_cases_of_a_patient_are_drawn_together() -> None:
    times = resample.weights(["a", "b", "a", "c"], 200)
    assert times.shape == (201, 4)
    assert (times[0] == 1).all()
    assert (times[:, 0] == times[:, 2]).all()
    assert (times[1:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert (resample.weights(["a", "b", "a", "c"], 200) == times).all(), "the same each time"


def test_correlation_and_auc_are_those_of_scipy() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.random(40), rng.random(40)
    times = resample.weights([str(k) for k in range(40)], 50)
    found = resample.pearson(times, x, y)
    for row in (0, 7):
        assert found[row] == pytest.approx(
            stats.pearsonr(np.repeat(x, times[row].astype(int)), np.repeat(y, times[row].astype(int))).statistic
        )
    small = resample.pearson(times, 1e-5 * x, 1e-5 * y)  # consolidation of a thousandth of a percent of the lung
    np.testing.assert_allclose(small, found)
    positive = x > 0.4
    scores = np.round(y, 1)  # with ties
    area = resample.auc(times, scores, positive)
    expected = stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert area[0] == pytest.approx(expected / (positive.sum() * (~positive).sum()))


def test_an_interval_holds_the_value_and_narrows_with_patients() -> None:
    rng = np.random.default_rng(2)
    values = rng.random(200)
    widths = []
    for patients in (10, 200):
        times = resample.weights([str(k % patients) for k in range(200)])
        value, interval = resample.figure(resample.mean(times, values))
        assert interval is not None
        assert value == pytest.approx(values.mean())
        assert interval[0] < value < interval[1]
        widths.append(interval[1] - interval[0])
    alone = resample.figure(resample.mean(resample.weights(["a", "a"]), values[:2]))
    assert alone == (pytest.approx(values[:2].mean()), None)
    assert widths[0] > 0


def test_what_does_not_exist_is_none() -> None:
    times = resample.weights(["a", "b", "c"])
    assert resample.figure(resample.pearson(times, np.full(3, 0.3), np.arange(3.0))) == (None, None)
    assert resample.figure(resample.mean(times * 0, np.ones(3))) == (None, None)
