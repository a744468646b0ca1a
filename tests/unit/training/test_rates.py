"""The counts behind figures 3, 4 and 6 against the plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.preprocess import Preprocessing
from training import em, rates

GRID = Preprocessing(rows=32, columns=32)


@pytest.fixture
def voxels() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    hu = rng.integers(-1024, 400, 500).astype(np.int16)
    return hu, rng.random(500).astype(np.float32), rng.random(500) < 0.3


def test_the_sweep_is_the_e_step_of_training(voxels: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    hu, f, solid = voxels
    made = rates.sweep(hu, f, solid, 7, GRID)
    x = GRID.normalise(torch.from_numpy(hu).double())[None, None]
    ones = torch.ones_like(x)
    for i, b2 in enumerate(rates.B2):
        for j, k2 in enumerate(rates.K2):
            prior = em.intensity_prior(x, b2, k2)
            y = em.e_step(torch.from_numpy(f).double()[None, None], prior, ones, torch.ones(1))[0, 0].numpy()
            both = int((y & solid).sum())
            expected = [both, int(y.sum()) - both, int(solid.sum()) - both + 7]
            assert np.abs(made[i, j] - expected).max() <= 1, "a voxel may lie on the limit to rounding"
        alone = x[0, 0].numpy() > b2
        assert made[i, -1].tolist()[:2] == [int((alone & solid).sum()), int((alone & ~solid).sum())]


def test_an_empty_region_misses_everything() -> None:
    empty = np.zeros(0)
    made = rates.sweep(empty.astype(np.int16), empty.astype(np.float32), empty.astype(bool), 9, GRID)
    assert (made == [0, 0, 9]).all()


def test_rates_are_of_the_labelled_infection_alone() -> None:
    label = np.zeros((1, 32, 32), np.uint8)
    label[0, 4:12, 4:12] = 1
    label[0, 4:8, 4:12] = 2
    found = np.zeros(label.shape, bool)
    found[0, 6:10, 4:12] = True
    found[0, 20:30, 20:30] = True  # outside the label: neither true nor false here
    made = rates.rates(found, label, GRID)
    assert (made.positives, made.negatives, made.true, made.false) == (32, 32, 16, 16)
    assert (made.tpr, made.fpr) == (0.5, 0.5)


def test_false_positives_by_distance_are_those_that_a_dilation_leaves() -> None:
    rng = np.random.default_rng(5)
    label = (rng.random((2, 32, 32)) < 0.8).astype(np.uint8)
    label[0, 10:14, 10:14] = 2
    found = rng.random(label.shape) < 0.5
    made = rates.rates(found, label, GRID)
    rows, columns = np.mgrid[-9:10, -9:10]
    for reach in range(rates.DISTANCES):
        disk = rows**2 + columns**2 <= reach**2
        grown = np.stack([ndimage.binary_dilation(plane == 2, disk) for plane in label])
        left = (label == 1) & ~grown
        assert made.negatives_by[reach] == left.sum()
        assert made.false_by[reach] == (left & found).sum()


def test_a_pixel_of_distance_is_one_of_the_network_grid() -> None:
    label = np.ones((1, 64, 64), np.uint8)
    label[0, 0] = 2
    made = rates.rates(np.ones(label.shape, bool), label, GRID)
    assert made.negatives_by[1] == (63 - 2) * 64, "two rows of 64 are one of 32"


def test_without_positives_or_negatives_there_is_no_rate() -> None:
    made = rates.rates(np.zeros((1, 32, 32), bool), np.zeros((1, 32, 32), np.uint8), GRID)
    assert np.isnan(made.tpr)
    assert np.isnan(made.fpr)
