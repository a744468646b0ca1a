"""Key slices and outlines."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from pipeline import keyslices
from pipeline.arrays import LesionMasks
from tests.fixtures.results import make_analysis, no_lesions


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_an_outline_encloses_its_region_without_the_holes(mask: np.ndarray) -> None:
    """The area of the polygon is the number of pixels of the filled region.

    A gap that touches the outside by a corner is no hole: the outline walks around it.
    """
    labels, count = ndimage.label(mask)
    found = list(keyslices.regions(mask))
    assert len(found) == count
    assert sum(region.pixels for region in found) == mask.sum()
    assert [region.pixels for region in found] == sorted((region.pixels for region in found), reverse=True)
    corners = np.ones((3, 3), bool)
    filled = sorted(ndimage.binary_fill_holes(labels == label, corners).sum() for label in range(1, count + 1))
    areas = []
    for region in found:
        x, y = region.outline.T
        areas.append((x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2)
        steps = np.diff(region.outline, axis=0)
        assert (np.count_nonzero(steps, axis=1) == 1).all()
        assert (region.outline[0] == region.outline[-1]).all()
    assert sorted(areas) == filled


def test_the_outline_of_one_pixel() -> None:
    (region,) = keyslices.regions(np.array([[False, False, False], [False, False, True]]))
    assert region.outline.tolist() == [[2, 1], [3, 1], [3, 2], [2, 2], [2, 1]]


def test_key_slices_hold_lesions_and_lie_apart() -> None:
    analysis = make_analysis()
    chosen = keyslices.lesion_slices(analysis, 4)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 4
    assert analysis.lesions.infection[chosen].any(axis=(1, 2)).all()
    fullest = analysis.lesions.infection.sum(axis=(1, 2)).argmax()
    assert min(abs(int(fullest) - place) for place in chosen) <= 1


def test_a_lesion_on_one_slice_is_found_and_the_rest_is_spread_over_the_lungs() -> None:
    def one_slice(masks: LesionMasks) -> LesionMasks:
        thin = np.zeros_like(masks.infection)
        thin[9] = masks.infection[9]
        return LesionMasks(thin, thin)

    analysis = make_analysis(lesions=one_slice)
    assert keyslices.lesion_slices(analysis) == [9]
    shown = keyslices.shown_slices(analysis)
    assert 9 in shown
    assert len(shown) == keyslices.COUNT
    assert analysis.lungs.labels[shown].any(axis=(1, 2)).all()


def test_a_healthy_chest_is_shown_from_end_to_end() -> None:
    analysis = make_analysis(lesions=no_lesions)
    assert keyslices.lesion_slices(analysis) == []
    shown = keyslices.shown_slices(analysis)
    assert len(shown) == keyslices.COUNT
    assert max(shown) - min(shown) > 10


def test_source_index_follows_the_flip() -> None:
    for position in ("HFS", "FFS"):
        analysis = make_analysis(patient_position=position)
        marked = np.zeros(analysis.volume.hu.shape, bool)
        marked[3] = True
        place = keyslices.source_index(analysis, 3)
        assert analysis.volume.to_source(marked)[place].all()
