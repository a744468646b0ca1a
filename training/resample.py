"""Bootstrap by patient: all cases of a drawn patient come together, so no interval takes them for independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SAMPLES = 4000
SEED = 2020
LIMITS = (2.5, 97.5)


def weights(patients: Sequence[str], samples: int = SAMPLES) -> Floats:
    """float64 [1 + sample, case]: how often each case is in a resample; row 0 is the cohort as it is."""
    names, of = np.unique(np.array(patients, dtype=object).astype(str), return_inverse=True)
    drawn = np.random.default_rng(SEED).multinomial(len(names), np.full(len(names), 1 / len(names)), samples)
    return np.concatenate((np.ones((1, len(of))), drawn[:, of].astype(np.float64)))


def figure(statistic: Floats) -> tuple[float | None, list[float] | None]:
    """A statistic [1 + sample] as its value and its 95 % percentile interval.

    None is a value that does not exist; the interval is None where it does not vary or hardly a sample has a value.
    """
    value, drawn = number(statistic[0]), statistic[1:][np.isfinite(statistic[1:])]
    if value is None or len(drawn) < 0.9 * len(statistic[1:]) or np.ptp(drawn) == 0:
        return value, None
    low, high = np.percentile(drawn, LIMITS)
    return value, [float(low), float(high)]


def named(name: str, statistic: Floats) -> dict[str, Any]:
    """{name: value, name_ci: interval}."""
    value, interval = figure(statistic)
    return {name: value, f"{name}_ci": interval}


def number(value: float) -> float | None:
    """A value for JSON: None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def ratio(over: Floats, under: Floats) -> Floats:
    """over / under, NaN where under is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(under != 0, over / under, np.nan)


def mean(times: Floats, values: Floats) -> Floats:
    """Weighted mean of values [case] for each row of weights."""
    return ratio(times @ values, times.sum(axis=1))


def pearson(times: Floats, x: Floats, y: Floats) -> Floats:
    """Weighted correlation for each row of weights."""
    x, y = (_stretched(values) for values in (x, y))
    centre_x, centre_y = mean(times, x), mean(times, y)
    covariance = mean(times, x * y) - centre_x * centre_y
    spread = (mean(times, x * x) - centre_x**2) * (mean(times, y * y) - centre_y**2)
    return ratio(covariance, np.sqrt(np.where(spread > 1e-18, spread, 0.0)))


def _stretched(values: Floats) -> Floats:
    """From 0 to 1, so that rounding is small beside the spread of scores however small; all 0 where equal."""
    return np.asarray((values - values.min()) / (np.ptp(values) or 1.0))


def auc(times: Floats, scores: Floats, positive: npt.NDArray[np.bool_]) -> Floats:
    """Chance that a positive case scores above a negative one, ties half, for each row of weights."""
    higher = scores[positive][:, None] - scores[~positive][None]
    wins = (np.sign(higher) + 1) / 2
    up, down = times[:, positive], times[:, ~positive]
    return ratio(((up @ wins) * down).sum(axis=1), up.sum(axis=1) * down.sum(axis=1))
