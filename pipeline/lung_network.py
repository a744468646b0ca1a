"""A package's lung network: a small 2D UNet that finds lung however dense, slice by slice.

A threshold loses consolidated lung, which is what the scores measure. The network has learnt where a lung ends from
slices with opacities drawn into them (`training/lungs.py`). It sees one slice at a time, normalised as for the
package's other networks, without a mask; what it finds is joined with the aerated lung (`lung_builtin`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from pipeline import device as devices
from pipeline import preprocess, segment
from pipeline.arrays import MaskArray
from pipeline.lung_air import Floats
from pipeline.package import ModelPackage, Thresholds
from pipeline.preprocess import Preprocessing
from pipeline.segment import Room
from pipeline.types import PipelineSettings
from pipeline.unet import UNet

WIDE = np.hypot(*np.indices((5, 5)) - 2) <= 2  # a disc of 5 of the network's pixels across


def of(package: ModelPackage, settings: PipelineSettings) -> LungNetwork | None:
    """A package's lung network, ready to run; None where it has none. Raises ModelError for an absent device."""
    entry = package.manifest.lungs
    if package.lungs is None or entry is None:
        return None
    room = Room(devices.choose(settings.device), settings.batch_slices)
    return LungNetwork(package.lungs, entry.preprocessing, package.manifest.thresholds, room, entry.mirrored)


@dataclass(frozen=True)
class LungNetwork:
    """The network, where it runs, and whether it is asked about the mirrored slice too."""

    net: UNet
    settings: Preprocessing
    thresholds: Thresholds
    room: Room
    mirrored: bool = False

    def finds(self, hu: Floats) -> MaskArray:
        """Where lung is more likely than the thresholds, on the grid of `hu` (slice, row, column), HU."""
        settings = self.settings
        seen = settings.normalise(preprocess.resize(torch.from_numpy(hu), settings.rows, settings.columns))
        found = self._likely(seen)
        if self.mirrored:
            found = (found + self._likely(seen.flip(-1)).flip(-1)) / 2
        if self.thresholds.lungs_if_wide is not None:
            found = torch.where(wide(found, self.thresholds.lungs_if_wide, self.thresholds.lungs), 1.0, found)
        return np.asarray(preprocess.resize(found, *hu.shape[1:]).numpy() > self.thresholds.lungs)

    def _likely(self, seen: Tensor) -> Tensor:
        """Probability of lung, slice by slice."""
        each = torch.arange(len(seen))[:, None]
        return segment.predict(self.net, seen, each, self.settings.slice_order, self.room)


def wide(probability: Tensor, low: float, high: float) -> Tensor:
    """Where a probability [slice, row, column] lies between the thresholds over a wide area; bool.

    Along every border of a lung runs a rim of a pixel or two in which the network is not sure. Where it is unsure
    over a wider area, there is dense lung of a kind that it has not seen: to lose it costs more than to take it.
    """
    unsure = ((probability > low) & (probability <= high)).numpy()
    return torch.from_numpy(ndimage.binary_opening(unsure, WIDE[None]))
