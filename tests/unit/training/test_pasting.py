"""Pasted draws: what is pasted is labelled, the mask still hides, nothing changes where nothing may be pasted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.preprocess import Preprocessing
from training import opacities, pasting
from training.dataset import Draw, Example
from training.pasting import Pasted
from training.recipes import Recipe

GRID = Preprocessing(rows=64, columns=64)
ALWAYS = Recipe(name="r", epochs=1, rate=1e-3, opacities=1.0)


@pytest.fixture
def example() -> Example:
    """One slice: a square lung with a labelled corner that the mask has lost."""
    lung = torch.zeros(1, 64, 64, dtype=torch.bool)
    lung[0, 16:48, 16:48] = True
    label = torch.zeros(1, 64, 64, dtype=torch.uint8)
    label[0, 40:48, 40:48] = 2
    lung[label > 0] = False
    return Example("one", torch.where(lung, 1.5, 9.0), label, lung)


def drawn(example: Example, masked: bool = False, repeated: bool = True) -> Draw:
    indices = torch.zeros(7, dtype=torch.int64) if repeated else torch.tensor([-1, -1, -1, 0, -1, -1, -1])
    return Draw(example, 0, indices, masked)


def whole(example: Example, masked: bool) -> Pasted:
    """The whole lung as dense as soft tissue."""
    one = opacities.draw(np.random.default_rng(1))[0]
    dense = replace(one, kind="whole", both=True, hu=30.0, noise_hu=0.0, soft=0.001, bronchi_hu=None)
    draw = drawn(example, masked)
    return Pasted(draw.example, 0, draw.indices, masked, GRID, (dense,), None)


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_pasted_is_seen_in_every_slice_and_labelled(example: Example, masked: bool) -> None:
    made = whole(example, masked)
    stack, label = made.stack(), made.label()
    assert stack.shape == (7, 64, 64)
    assert torch.equal(stack[0], stack[6])
    inside = example.lung[0]
    torch.testing.assert_close(stack[3][inside], torch.full_like(stack[3][inside], (30 + 1024) / 110))
    assert bool((label[inside] == 1).all())
    corner = example.label[0] > 0
    assert bool((label[corner] == (0 if masked else 2)).all())
    outside = ~inside & ~corner
    assert torch.equal(
        stack[3][outside], torch.zeros_like(stack[3])[outside] if masked else example.values[0][outside]
    )
    assert not label[outside].any()


def test_a_ceiling_hides_what_is_denser(example: Example) -> None:
    made = replace(whole(example, False), pasted=(), ceiling=8.0)
    assert made.stack().max() == 8.0


def test_only_dense_opacities_are_pasted_for_unet_1(example: Example) -> None:
    rng = np.random.default_rng(5)
    made = [pasting.perhaps(rng, drawn(example), ALWAYS, GRID) for _ in range(60)]
    kept = [one for each in made if isinstance(each, Pasted) for one in each.pasted]
    assert len(kept) > 20
    assert all(one.hu > pasting.DENSE_HU for one in kept)


def test_nothing_is_pasted_without_known_lungs_or_into_real_neighbours(example: Example) -> None:
    unknown = replace(example, lung=torch.ones_like(example.lung))
    for draw in (drawn(unknown), drawn(example, repeated=False)):
        assert pasting.perhaps(np.random.default_rng(0), draw, ALWAYS, GRID) is draw


def test_a_recipe_without_opacities_draws_as_before(example: Example) -> None:
    never = Recipe(name="r", epochs=1, rate=1e-3)
    draw = drawn(example)
    assert pasting.perhaps(np.random.default_rng(0), draw, never, GRID) is draw
