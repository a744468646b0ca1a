"""Held-out cases: their stacks, and scores on labels that no lung mask has clipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fixtures.squares import SETTING, write_cohort
from training import cohort, dataset
from training import held as scoring
from training.dataset import Example, Source, prepare
from training.held import Held
from training.score import Overlap, overlap, summary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Cases c0 to c7."""
    return write_cohort(tmp_path / "cohort", "c")


def test_dice_policy_for_empty_cases() -> None:
    empty, full = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    assert overlap("a", empty, empty).dice == 1
    assert overlap("a", full, empty).dice == 0
    assert overlap("a", empty, full).dice == 0
    found = summary([Overlap("a", 0, 0, 0), Overlap("b", 1, 1, 1), Overlap("c", 0, 0, 2)])
    assert found.mean == pytest.approx((1 + 0.5 + 0) / 3)
    assert found.mean_of_labelled == pytest.approx(0.25)
    assert found.pooled == pytest.approx(2 / 6)


def held(slices: int, repeated: bool = False) -> Held:
    values = torch.zeros(slices, 4, 4)
    example = Example("x", values, values.to(torch.uint8), values == 0)
    return Held(Source(None, None, None, None, (5, 1, 1)), example, repeated)  # type: ignore[arg-type]


def test_a_single_slice_is_repeated_and_a_volume_has_neighbours() -> None:
    assert held(1).stacks(3).tolist() == [[0, 0, 0]]
    assert held(2).stacks(3).tolist() == [[-1, 0, 1], [0, 1, -1]]
    assert held(2, repeated=True).stacks(3).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_labels_are_scored_unclipped(folder: Path) -> None:
    """A lung mask that misses half of the lesion costs Dice even if the network is right inside it."""

    def left_half(hu: np.ndarray, _: tuple[float, float, float]) -> np.ndarray:
        return np.broadcast_to((np.arange(64) < 30).astype(np.uint8), hu.shape)

    source = dataset.load(cohort.read(folder)[1], left_half)
    case = Held(source, prepare(source, SETTING.preprocessing))
    right = torch.ones(1, 64, 64) * (case.example.label > 0)
    found = scoring.on_source(right, case, SETTING.preprocessing)
    assert overlap("c", found, case.labelled(1)).dice == pytest.approx(2 / 3)
