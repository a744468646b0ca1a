"""What a reader is told about the accuracy of the model."""

from __future__ import annotations

import math

import pytest

from pipeline import accuracy, package
from pipeline.accuracy import Healthy


def test_limits_of_agreement_are_told_in_percentage_points() -> None:
    told = accuracy.sentence(
        {"heldout_severity_limit_low": -0.042, "heldout_severity_limit_high": 0.061, "heldout_cases": 50.0}
    )
    assert told == (
        "On 50 unseen CTs the severity score lay between -4.2 and +6.1 percentage points of an expert's, "
        "in 95 of 100."
    )


def test_overlap_is_told_with_what_it_means() -> None:
    assert "0.78 (mean Dice; 1 is the same)" in accuracy.sentence({"heldout_infection_dice_case_mean": 0.7812})


def test_figures_of_training_data_are_not_told() -> None:
    """The demonstration package has no others."""
    assert accuracy.sentence(package.load(None).manifest.metrics) == accuracy.UNKNOWN
    assert "not known" in accuracy.UNKNOWN


def test_figures_that_are_not_finite_are_passed_over() -> None:
    limits = {"heldout_severity_limit_low": math.nan, "heldout_severity_limit_high": 0.061}
    assert accuracy.sentence({**limits, "heldout_infection_dice_case_mean": math.inf}) == accuracy.UNKNOWN
    told = accuracy.sentence({"heldout_infection_dice_case_mean": 0.78, "heldout_cases": math.inf})
    assert told.startswith("On unseen CTs the outlines")


@pytest.mark.parametrize("figure", [1e9, -1e30, 1.5, math.nan, -math.inf])
def test_figures_that_cannot_be_are_passed_over(figure: float) -> None:
    limits = {"heldout_severity_limit_low": figure, "heldout_severity_limit_high": 0.061}
    assert accuracy.sentence({**limits, "heldout_infection_dice_case_mean": figure}) == accuracy.UNKNOWN


@pytest.mark.parametrize("figure", [math.nan, math.inf, -1.0, 0.0, 0.1, 1e9, 1e30])
def test_what_is_found_in_healthy_lungs_is_taken_from_real_ones_where_there_are_some(figure: float) -> None:
    synthetic = {"healthy_phantom_infection_fraction": 0.001}
    drawn = Healthy(0.001, "synthetic healthy chests")
    assert accuracy.found_in_healthy(synthetic) == drawn
    assert accuracy.found_in_healthy({**synthetic, "healthy_infection_fraction": figure}) == drawn
    assert accuracy.found_in_healthy({"healthy_phantom_infection_fraction": figure}) is None
    real = {**synthetic, "healthy_infection_fraction": 0.002}
    assert accuracy.found_in_healthy(real) == Healthy(0.002, "healthy lungs")
    assert accuracy.found_in_healthy({}) is None


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"heldout_severity_limit_low": 0.1, "heldout_severity_limit_high": -0.1}, "low is above"),
        ({"heldout_severity_limit_low": -5.0}, "not within -1 and 1"),
        ({"heldout_cases": 10.5}, "not a whole number"),
        ({"heldout_cases": "ten"}, "not a number"),
        ({"heldout_infection_dice_mean": 0.8}, "is not known"),
        ({"healthy_infection_fraction": 0.1}, "not within 0 and 0.025"),
        ({"anything": float("nan")}, "not a number"),
    ],
)
def test_a_figure_for_readers_that_cannot_be_is_refused_where_a_package_is_made(
    metrics: dict[str, object], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        accuracy.verify(metrics)


def test_what_the_shipped_package_says_is_taken() -> None:
    accuracy.verify({**package.load(None).manifest.metrics, "heldout_cases": 50, "of_our_own": 12.5})
