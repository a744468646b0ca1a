"""From a CT volume to what the networks see, and their probabilities back onto the source grid.

Works on plain arrays with the axes (slice, row, column) in canonical order, slices caudal to cranial, so that
training and serving share every line. The network grid covers exactly the field of view of the source: its pixel
(0, 0) starts where the source's does and its last one ends where the source's does; with the half-pixel rule
(source = (target + ½)·ratio − ½) a mask comes back without a shift. No step holds the whole volume in floating
point: slices are made and brought back in small blocks.

Every number is a field of `Preprocessing`, which travels in the model package's manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from pipeline.unet import LEVELS

FloatArray = npt.NDArray[np.float64]
SIGMAS = 3.0  # where the Gaussian along z is cut off
BLOCK = 8  # source slices brought back at a time: 8 × 512 × 512 float32 are 8 MB
SAME_MM = 0.01  # table positions are not exact in binary: a spacing so little below a limit is at the limit
ABSENT = -1  # slice index of a neighbour that does not exist: a slice of zeros


class Preprocessing(BaseModel):
    """How a package wants its input.

    Attributes:
        rows, columns: of the network grid, pixels.
        resample_below_mm: a slice spacing below this is resampled along z …
        slice_spacing_mm: … to this one.
        smoothing: σ of the Gaussian along z in units of the new spacing, when (and only when) resampling.
        hu_min, hu_max: values are clipped to these, HU.
        hu_per_unit: normalised value = (HU − hu_min) / hu_per_unit, so that 0 is the fill outside the lungs.
        slice_order: direction of the slices in the networks' stack.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int = Field(default=256, ge=32, le=1024, multiple_of=2**LEVELS)
    columns: int = Field(default=256, ge=32, le=1024, multiple_of=2**LEVELS)
    resample_below_mm: float = Field(default=4.0, ge=0, le=20, allow_inf_nan=False)
    slice_spacing_mm: float = Field(default=5.0, gt=0, le=20, allow_inf_nan=False)
    smoothing: float = Field(default=0.25, ge=0, le=2, allow_inf_nan=False)
    hu_min: float = Field(default=-1024.0, ge=-2048, le=0, allow_inf_nan=False)
    hu_max: float = Field(default=160.0, ge=0, le=4096, allow_inf_nan=False)
    hu_per_unit: float = Field(default=110.0, gt=0, le=4096, allow_inf_nan=False)
    slice_order: Literal["caudal_to_cranial", "cranial_to_caudal"] = "caudal_to_cranial"

    @model_validator(mode="after")
    def _only_downwards(self) -> Preprocessing:
        if self.slice_spacing_mm < self.resample_below_mm:
            raise ValueError("slice_spacing_mm below resample_below_mm would resample up")
        return self

    def resamples(self, spacing_mm: float) -> bool:
        """Whether a series of that slice spacing is resampled along z."""
        return spacing_mm < self.resample_below_mm - SAME_MM

    def rule(self, spacing_mm: float) -> str:
        """The rule along z in words, for a series of that slice spacing."""
        applied = "applied" if self.resamples(spacing_mm) else "not needed"
        target = f"{self.slice_spacing_mm:g} mm, sigma {self.smoothing:g}"
        return f"slices closer than {self.resample_below_mm:g} mm to {target}: {applied}"

    def pixel_mm2(self, shape: tuple[int, ...], spacing_mm: tuple[float, float, float]) -> float:
        """Area of a pixel of the network grid over a source of that shape and spacing (slice, row, column)."""
        return math.prod(shape[1:]) * math.prod(spacing_mm[1:]) / (self.rows * self.columns)

    def normalise(self, hu: Tensor) -> Tensor:
        """HU → network units."""
        return (hu.clamp(self.hu_min, self.hu_max) - self.hu_min) / self.hu_per_unit


