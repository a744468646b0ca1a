"""An epoch as plans of batches: all that is random is drawn here; a plan is made into a batch where it is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from numpy.random import Generator
from torch import Tensor

from training import augment, dataset
from training.augment import Change
from training.dataset import Draw, Example
from training.recipes import Recipe

HALF = 0.5
LEAST = 2  # images in a batch: a single one has poor statistics


@dataclass(frozen=True)
class Batch:
    """What a step sees: stacks [image, slice, row, column]; target and region [image, row, column].

    `region` (bool) is the infected region m of the EM, `positive` [image] the image-level label z; `target` is
    bool, or whatever an E-step puts there.
    """

    stacks: Tensor
    target: Tensor
    region: Tensor
    positive: Tensor

    def __len__(self) -> int:
        return len(self.stacks)

    def part(self, images: slice) -> Batch:
        """Some of the images."""
        return Batch(self.stacks[images], self.target[images], self.region[images], self.positive[images])


@dataclass(frozen=True)
class Plan:
    """A batch before it is made: which images, changed how. Nothing random is left in it."""

    draws: Sequence[Draw]
    changes: Sequence[Change]
    crop: tuple[int, int] | None
    hu_per_unit: float

    def __len__(self) -> int:
        return len(self.draws)

    def share(self, rank: int, ranks: int) -> Plan:
        """Every `ranks`-th image from `rank` on."""
        mine = slice(rank, None, ranks)
        return Plan(self.draws[mine], self.changes[mine], self.crop, self.hu_per_unit)

    def plus(self, other: Plan) -> Plan:
        """Both in one batch."""
        draws, changes = [*self.draws, *other.draws], [*self.changes, *other.changes]
        return Plan(draws, changes, self.crop, self.hu_per_unit)

    def make(self, device: torch.device) -> Batch:
        """Stack on the CPU, augment on the device, channels last. Labels are resampled like images, then > 0.5."""
        stacks = torch.stack([one.stack() for one in self.draws])
        infected = torch.stack([one.label() > 0 for one in self.draws])[:, None]
        images = torch.cat((stacks.to(device), infected.to(device).float()), dim=1)
        crop = self.crop or (stacks.shape[-2], stacks.shape[-1])
        moved = augment.apply(images, self.changes, crop)
        target = moved[:, -1] > HALF
        positive = torch.tensor([bool(one.example.positive) for one in self.draws], device=device)
        changed = augment.intensity(moved[:, :-1], self.changes, self.hu_per_unit)
        return Batch(changed.contiguous(memory_format=torch.channels_last), target, target, positive)


@dataclass(frozen=True)
class Pool:
    """The examples of a run by kind; volumes and phantoms are drawn from, cohort slices come once per epoch."""

    cohort: Sequence[Example]
    volumes: Sequence[Example] = ()
    phantoms: Sequence[Example] = ()


def unet1_epoch(pool: Pool, recipe: Recipe, rng: Generator, width: int, hu_per_unit: float) -> Iterator[Plan]:
    """Batches of UNet-1: every slice of the cohort once, and the recipe's number from volumes and phantoms."""
    order = dataset.epoch_order(rng, pool.cohort, None)
    order += dataset.epoch_order(rng, pool.volumes, recipe.volume_slices)
    order += dataset.epoch_order(rng, pool.phantoms, recipe.phantom_slices)
    mixed = [order[k] for k in rng.permutation(len(order))]
    yield from _plans(mixed, recipe, rng, width, hu_per_unit)


def unet2_epoch(pool: Pool, recipe: Recipe, rng: Generator, width: int, hu_per_unit: float) -> Iterator[Plan]:
    """Batches of UNet-2: positive and negative images in turn, the rarer kind repeated (Table I)."""
    order = dataset.epoch_order(rng, pool.cohort, None)
    order += dataset.epoch_order(rng, pool.phantoms, recipe.phantom_slices)
    kinds = [[pair for pair in order if pair[0].positive is wanted] for wanted in (True, False)]
    longest = max(len(kind) for kind in kinds)
    shuffled = [[kind[k % len(kind)] for k in rng.permutation(longest)] for kind in kinds if kind]
    interleaved = [pair for pairs in zip(*shuffled, strict=True) for pair in pairs]
    yield from _plans(interleaved, recipe, rng, width, hu_per_unit)


def _plans(
    order: Sequence[tuple[Example, int]], recipe: Recipe, rng: Generator, width: int, hu_per_unit: float
) -> Iterator[Plan]:
    """Full batches, and a last smaller one; a single left-over image joins the batch before."""
    starts = list(range(0, len(order), recipe.batch))
    if len(starts) > 1 and len(order) - starts[-1] < LEAST:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        draws = [
            dataset.draw(rng, example, centre, width, recipe.stacks, recipe.masked)
            for example, centre in order[start:stop]
        ]
        changes = [augment.draw(rng, recipe.augmentation) for _ in draws]
        yield Plan(draws, changes, recipe.crop, hu_per_unit)
