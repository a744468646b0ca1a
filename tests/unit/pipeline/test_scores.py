"""Scores against a count that is written down another way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom.dataset import Dataset

from pipeline import scores
from pipeline.arrays import CtVolume, LesionMasks, LungMask
from pipeline.types import Region, RegionScores

SHAPE = (3, 4, 5)


def make_volume(hu: np.ndarray, affine: np.ndarray | None = None) -> CtVolume:
    affine = np.diag([2.0, 3.0, 5.0, 1.0]) if affine is None else affine
    return CtVolume(hu.astype(np.int16), affine, tuple(Dataset() for _ in hu))


@settings(max_examples=50, deadline=None)
@given(
    hu=arrays.arrays(np.int16, SHAPE, elements=st.integers(-1024, 3000)),
    labels=arrays.arrays(np.uint8, SHAPE, elements=st.integers(0, 2)),
    infection=arrays.arrays(bool, SHAPE),
    consolidation=arrays.arrays(bool, SHAPE),
)
def test_equations_14_and_15(
    hu: np.ndarray, labels: np.ndarray, infection: np.ndarray, consolidation: np.ndarray
) -> None:
    consolidation &= infection
    labels[0, 0, 0] = 1
    volume = make_volume(hu, np.diag([20.0, 30.0, 50.0, 1.0]))
    measured = scores.measure(volume, LungMask(labels, "x"), LesionMasks(infection, consolidation)).regions
    for region, lung in {Region.BOTH: labels > 0, Region.RIGHT: labels == 1, Region.LEFT: labels == 2}.items():
        found, count = measured[region], int(lung.sum())
        assert found.lung_volume_ml == pytest.approx(count * 30)
        assert found.infection_volume_ml == pytest.approx((infection & lung).sum() * 30)
        assert found.consolidation_volume_ml == pytest.approx((consolidation & lung).sum() * 30)
        assert found.ggo_volume_ml == pytest.approx((infection & ~consolidation & lung).sum() * 30)
        if count < 4 and region is not Region.BOTH:  # 90 ml
            assert found.severity_score is found.consolidation_score is found.ggo_score is None
        else:
            assert found.severity_score == pytest.approx((infection & lung).sum() / count)
            assert found.consolidation_score == pytest.approx((consolidation & lung).sum() / count)
            assert found.ggo_score == pytest.approx((infection & ~consolidation & lung).sum() / count)
        if count:
            assert found.lung_mean_hu == pytest.approx(hu[lung].mean())
        if (infection & lung).any():
            assert found.infection_mean_hu == pytest.approx(hu[infection & lung].mean())


@pytest.mark.parametrize(
    ("voxels", "lung_ml", "severity"),
    [(0, 0.0, None), (3, 90.0, None), (4, 120.0, 0.0)],
    ids=["no", "rest", "lung"],
)
def test_a_lung_that_was_not_found_is_not_the_healthiest(
    voxels: int, lung_ml: float, severity: float | None
) -> None:
    labels = np.ones(SHAPE, np.uint8)
    labels.flat[:voxels] = 2
    nothing = np.zeros(SHAPE, bool)
    volume = make_volume(np.zeros(SHAPE), np.diag([20.0, 30.0, 50.0, 1.0]))
    measured = scores.measure(volume, LungMask(labels, "x"), LesionMasks(nothing, nothing)).regions
    left = measured[Region.LEFT]
    assert left.lung_volume_ml == pytest.approx(lung_ml)
    assert [left.severity_score, left.consolidation_score, left.ggo_score] == [severity] * 3
    assert measured[Region.RIGHT].severity_score == measured[Region.BOTH].severity_score == 0.0


def test_a_region_has_all_scores_or_none() -> None:
    with pytest.raises(ValueError, match="all three scores or none"):
        RegionScores(1.0, 0.0, 0.0, 0.0, None, 0.0, 0.0, None, None)


def test_without_any_lung_there_is_nothing_to_measure() -> None:
    nothing = np.zeros(SHAPE, bool)
    with pytest.raises(ValueError, match="no lung"):
        scores.measure(
            make_volume(np.zeros(SHAPE)), LungMask(np.zeros(SHAPE, np.uint8), "x"), LesionMasks(nothing, nothing)
        )


def test_a_side_without_lung_has_no_mean() -> None:
    labels = np.ones(SHAPE, np.uint8)
    everywhere = np.ones(SHAPE, bool)
    measured = scores.measure(
        make_volume(np.zeros(SHAPE)), LungMask(labels, "x"), LesionMasks(everywhere, everywhere)
    )
    left = measured.regions[Region.LEFT]
    assert left.lung_mean_hu is None
    assert left.infection_mean_hu is None
    assert measured.regions[Region.BOTH].severity_score == 1.0


def test_lesions_outside_the_lungs_do_not_count() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[0, 0, 0] = 2
    everywhere = np.ones(SHAPE, bool)
    measured = scores.measure(
        make_volume(np.zeros(SHAPE)), LungMask(labels, "x"), LesionMasks(everywhere, everywhere & False)
    )
    assert measured.regions[Region.BOTH].infection_volume_ml == pytest.approx(0.03)
    assert measured.regions[Region.BOTH].severity_score == 1.0


def test_volumes_of_an_oblique_grid_use_the_determinant() -> None:
    sheared = np.diag([2.0, 3.0, 5.0, 1.0])
    sheared[1, 2] = 4.0  # slices shifted along y: longer step, the same volume
    labels = np.ones(SHAPE, np.uint8)
    nothing = np.zeros(SHAPE, bool)
    measured = scores.measure(
        make_volume(np.zeros(SHAPE), sheared), LungMask(labels, "x"), LesionMasks(nothing, nothing)
    )
    assert measured.regions[Region.BOTH].lung_volume_ml == pytest.approx(60 * 0.03)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (0.0, "< 5 %"),
        (0.04999, "< 5 %"),
        (0.05, "5-25 %"),
        (0.24999, "5-25 %"),
        (0.25, "25-50 %"),
        (0.5, "25-50 %"),
        (0.50001, "> 50 %"),
        (1.0, "> 50 %"),
    ],
)
def test_class_boundaries(score: float, expected: str) -> None:
    assert scores.severity_class(score) == expected
