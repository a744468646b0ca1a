"""A synthetic chest CT with lesions of known size, for the demo, the self-test, the tests and training.

`make` draws it on the canonical grid of `pipeline.types`; `write_series` writes it as CT Image Storage in any
patient position. The same specification and seed give the same voxels, and the same options the same files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.phantom_chest import (
    DEPTH_MM,
    HEIGHT_MM,
    WIDTH_MM,
    Blob,
    Drawn,
    Slab,
    draw,
    grow_vessels,
)
from pipeline.phantom_series import SeriesOptions, as_volume, write_series
from pipeline.types import Affine, HuArray, LesionMasks, Lung, LungMask

__all__ = ["Lesion", "Phantom", "PhantomSpec", "SeriesOptions", "as_volume", "lesions_in", "make", "write_series"]

SLAB_SLICES = 16  # drawn at a time, so that 600 slices need little more memory than their HU
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Lesion:
    """One lesion, an ellipsoid that is cut off at the pleura.

    Attributes:
        centre_mm: nominal mm of an adult chest: distance from the midline, y from front (−) to back (+), height
            above the caudal end of the stack (0-300).
        radii_mm: along the same axes.
    """

    kind: Literal["ggo", "consolidation"]
    lung: Lung
    centre_mm: Triple
    radii_mm: Triple


DEFAULT_LESIONS = (
    Lesion("ggo", Lung.RIGHT, (82.0, 38.0, 135.0), (34.0, 34.0, 42.0)),
    Lesion("consolidation", Lung.RIGHT, (98.0, 48.0, 120.0), (22.0, 20.0, 22.0)),
    Lesion("ggo", Lung.LEFT, (92.0, 10.0, 200.0), (22.0, 24.0, 26.0)),
    Lesion("consolidation", Lung.LEFT, (95.0, 58.0, 90.0), (13.0, 14.0, 15.0)),
)


def lesions_in(lung: Lung) -> tuple[Lesion, ...]:
    """The usual lesions of one lung only."""
    return tuple(lesion for lesion in DEFAULT_LESIONS if lesion.lung == lung)


@dataclass(frozen=True)
class PhantomSpec:
    """What to draw.

    Attributes:
        slices, rows, columns: size of the grid.
        slice_spacing_mm: distance of slices. The anatomy is stretched to fill the stack, whatever its height is.
        pixel_spacing_mm: (row, column); None lets a field of 360 mm fill the columns, with square voxels.
        lesions: empty for a healthy chest.
        noise_hu: standard deviation.
        covered: part of the anatomy, from caudal 0 to cranial 1, that the stack shows; (0.3, 1) cuts the bases off.
    """

    slices: int = 64
    rows: int = 256
    columns: int = 256
    slice_spacing_mm: float = 5.0
    pixel_spacing_mm: tuple[float, float] | None = None
    lesions: tuple[Lesion, ...] = DEFAULT_LESIONS
    noise_hu: float = 15.0
    covered: tuple[float, float] = (0.0, 1.0)

    @property
    def spacing_mm(self) -> Triple:
        """(slice, row, column)."""
        square = WIDTH_MM / self.columns
        return (self.slice_spacing_mm, *(self.pixel_spacing_mm or (square, square)))


@dataclass(frozen=True)
class Phantom:
    """HU and truth in canonical order: slices caudal to cranial, rows front to back, columns right to left."""

    hu: HuArray
    lungs: LungMask
    lesions: LesionMasks
    spacing_mm: Triple

    @property
    def affine(self) -> Affine:
        """4×4, (column, row, slice, 1) to LPS mm; the origin is the middle of the most caudal slice."""
        slice_, row, column = self.spacing_mm
        affine = np.diag([column, row, slice_, 1.0])
        affine[0, 3] = -column * (self.hu.shape[2] - 1) / 2
        affine[1, 3] = -row * (self.hu.shape[1] - 1) / 2
        return affine

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel, ml."""
        return float(np.prod(self.spacing_mm)) / 1000.0


def make(spec: PhantomSpec | None = None, seed: int = 0) -> Phantom:
    """Draw a phantom; `seed` moves noise, texture and vessels but not lungs and lesions."""
    spec = spec or PhantomSpec()
    shape = (spec.slices, spec.rows, spec.columns)
    hu, labels = np.empty(shape, np.int16), np.empty(shape, np.uint8)
    infection, consolidation = np.empty(shape, bool), np.empty(shape, bool)
    vessels = grow_vessels(seed)
    blobs = tuple(_blob(lesion) for lesion in spec.lesions)
    for first in range(0, spec.slices, SLAB_SLICES):
        part = slice(first, min(first + SLAB_SLICES, spec.slices))
        drawn: Drawn = draw(_slab(spec, part), vessels, blobs, spec.noise_hu, seed * 1000 + first)
        hu[part], labels[part] = drawn.hu, drawn.labels
        consolidation[part] = drawn.consolidation
        infection[part] = drawn.ggo | drawn.consolidation
    return Phantom(hu, LungMask(labels, "truth"), LesionMasks(infection, consolidation), spec.spacing_mm)


def _blob(lesion: Lesion) -> Blob:
    side = -1.0 if lesion.lung == Lung.RIGHT else 1.0
    distance, y, z = lesion.centre_mm
    solid = lesion.kind == "consolidation"
    soft_mm, hu = (1.5, 10.0) if solid else (8.0, -580.0)
    return Blob((side * distance, y, z), lesion.radii_mm, soft_mm, hu, solid)


def _slab(spec: PhantomSpec, part: slice) -> Slab:
    """Nominal coordinates of some slices: in plane one scale fits the chest into the field, along z another."""
    _, row, column = spec.spacing_mm
    scale = max(WIDTH_MM / (column * spec.columns), DEPTH_MM / (row * spec.rows))
    x = (np.arange(spec.columns) - (spec.columns - 1) / 2) * column * scale
    y = (np.arange(spec.rows) - (spec.rows - 1) / 2) * row * scale
    low, high = spec.covered
    share = (np.arange(part.start, part.stop) + 0.5) / spec.slices
    z = HEIGHT_MM * (low + share * (high - low))
    return Slab(
        z.astype(np.float32)[:, None, None],
        y.astype(np.float32)[None, :, None],
        x.astype(np.float32)[None, None, :],
        column * scale,
    )
