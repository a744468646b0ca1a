"""Augmentation: the draw apart from its application, so that a draw can be repeated, printed and tested.

One affine resampling in the plane per image (rotation, shift, zoom, flips, crop), outside = 0 = −1024 HU; labels
alike, then > 0.5. Intensity changes are additive in HU and leave the fill alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from numpy.random import Generator
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class Augmentation(BaseModel):
    """Ranges of the random draws; the defaults are the paper's.

    Attributes:
        rotation_deg: uniform in ±.
        shift: uniform in ±, fraction of the field of view, per axis.
        zoom: scale uniform in 1 ±, per axis.
        flip_rows, flip_columns: chance of mirroring.
        shift_hu: uniform in ±, one offset per image inside what is not fill.
        noise_hu: σ uniform in 0 …, white noise inside what is not fill.
        sharp: cubic interpolation instead of linear, which blurs (σ about half a pixel): a network that has seen
            nothing else is weaker on images as sharp as those it is made for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rotation_deg: float = Field(default=90.0, ge=0, le=180)
    shift: float = Field(default=0.1, ge=0, le=0.5)
    zoom: float = Field(default=0.1, ge=0, le=0.5)
    flip_rows: float = Field(default=0.5, ge=0, le=1)
    flip_columns: float = Field(default=0.5, ge=0, le=1)
    shift_hu: float = Field(default=0.0, ge=0, le=300)
    noise_hu: float = Field(default=0.0, ge=0, le=200)
    sharp: bool = False


@dataclass(frozen=True)
class Change:
    """One draw: angle in radians, shift and zoom as (row, column), mirrored axes, offsets in HU, cubic or not."""

    angle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    zoom: tuple[float, float] = (1.0, 1.0)
    flip: tuple[bool, bool] = (False, False)
    offset_hu: float = 0.0
    noise_hu: float = 0.0
    noise_seed: int = 0
    sharp: bool = False


def draw(rng: Generator, ranges: Augmentation) -> Change:
    """One random change."""
    limit = math.radians(ranges.rotation_deg)
    return Change(
        angle=rng.uniform(-limit, limit),
        shift=(rng.uniform(-ranges.shift, ranges.shift), rng.uniform(-ranges.shift, ranges.shift)),
        zoom=(rng.uniform(1 - ranges.zoom, 1 + ranges.zoom), rng.uniform(1 - ranges.zoom, 1 + ranges.zoom)),
        flip=(bool(rng.random() < ranges.flip_rows), bool(rng.random() < ranges.flip_columns)),
        offset_hu=rng.uniform(-ranges.shift_hu, ranges.shift_hu),
        noise_hu=rng.uniform(0, ranges.noise_hu),
        noise_seed=int(rng.integers(0, 2**31)),
        sharp=ranges.sharp,
    )


def apply(images: Tensor, changes: Sequence[Change], crop: tuple[int, int]) -> Tensor:
    """[image, channel, row, column] float → the same with `crop` (rows, columns) around the moved centre.

    Images of one batch are resampled alike: sharply where each of them is to be.
    """
    matrices = torch.stack([_matrix(change, images.shape[-2:], crop) for change in changes]).to(images.device)
    grid = F.affine_grid(matrices, [len(images), 1, *crop], align_corners=False)
    if not all(change.sharp for change in changes):
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    found = F.grid_sample(images, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    return found.clamp(min=0).minimum(images.amax(dim=(2, 3), keepdim=True))  # cubic interpolation overshoots


def _matrix(change: Change, size: Sequence[int], crop: tuple[int, int]) -> Tensor:
    """2×3 matrix from output to input, in the normalised (column, row) coordinates of `affine_grid`.

    The rotation is in pixels of the network grid; each pixel counts as square.
    """
    rows, columns = size
    cos, sin = math.cos(change.angle), math.sin(change.angle)
    out_row = crop[0] / 2 / change.zoom[0] * (-1 if change.flip[0] else 1)
    out_column = crop[1] / 2 / change.zoom[1] * (-1 if change.flip[1] else 1)
    return torch.tensor(
        [
            [cos * out_column / (columns / 2), -sin * out_row / (columns / 2), -2 * change.shift[1]],
            [sin * out_column / (rows / 2), cos * out_row / (rows / 2), -2 * change.shift[0]],
        ],
        dtype=torch.float32,
    )


def intensity(stacks: Tensor, changes: Sequence[Change], hu_per_unit: float) -> Tensor:
    """Offset and noise on [image, slice, row, column] normalised values; the fill (0) stays 0."""
    changed = stacks.clone()
    for image, change in zip(changed, changes, strict=True):
        added = torch.full_like(image, change.offset_hu)
        if change.noise_hu > 0:
            source = torch.Generator(image.device).manual_seed(change.noise_seed)
            added += change.noise_hu * torch.randn(image.shape, generator=source, device=image.device)
        image += added / hu_per_unit * (image > 0)
    return changed.clamp_(min=0)
