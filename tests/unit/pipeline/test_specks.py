"""Specks of consolidation: what is wide in one slice stays whole, what is small in every slice goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import specks
from pipeline.preprocess import Preprocessing

MASKS = hnp.arrays(np.bool_, (4, 9, 8))
PIXEL_MM2 = 2.5


def lesion() -> np.ndarray:
    """A lesion of 12 pixels in slice 1 with ends of 2 and 1 above it, and a vessel of 2 pixels in every slice."""
    mask = np.zeros((4, 9, 8), np.bool_)
    mask[1, 1:4, 1:5] = True
    mask[2, 2, 2:4] = True
    mask[3, 2, 3] = True
    mask[:, 7, 5:7] = True
    return mask


def test_a_lesion_keeps_its_thin_ends_and_a_vessel_goes_however_long() -> None:
    kept = specks.wide_pieces(lesion(), PIXEL_MM2, 30.0)
    wanted = lesion()
    wanted[:, 7] = False
    np.testing.assert_array_equal(kept, wanted)


@pytest.mark.parametrize(("least_mm2", "kept"), [(5.0, 23), (5.1, 15), (30.0, 15), (30.1, 0)])
def test_the_area_is_that_of_the_largest_slice_in_mm2(least_mm2: float, kept: int) -> None:
    assert specks.wide_pieces(lesion(), PIXEL_MM2, least_mm2).sum() == kept


def test_pieces_that_touch_at_a_corner_are_one_and_parts_of_one_lesion_in_two_slices_are_not_added() -> None:
    mask = np.zeros((2, 4, 8), np.bool_)
    mask[0, 0:2, 0:2] = mask[0, 2:4, 2:4] = True  # 8 pixels that meet at a corner
    mask[0, 0:2, 6:8] = mask[1, 0:2, 6:8] = True  # 4 pixels in each of two slices
    np.testing.assert_array_equal(specks.wide_pieces(mask, 1.0, 8.0)[:, :, :4], mask[:, :, :4])
    assert not specks.wide_pieces(mask, 1.0, 8.0)[:, :, 4:].any()


@given(MASKS, st.floats(0, 40), st.floats(0, 40))
def test_only_pixels_of_the_mask_stay_and_fewer_at_a_larger_area(
    mask: np.ndarray, one: float, other: float
) -> None:
    small, large = (specks.wide_pieces(mask, PIXEL_MM2, area) for area in sorted((one, other)))
    assert mask[small].all()
    assert small[large].all()
    np.testing.assert_array_equal(specks.wide_pieces(mask, PIXEL_MM2, 0), mask)
    again = specks.wide_pieces(large, PIXEL_MM2, max(one, other))
    np.testing.assert_array_equal(again, large)


@given(MASKS, st.floats(0, 40))
def test_a_mirrored_mask_gives_the_mirrored_pieces(mask: np.ndarray, area: float) -> None:
    for axis in range(3):
        mirrored = specks.wide_pieces(np.flip(mask, axis), PIXEL_MM2, area)
        np.testing.assert_array_equal(np.flip(mirrored, axis), specks.wide_pieces(mask, PIXEL_MM2, area))


def test_probabilities_of_specks_are_0_and_all_others_stay() -> None:
    probability = torch.where(torch.from_numpy(lesion()), 0.8, 0.3)
    cleared = specks.without(probability, 0.5, PIXEL_MM2, 30.0)
    vessel = lesion()
    vessel[:, :7] = False
    np.testing.assert_array_equal(cleared.numpy(), np.where(vessel, 0, probability))
    assert specks.without(probability, 0.5, PIXEL_MM2, 0.0) is probability


def test_a_pixel_of_the_network_grid_has_its_share_of_the_field_of_view() -> None:
    settings = Preprocessing(rows=64, columns=128)
    assert settings.pixel_mm2((30, 512, 400), (5.0, 0.5, 0.8)) == pytest.approx((256 / 64) * (320 / 128))