@dataclass(frozen=True)
class SlicePlan:
    """Where the network's slices lie among the source's.

    Attributes:
        source: number of source slices.
        count: number of network slices.
        start, step: network slice k lies at source index start + k·step (fractional, may be just outside).
        sigma: of the Gaussian along z, source slices; 0 is none.
    """

    source: int
    count: int
    start: float
    step: float
    sigma: float

    def taps(self, k: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Source slices and weights whose sum is network slice k: linear interpolation of smoothed slices.

        Beyond either end of the source its last slice is repeated.
        """
        position = self.start + k * self.step
        low = int(np.floor(position))
        fraction = position - low
        radius = int(np.ceil(SIGMAS * self.sigma))
        offsets = np.arange(-radius, radius + 1)
        kernel = np.exp(-0.5 * (offsets / self.sigma) ** 2) if radius else np.ones(1)
        kernel /= kernel.sum()
        weights = np.zeros(self.source)
        for shift, share in ((0, 1.0 - fraction), (1, fraction)):
            np.add.at(weights, np.clip(low + shift + offsets, 0, self.source - 1), share * kernel)
        used = np.flatnonzero(weights)
        return used, weights[used].astype(np.float32)

    def nearest(self, k: int) -> int:
        """The source slice nearest to network slice k."""
        return int(np.clip(np.floor(self.start + k * self.step + 0.5), 0, self.source - 1))

    def back(self, first: int, last: int) -> FloatArray:
        """Fractional network indices of the source slices first … last − 1, within the network's slices."""
        return np.clip((np.arange(first, last) - self.start) / self.step, 0.0, self.count - 1.0)


def plan(slices: int, spacing_mm: float, settings: Preprocessing) -> SlicePlan:
    """The z resampling rule: spacing (not SliceThickness) below the limit goes to the package's spacing.

    The network's slices lie centred on the source's, so neither end gets more margin than the other.
    """
    if not settings.resamples(spacing_mm):
        return SlicePlan(source=slices, count=slices, start=0.0, step=1.0, sigma=0.0)
    step = settings.slice_spacing_mm / spacing_mm
    count = max(1, round(slices / step))
    start = ((slices - 1) - (count - 1) * step) / 2
    return SlicePlan(source=slices, count=count, start=start, step=step, sigma=settings.smoothing * step)


def values(hu: npt.NDArray[np.int16], where: SlicePlan, settings: Preprocessing) -> Tensor:
    """HU (slice, row, column) → float32 normalised values [count, rows, columns], not masked."""
    made = torch.empty(where.count, settings.rows, settings.columns)
    for k in range(where.count):
        used, weights = where.taps(k)
        plane = np.tensordot(weights, hu[used].astype(np.float32), 1)
        made[k] = settings.normalise(resize(torch.from_numpy(plane)[None], settings.rows, settings.columns)[0])
    return made


def labels(mask: npt.NDArray[Any], where: SlicePlan, settings: Preprocessing) -> Tensor:
    """A mask or label array of the source, nearest neighbour, on the network grid; keeps its integer type."""
    rows = nearest_indices(mask.shape[1], settings.rows)
    columns = nearest_indices(mask.shape[2], settings.columns)
    planes = np.array([where.nearest(k) for k in range(where.count)], dtype=np.int64)
    return torch.from_numpy(np.ascontiguousarray(mask[np.ix_(planes, rows, columns)]))


def nearest_indices(source: int, target: int) -> npt.NDArray[np.int64]:
    """Source pixel under the centre of each target pixel (half-pixel rule)."""
    return np.asarray(((np.arange(target) + 0.5) * source / target).astype(np.int64))


def resize(planes: Tensor, rows: int, columns: int) -> Tensor:
    """Float planes [plane, row, column] onto another matrix over the same field of view; anti-aliased."""
    if planes.shape[1:] == (rows, columns):
        return planes
    return F.interpolate(planes[None], (rows, columns), mode="bilinear", align_corners=False, antialias=True)[0]


def neighbours(centres: Sequence[int], count: int, width: int) -> Tensor:
    """int64 [centre, width]: the slices around each centre in ascending order, ABSENT beyond both ends."""
    offsets = torch.arange(width) - width // 2
    indices = torch.as_tensor(centres, dtype=torch.int64)[:, None] + offsets[None]
    return indices.masked_fill((indices < 0) | (indices >= count), ABSENT)


def gather(slices: Tensor, indices: Tensor, order: str = "caudal_to_cranial") -> Tensor:
    """[image, width, row, column] stacks of the slices at `indices` [image, width]; ABSENT gives zeros."""
    if order == "cranial_to_caudal":
        indices = indices.flip(1)
    where = indices.to(slices.device)
    stacks = slices[where.clamp(min=0)]
    stacks[where == ABSENT] = 0
    return stacks


def to_source(probability: Tensor, where: SlicePlan, rows: int, columns: int) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of source slices with the probability [count, row, column] of the network grid interpolated to them.

    Linear in all three axes, and thresholded by the caller afterwards: the border then runs between the pixels
    of the network grid instead of in steps of them, and a slice between two network slices gets the surface
    between theirs. At equal grids nothing is interpolated and masks are voxel-exact.
    """
    for first in range(0, where.source, BLOCK):
        block = slice(first, min(first + BLOCK, where.source))
        positions = where.back(block.start, block.stop)
        low = torch.from_numpy(positions.astype(np.int64))
        fraction = torch.from_numpy(positions).float()[:, None, None] - low[:, None, None]
        high = (low + 1).clamp(max=where.count - 1)
        planes = torch.lerp(probability[low].float(), probability[high].float(), fraction)
        yield block, resize(planes, rows, columns)
