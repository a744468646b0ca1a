"""What a reader is told about the accuracy of the model."""

from __future__ import annotations

from pipeline import accuracy, package


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
