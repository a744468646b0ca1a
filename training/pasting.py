"""Draws with opacities pasted into the lungs of a slice: for the lung network, and for UNet-1 with labels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from pipeline.preprocess import Preprocessing
from pipeline.types import MaskArray
from training import opacities
from training.dataset import Draw
from training.opacities import Opacity
from training.recipes import Recipe

DENSE_HU = -300.0  # what is pasted for UNet-1: where ground glass ends is for experts to say
SATURATED = 0.5  # chance that a slice with opacities is cut off …
CEILING_HU = (10.0, 160.0)  # … at such a HU, as pictures of a lung window are


@dataclass(frozen=True)
class Pasted(Draw):
    """A repeated slice with opacities in its lungs, cut off at `ceiling` (normalised; None: it is not)."""

    settings: Preprocessing = field(default_factory=Preprocessing)
    pasted: tuple[Opacity, ...] = ()
    ceiling: float | None = None

    @property
    def lungs(self) -> MaskArray:
        """[row, column]: the lung mask with what is labelled, which it may have lost."""
        whole = self.example.lung[self.centre] | (self.example.label[self.centre] > 0)
        return np.asarray(whole.numpy(), dtype=np.bool_)

    def stack(self) -> Tensor:
        """[width, row, column] values."""
        plane, lungs = self.example.values[self.centre].numpy(), self.lungs
        plane = opacities.apply(plane, lungs, self.pasted, self.settings)
        if self.ceiling is not None:
            plane = plane.clip(max=self.ceiling)
        if self.masked:
            plane = plane * self.example.lung[self.centre].numpy()
        return torch.from_numpy(plane).expand(len(self.indices), -1, -1)

    def label(self) -> Tensor:
        """[row, column] label of the slice, opacities included."""
        label = self.example.label[self.centre].clone()
        covered = opacities.cover(self.lungs, self.pasted, self.settings)
        label[torch.from_numpy(covered) & (label == 0)] = 1
        return label * self.example.lung[self.centre] if self.masked else label


def ceiling(rng: Generator, chance: float, within_hu: tuple[float, float], settings: Preprocessing) -> float | None:
    """A random value to cut a slice off at; None: it is not."""
    if rng.random() >= chance:
        return None
    return float(settings.normalise(torch.tensor(rng.uniform(*within_hu))))


def perhaps(rng: Generator, drawn: Draw, recipe: Recipe, settings: Preprocessing) -> Draw:
    """The draw, by chance with dense opacities. Only slices that are repeated, of cases whose lungs are known."""
    known = not bool(drawn.example.lung[drawn.centre].all())
    repeated = bool((drawn.indices == drawn.centre).all())
    if rng.random() >= recipe.opacities or not known or not repeated:
        return drawn
    dense = tuple(one for one in opacities.draw(rng) if one.hu > DENSE_HU)
    limit = ceiling(rng, SATURATED, CEILING_HU, settings)
    return Pasted(
        drawn.example, drawn.centre, drawn.indices, drawn.masked, settings, dense, limit if dense else None
    )
