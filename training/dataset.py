"""Prepared cases in memory, and what an epoch draws from them.

The seven-slice trap: a network trained on one slice repeated seven times fails on real neighbours, and one
trained on slices without neighbours learns nothing from six of its channels. So every draw picks a kind of
stack by chance (`StackMix`): real neighbours where the case is a volume, the slice repeated, and either of them
with neighbours dropped at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pipeline import preprocess
from pipeline.arrays import HuArray, LabelArray, MaskArray
from pipeline.preprocess import Preprocessing
from training import verify
from training.cohort import Case
from training.errors import CohortError

Lungs = Callable[[HuArray, tuple[float, float, float]], LabelArray]


@dataclass(frozen=True)
class Source:
    """A case as it lies on disk: canonical arrays (slice, row, column), spacing (slice, row, column) in mm."""

    case: Case
    hu: HuArray
    label: LabelArray | None
    lung: MaskArray | None
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Example:
    """A case on the network grid, axes [slice, row, column].

    `values` float32 normalised, `label` uint8 0/1/2, `lung` bool: all True in a setting without lung mask.
    """

    name: str
    values: Tensor
    label: Tensor
    lung: Tensor
    positive: bool | None = None

    def __len__(self) -> int:
        return len(self.values)


class StackMix(BaseModel):
    """Chances of the kinds of stacks.

    Attributes:
        repeat_single: an image of one slice is repeated (else its neighbours are absent).
        repeat_volume: a slice of a volume is repeated (else it has its real neighbours).
        drop: the neighbours beyond a random distance on a random side are absent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    repeat_single: float = Field(default=1.0, ge=0, le=1)
    repeat_volume: float = Field(default=0.0, ge=0, le=1)
    drop: float = Field(default=0.0, ge=0, le=1)


def load(case: Case, lungs: Lungs | None) -> Source:
    """Read a case; `lungs` makes its mask where given. Raises CohortError with its faults (`verify.labelled`)."""
    try:
        image, drawn = verify.labelled(case)
    except CohortError as error:
        raise CohortError(f"{case.name}: {error}") from error
    hu = np.clip(np.rint(image.array), -1024, 3071).astype(np.int16)
    label = drawn.array.astype(np.uint8) if drawn is not None else None
    lung = None if lungs is None else lungs(hu, image.spacing_mm) > 0
    return Source(case, hu, label, lung, image.spacing_mm)


def prepare(source: Source, settings: Preprocessing) -> Example:
    """The case on the network grid, by the code that serves the node. Raises CohortError without a label."""
    if source.label is None:
        raise CohortError(f"{source.case.name} has no label")
    where = preprocess.plan(len(source.hu), source.spacing_mm[0], settings)
    label = preprocess.labels(source.label, where, settings)
    lung = torch.ones(label.shape, dtype=torch.bool)
    if source.lung is not None:
        lung = preprocess.labels(source.lung, where, settings)
    return Example(
        source.case.name,
        preprocess.values(source.hu, where, settings),
        label,
        lung,
        source.case.consolidation,
    )


@dataclass(frozen=True)
class Draw:
    """One image of an epoch: which slice, its neighbours' indices [width], and whether the lung mask is applied."""

    example: Example
    centre: int
    indices: Tensor
    masked: bool

    def stack(self) -> Tensor:
        """[width, row, column] values."""
        used = torch.unique(self.indices)
        used = used[used != preprocess.ABSENT]
        slices = self.example.values[used]
        if self.masked:
            slices = slices * self.example.lung[used]
        local = torch.where(self.indices == preprocess.ABSENT, self.indices, torch.searchsorted(used, self.indices))
        return preprocess.gather(slices, local[None])[0]

    def label(self) -> Tensor:
        """[row, column] label of the centre slice; where the mask is applied, only what it leaves to be seen."""
        label = self.example.label[self.centre]
        return label * self.example.lung[self.centre] if self.masked else label


def draw(rng: Generator, example: Example, centre: int, width: int, mix: StackMix, masked: float) -> Draw:
    """Choose the kind of stack of one image."""
    single = len(example) == 1
    indices = preprocess.neighbours([centre], len(example), width)[0]
    if rng.random() < (mix.repeat_single if single else mix.repeat_volume):
        indices = torch.full((width,), centre)
    if rng.random() < mix.drop:
        reach = int(rng.integers(0, width // 2))
        offsets = torch.arange(width) - width // 2
        side = int(rng.choice([-1, 1]))
        indices = indices.masked_fill(offsets * side > reach, preprocess.ABSENT)
    return Draw(example, centre, indices, bool(rng.random() < masked))


def epoch_order(rng: Generator, examples: Sequence[Example], per_epoch: int | None) -> list[tuple[Example, int]]:
    """(example, slice) pairs of an epoch: every slice once, or `per_epoch` drawn with every case equally likely."""
    if per_epoch is None:
        return [(example, k) for example in examples for k in range(len(example))]
    if not examples:
        return []
    chosen = rng.integers(0, len(examples), per_epoch)
    return [(examples[i], int(rng.integers(0, len(examples[i])))) for i in chosen]
