"""Overlap figures: per case and pooled, with the policy for empty cases stated once, here.

A case in which neither prediction nor label has a voxel scores 1; one in which only one of them has, 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import MaskArray


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of one case: both, prediction only, label only."""

    case: str
    both: int
    predicted_only: int
    label_only: int

    @property
    def dice(self) -> float:
        """2·|A∩B| / (|A| + |B|); 1 where both are empty."""
        size = 2 * self.both + self.predicted_only + self.label_only
        return 2 * self.both / size if size else 1.0


def overlap(case: str, predicted: MaskArray, label: MaskArray) -> Overlap:
    """Counts of two masks of one grid."""
    both = int(np.count_nonzero(predicted & label))
    return Overlap(case, both, int(np.count_nonzero(predicted)) - both, int(np.count_nonzero(label)) - both)


def pooled_dice(cases: Sequence[Overlap]) -> float:
    """Dice of all voxels of all cases together."""
    both = sum(case.both for case in cases)
    size = 2 * both + sum(case.predicted_only + case.label_only for case in cases)
    return 2 * both / size if size else 1.0


@dataclass(frozen=True)
class DiceSummary:
    """Per case over all cases, the same over the cases whose label is not empty, and pooled."""

    cases: int
    mean: float
    sd: float
    median: float
    mean_of_labelled: float
    pooled: float


def summary(cases: Sequence[Overlap]) -> DiceSummary:
    """Summary of at least one case."""
    dice = np.array([case.dice for case in cases])
    labelled = np.array([case.dice for case in cases if case.both + case.label_only])
    return DiceSummary(
        cases=len(cases),
        mean=float(dice.mean()),
        sd=float(dice.std(ddof=1)) if len(dice) > 1 else 0.0,
        median=float(np.median(dice)),
        mean_of_labelled=float(labelled.mean()) if len(labelled) else float("nan"),
        pooled=pooled_dice(cases),
    )
