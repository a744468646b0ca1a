"""An epoch as batches: draw the images, stack, augment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from numpy.random import Generator

from training import augment, dataset
from training.dataset import Draw, Example
from training.loop import Batch
from training.recipes import Recipe

HALF = 0.5


@dataclass(frozen=True)
class Pool:
    """The examples of a run by kind; volumes and phantoms are drawn from, cohort slices come once per epoch."""

    cohort: Sequence[Example]
    volumes: Sequence[Example] = ()
    phantoms: Sequence[Example] = ()


def unet1_epoch(pool: Pool, recipe: Recipe, rng: Generator, width: int, hu_per_unit: float) -> Iterator[Batch]:
    """Batches of UNet-1: every slice of the cohort once, and the recipe's number from volumes and phantoms."""
    order = dataset.epoch_order(rng, pool.cohort, None)
    order += dataset.epoch_order(rng, pool.volumes, recipe.volume_slices)
    order += dataset.epoch_order(rng, pool.phantoms, recipe.phantom_slices)
    mixed = [order[k] for k in rng.permutation(len(order))]
    yield from _batches(mixed, recipe, rng, width, hu_per_unit)


def unet2_epoch(pool: Pool, recipe: Recipe, rng: Generator, width: int, hu_per_unit: float) -> Iterator[Batch]:
    """Batches of UNet-2: positive and negative images in turn, the rarer kind repeated (Table I)."""
    order = dataset.epoch_order(rng, pool.cohort, None)
    order += dataset.epoch_order(rng, pool.phantoms, recipe.phantom_slices)
    kinds = [[pair for pair in order if pair[0].positive is wanted] for wanted in (True, False)]
    longest = max(len(kind) for kind in kinds)
    shuffled = [[kind[k % len(kind)] for k in rng.permutation(longest)] for kind in kinds if kind]
    interleaved = [pair for pairs in zip(*shuffled, strict=True) for pair in pairs]
    yield from _batches(interleaved, recipe, rng, width, hu_per_unit)


def _batches(
    order: Sequence[tuple[Example, int]], recipe: Recipe, rng: Generator, width: int, hu_per_unit: float
) -> Iterator[Batch]:
    """Full batches, and a last smaller one; a single left-over image joins the batch before."""
    starts = list(range(0, len(order), recipe.batch))
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        draws = [
            dataset.draw(rng, example, centre, width, recipe.stacks, recipe.masked)
            for example, centre in order[start:stop]
        ]
        yield assemble(draws, recipe, rng, hu_per_unit)


def assemble(draws: Sequence[Draw], recipe: Recipe, rng: Generator, hu_per_unit: float) -> Batch:
    """Stack and augment drawn images. Labels are resampled linearly, then > 0.5."""
    changes = [augment.draw(rng, recipe.augmentation) for _ in draws]
    stacks = torch.stack([one.stack() for one in draws])
    infected = torch.stack([one.label() > 0 for one in draws])[:, None].float()
    crop = recipe.crop or (stacks.shape[-2], stacks.shape[-1])
    moved = augment.apply(torch.cat((stacks, infected), dim=1), changes, crop)
    target = moved[:, -1] > HALF
    positive = torch.tensor([bool(one.example.positive) for one in draws])
    return Batch(augment.intensity(moved[:, :-1], changes, hu_per_unit), target, target, positive)
