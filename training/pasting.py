"""Draws of the lung network: a slice with opacities pasted into its lungs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from numpy.random import Generator
from torch import Tensor

from pipeline.preprocess import Preprocessing
from training import opacities
from training.dataset import Draw
from training.opacities import Opacity


@dataclass(frozen=True)
class Pasted(Draw):
    """A slice by itself, with opacities in its lungs, cut off at `ceiling` (normalised; None: it is not)."""

    settings: Preprocessing = field(default_factory=Preprocessing)
    pasted: tuple[Opacity, ...] = ()
    ceiling: float | None = None

    def stack(self) -> Tensor:
        """[1, row, column] values."""
        plane, lungs = self.example.values[self.centre].numpy(), self.example.lung[self.centre].numpy()
        plane = opacities.apply(plane, lungs, self.pasted, self.settings)
        return torch.from_numpy(plane if self.ceiling is None else plane.clip(max=self.ceiling))[None]


def ceiling(rng: Generator, chance: float, within_hu: tuple[float, float], settings: Preprocessing) -> float | None:
    """A random value to cut a slice off at; None: it is not."""
    if rng.random() >= chance:
        return None
    return float(settings.normalise(torch.tensor(rng.uniform(*within_hu))))
