"""The trend panel as pixels: there only with priors, lines in their colours, labels that do not overlap."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import picture
from pipeline.picture_canvas import AMBER
from pipeline.picture_figures import CONSOLIDATION_RGB, INFECTION_RGB
from pipeline.picture_trend import spread
from pipeline.priors import Prior, Priors, Shares
from pipeline.types import Region
from tests.fixtures.results import make_analysis, make_context, make_prior

ANALYSIS = make_analysis()
LIKE = make_prior("2020-01-01", 0.2, 0.1)  # obtained as the analysis is


def panel(*priors: Prior) -> npt.NDArray[np.uint8]:
    page = np.asarray(picture.render(ANALYSIS, make_context(priors=Priors(priors, "this node"))))
    return page[1000:]


def count(shown: npt.NDArray[np.uint8], rgb: tuple[int, int, int]) -> int:
    return int((shown == rgb).all(axis=-1).sum())


def test_without_priors_the_page_is_as_long_as_ever() -> None:
    assert panel().shape[0] == 0
    assert np.asarray(picture.render(ANALYSIS, make_context())).shape == (1000, 1600, 3)


def test_both_lines_are_drawn_and_grow_with_the_number_of_priors() -> None:
    one = panel(LIKE)
    six = panel(*(make_prior(f"2020-0{month}-01", 0.1 * month, 0.05) for month in (1, 2)), LIKE)
    for rgb in (INFECTION_RGB, CONSOLIDATION_RGB):
        assert count(one, rgb) > 500
        assert count(six, rgb) > 500
    assert count(one, AMBER) == 0


def test_what_is_not_comparable_is_hollow_and_told_in_amber() -> None:
    other = make_prior("2020-01-01", 0.2, 0.1, technique=LIKE.technique.__class__(LIKE.technique.model))
    assert count(panel(other), AMBER) > 100
    assert count(panel(other), INFECTION_RGB) < count(panel(LIKE), INFECTION_RGB)


def test_many_long_warnings_stay_inside_the_page() -> None:
    lungs = LIKE.technique.__class__(LIKE.technique.model, lungs="a method with a long name " * 8)
    many = panel(*(make_prior(f"20{year}-01-01", 0.9, 0.8, technique=lungs) for year in range(10, 20)))
    assert (many[-22:].max(axis=-1) < 60).all()  # below the panel is background
    assert count(many, AMBER) > 100


def test_a_prior_in_which_both_lungs_were_empty_is_drawn() -> None:
    assert count(panel(make_prior("2020-01-01", 0.0, 0.0)), INFECTION_RGB) > 500


def test_a_lung_that_was_not_measured_interrupts_nothing() -> None:
    shares = {**dict.fromkeys(Region, Shares(0.1, 0.1)), Region.LEFT: Shares(None, None)}
    assert count(panel(make_prior("2020-01-01", 0.1, 0.1, shares=shares)), INFECTION_RGB) > 500


def test_a_lung_that_was_not_measured_then_is_told_in_amber() -> None:
    """The score of both lungs was then that of one."""
    one = make_prior("2020-01-01", 0.2, 0.1, shares={**LIKE.shares, Region.LEFT: Shares(None, None)})
    assert (count(panel(LIKE), AMBER), count(panel(one), AMBER) > 100) == (0, True)


@pytest.mark.parametrize(
    ("days", "places"),
    [([0], [300]), ([0, 10], [0, 600]), ([0, 0, 0], [0, 112, 600]), ([0, 300, 600], [0, 300, 600])],
)
def test_places_in_time(days: list[int], places: list[int]) -> None:
    assert spread(days, 600) == places


@given(st.lists(st.integers(0, 4000), min_size=2, max_size=13))
def test_labels_never_overlap_more_than_they_must(days: list[int]) -> None:
    ordered = sorted(day - min(days) for day in days)
    places = spread(ordered, 780)
    gap = min(112, 780 // (len(days) - 1))
    assert places[0] >= 0
    assert places[-1] == 780
    assert all(other - one >= gap for one, other in pairwise(places))
