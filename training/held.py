"""Held-out cases: what the networks and a threshold find in them, scored against their labels.

They go through the code that serves the node and are scored on their own grid with labels that no lung mask has
clipped: what a lung mask misses costs Dice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline import preprocess, segment, specks
from pipeline.arrays import MaskArray
from pipeline.preprocess import Preprocessing
from pipeline.segment import Room
from pipeline.unet import UNet
from training import em
from training.dataset import Example, Source
from training.score import Overlap, overlap

HALF = 0.5
RIVAL_HU = -200.0


@dataclass(frozen=True)
class Held:
    """A held-out case on its own grid and on the network grid; `label` is not None."""

    source: Source
    example: Example
    repeated: bool = False

    @property
    def lung(self) -> MaskArray:
        """Lung mask of the source grid; everything where the setting has none."""
        return np.ones(self.source.hu.shape, np.bool_) if self.source.lung is None else self.source.lung

    def stacks(self, width: int) -> Tensor:
        """Slice indices [slice, width]: real neighbours; a single slice is repeated, and `repeated` forces that."""
        count = len(self.example)
        if count == 1 or self.repeated:
            return torch.arange(count)[:, None].expand(count, width)
        return preprocess.neighbours(range(count), count, width)

    def labelled(self, lowest: int) -> MaskArray:
        """Voxels whose label is at least `lowest`: 1 infection, 2 consolidation."""
        assert self.source.label is not None  # noqa: S101 - prepare() refuses cases without
        mask: MaskArray = self.source.label >= lowest
        return mask


def infected(net: UNet, case: Held, settings: Preprocessing, room: Room) -> Tensor:
    """UNet-1's probability [slice, row, column] on the network grid, 0 outside the lungs."""
    return _predicted(net, case, settings, room) * case.example.lung


def _predicted(net: UNet, case: Held, settings: Preprocessing, room: Room) -> Tensor:
    slices = case.example.values * case.example.lung
    return segment.predict(net, slices, case.stacks(net.arch.slices), settings.slice_order, room)


def on_source(probability: Tensor, case: Held, settings: Preprocessing) -> MaskArray:
    """Probability > ½ on the case's own grid, inside its lungs."""
    where = preprocess.plan(len(case.source.hu), case.source.spacing_mm[0], settings)
    return segment.binary(probability, where, case.lung, HALF)


def score_unet1(net: UNet, held: Sequence[Held], settings: Preprocessing, room: Room) -> list[Overlap]:
    """Infection of each held-out case against its label."""
    return [
        overlap(case.example.name, on_source(infected(net, case, settings, room), case, settings), case.labelled(1))
        for case in held
    ]


Consolidation = Callable[[Held, Tensor], Tensor]


def score_unet2(
    net1: UNet, second: Consolidation, held: Sequence[Held], settings: Preprocessing, room: Room
) -> list[Overlap]:
    """Consolidation inside what UNet-1 found, by `second`: (case, hard region) → probability inside the region."""
    scores = []
    for case in held:
        region = infected(net1, case, settings, room) > HALF
        found = on_source(second(case, region) * region, case, settings)
        scores.append(overlap(case.example.name, found, case.labelled(2)))
    return scores


def by_unet2(net: UNet, settings: Preprocessing, room: Room) -> Consolidation:
    """UNet-2 on the same stacks."""

    def second(case: Held, region: Tensor) -> Tensor:
        return _predicted(net, case, settings, room)

    return second


def by_threshold(settings: Preprocessing) -> Consolidation:
    """The rival: denser than −200 HU."""
    limit = float(settings.normalise(torch.tensor(RIVAL_HU)))
    return lambda case, region: em.threshold_rival(case.example.values, region, limit).float()


def without_specks(second: Consolidation, settings: Preprocessing, least_mm2: float) -> Consolidation:
    """The same with small pieces left out, as the node does (`pipeline.specks`)."""

    def wide(case: Held, region: Tensor) -> Tensor:
        pixel_mm2 = settings.pixel_mm2(case.source.hu.shape, case.source.spacing_mm)
        return specks.without(second(case, region) * region, HALF, pixel_mm2, least_mm2)

    return wide
