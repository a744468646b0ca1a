"""Pasted draws: what is dense is seen inside the lungs only, and a ceiling hides what is denser."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.preprocess import Preprocessing
from training import opacities, pasting
from training.dataset import Example
from training.pasting import Pasted

GRID = Preprocessing(rows=64, columns=64)


@pytest.fixture
def whole() -> Pasted:
    """A square lung, all of it as dense as soft tissue."""
    lung = torch.zeros(1, 64, 64, dtype=torch.bool)
    lung[0, 16:48, 16:48] = True
    example = Example("one", torch.where(lung, 1.5, 9.0), lung.to(torch.uint8), lung)
    one = opacities.draw(np.random.default_rng(1))[0]
    dense = replace(one, kind="whole", both=True, hu=30.0, noise_hu=0.0, soft=0.001, bronchi_hu=None)
    return Pasted(example, 0, torch.tensor([0]), False, GRID, (dense,), None)


def test_what_is_pasted_is_seen_in_the_lungs_and_their_label_stays(whole: Pasted) -> None:
    stack, inside = whole.stack(), whole.example.lung[0]
    assert stack.shape == (1, 64, 64)
    torch.testing.assert_close(stack[0][inside], torch.full_like(stack[0][inside], (30 + 1024) / 110))
    assert torch.equal(stack[0][~inside], whole.example.values[0][~inside])
    assert torch.equal(whole.label(), whole.example.label[0])


def test_a_ceiling_hides_what_is_denser(whole: Pasted) -> None:
    assert replace(whole, pasted=(), ceiling=8.0).stack().max() == 8.0


def test_a_ceiling_is_drawn_by_chance_within_its_bounds() -> None:
    rng = np.random.default_rng(3)
    drawn = [pasting.ceiling(rng, 0.5, (0.0, 76.0), GRID) for _ in range(200)]
    some = [one for one in drawn if one is not None]
    assert 60 < len(some) < 140
    assert 1024 / 110 <= min(some) <= max(some) <= 1100 / 110
