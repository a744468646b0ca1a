"""Preprocessing and back: grids keep their place, masks come home, memory stays small."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import preprocess
from pipeline.preprocess import ABSENT, Preprocessing, SlicePlan

DEFAULT = Preprocessing()
SMALL = Preprocessing(rows=64, columns=64)


def ball(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    """A ball around the middle of the field of view."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    return (z**2 + y**2 + x**2) <= radius_mm**2


def home(mask: np.ndarray, where: SlicePlan, wanted: Preprocessing) -> np.ndarray:
    """To the network grid and back."""
    there = preprocess.labels(mask, where, wanted).float()
    back = np.empty(mask.shape, np.bool_)
    for block, planes in preprocess.to_source(there, where, *mask.shape[1:]):
        back[block] = (planes > 0.5).numpy()
    return back


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize(
    ("slices", "spacing_mm", "count", "step"),
    [
        (64, 5.0, 64, 1.0),
        (30, 8.0, 30, 1.0),
        (75, 4.0, 75, 1.0),
        (75, 4.0 - 3e-9, 75, 1.0),  # from positions of 4 mm that are not exact in binary
        (300, 1.0, 60, 5.0),
        (100, 2.5, 50, 2.0),
        (2, 1.0, 1, 5.0),
    ],
)
def test_the_z_rule(slices: int, spacing_mm: float, count: int, step: float) -> None:
    where = preprocess.plan(slices, spacing_mm, DEFAULT)
    assert (where.count, where.step) == (count, pytest.approx(step))
    middle = where.start + where.step * (where.count - 1) / 2
    assert middle == pytest.approx((slices - 1) / 2)
    assert where.sigma == (0 if step == 1 else pytest.approx(step / 4))


@given(
    slices=st.integers(1, 400),
    spacing_mm=st.floats(0.4, 3.98),
)
@settings(max_examples=100, deadline=None)
def test_taps_are_a_mean_around_the_wanted_place(slices: int, spacing_mm: float) -> None:
    where = preprocess.plan(slices, spacing_mm, DEFAULT)
    reach = 3 * where.sigma + 2
    for k in (0, where.count // 2, where.count - 1):
        used, weights = where.taps(k)
        place = where.start + k * where.step
        assert weights.sum() == pytest.approx(1.0, abs=1e-5)
        if reach <= place <= slices - 1 - reach:
            assert float(used @ weights) == pytest.approx(place, abs=1e-3)


def test_smoothing_is_a_gaussian_of_a_quarter_of_the_new_spacing() -> None:
    where = SlicePlan(source=101, count=1, start=50.0, step=8.0, sigma=2.0)
    used, weights = where.taps(0)
    spread = np.sqrt(float((weights * (used - 50.0) ** 2).sum()))
    assert spread == pytest.approx(2.0, rel=0.05)


def test_thick_slices_are_left_alone() -> None:
    hu = np.random.default_rng(1).integers(-1024, 161, (5, 256, 256)).astype(np.int16)
    made = preprocess.values(hu, preprocess.plan(5, 8.0, DEFAULT), DEFAULT)
    np.testing.assert_allclose(made.numpy(), (hu + 1024.0) / 110.0, atol=1e-5)


def test_values_are_clipped_and_scaled() -> None:
    hu = np.full((1, 512, 512), -3000, np.int16)
    hu[0, 256:] = 3000
    made = preprocess.values(hu, preprocess.plan(1, 5.0, DEFAULT), DEFAULT)
    assert made[0, 0, 0] == 0.0
    assert float(made[0, 255, 0]) == pytest.approx(1184 / 110)  # 10.76


@given(
    rows=st.integers(200, 640),
    columns=st.integers(200, 640),
    slices=st.integers(8, 60),
    spacing_mm=st.floats(0.7, 9.0),
)
@settings(max_examples=25, deadline=None)
def test_a_ball_comes_home(rows: int, columns: int, slices: int, spacing_mm: float) -> None:
    pixel = 400.0 / max(rows, columns)
    shape, spacing = (slices, rows, columns), (spacing_mm, pixel, pixel)
    radius = max(45.0, 1.5 * spacing_mm)
    truth = ball(shape, spacing, radius)
    back = home(truth, preprocess.plan(slices, spacing_mm, DEFAULT), DEFAULT)
    assert dice(truth, back) > 0.93
    for axis in range(3):  # and without a shift: within a quarter of the coarser grid's pixel
        truth_at, back_at = (float(np.argwhere(m)[:, axis].mean()) for m in (truth, back))
        coarse = max(1.0, DEFAULT.slice_spacing_mm / spacing_mm) if axis == 0 else max(1.0, shape[axis] / 256)
        assert abs(truth_at - back_at) <= 0.25 * coarse + 0.05


@given(
    slices=st.integers(1, 6),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=20, deadline=None)
def test_an_equal_grid_comes_home_voxel_for_voxel(slices: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((slices, 64, 64)) > 0.5
    np.testing.assert_array_equal(home(mask, preprocess.plan(slices, 5.0, SMALL), SMALL), mask)


def test_labels_are_the_nearest_voxel() -> None:
    label = np.random.default_rng(3).integers(0, 3, (4, 192, 320)).astype(np.uint8)
    made = preprocess.labels(label, preprocess.plan(4, 6.0, SMALL), SMALL)
    assert made.dtype == torch.uint8
    np.testing.assert_array_equal(made.numpy(), label[:, 1::3, 2::5])


def test_neighbours_end_where_the_volume_ends() -> None:
    found = preprocess.neighbours([0, 2, 4], 5, 7)
    assert found.tolist() == [
        [ABSENT, ABSENT, ABSENT, 0, 1, 2, 3],
        [ABSENT, 0, 1, 2, 3, 4, ABSENT],
        [1, 2, 3, 4, ABSENT, ABSENT, ABSENT],
    ]


def test_gather_orders_slices_and_fills_with_zeros() -> None:
    slices = torch.arange(1.0, 4.0)[:, None, None].expand(3, 2, 2)
    indices = torch.tensor([[ABSENT, 0, 1]])
    assert preprocess.gather(slices, indices)[0, :, 0, 0].tolist() == [0.0, 1.0, 2.0]
    assert preprocess.gather(slices, indices, "cranial_to_caudal")[0, :, 0, 0].tolist() == [2.0, 1.0, 0.0]


def test_six_hundred_slices_need_little_memory_beside_the_volume() -> None:
    hu = np.zeros((600, 512, 512), np.int16)  # never touched: the pages are not even there
    where = preprocess.plan(600, 0.6, DEFAULT)
    tracemalloc.start()
    made = preprocess.values(hu, where, DEFAULT)
    numpy_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    blocks = [planes.nbytes for _, planes in preprocess.to_source(made, where, 512, 512)]
    assert made.nbytes + numpy_peak + 3 * max(blocks) < 150e6
    assert len(blocks) == 75


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 250},
        {"slice_spacing_mm": 3.0},
        {"hu_per_unit": 0},
        {"hu_max": float("nan")},
        {"slice_order": "up"},
        {"colour": 1},
    ],
)
def test_impossible_preprocessing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Preprocessing.model_validate(wrong)
