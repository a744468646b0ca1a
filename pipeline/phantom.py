"""A synthetic chest CT with lesions of known size, for the demo, the self-test, the tests and training.

`make` draws it on the canonical grid of `pipeline.types`; `write_series` writes it as CT Image Storage in any
patient position. The same specification and seed give the same voxels, and the same options the same files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline import phantom_chest, phantom_trees
from pipeline.arrays import Affine, HuArray, LabelArray, LesionMasks, LungMask, MaskArray
from pipeline.phantom_chest import Scene
from pipeline.phantom_grid import DEPTH_MM, HEIGHT_MM, WIDTH_MM, Slab, Structure
from pipeline.phantom_lesions import Blob, LesionKind
from pipeline.phantom_lungs import Effusion
from pipeline.phantom_scan import KERNELS, KernelName
from pipeline.phantom_series import SeriesOptions, as_volume, write_series
from pipeline.types import Lung

__all__ = [
    "Effusion",
    "Lesion",
    "Phantom",
    "PhantomSpec",
    "SeriesOptions",
    "Structure",
    "as_volume",
    "lesions_in",
    "make",
    "write_series",
]

SLAB_SLICES = 16  # drawn at a time, so that 600 slices need little more memory than their HU
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Lesion:
    """One lesion, an ellipsoid with an uneven border that is cut off at the pleura.

    Attributes:
        kind: crazy paving is ground glass with thickened septa, and counts as ground glass.
        lung: the side.
        centre_mm: nominal mm of an adult chest: distance from the midline, y from front (−) to back (+), height
            above the caudal end of the stack (0-300).
        radii_mm: along the same axes.
    """

    kind: LesionKind
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
        noise_hu: standard deviation with the soft kernel.
        effusions: pleural fluid; it is neither lung nor opacity.
        kernel: soft, or sharp with three times the noise.
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
    effusions: tuple[Effusion, ...] = ()
    kernel: KernelName = "soft"

    @property
    def spacing_mm(self) -> Triple:
        """(slice, row, column)."""
        square = WIDTH_MM / self.columns
        return (self.slice_spacing_mm, *(self.pixel_spacing_mm or (square, square)))


@dataclass(frozen=True)
class Phantom:
    """HU and truth in canonical order: slices caudal to cranial, rows front to back, columns right to left.

    Attributes:
        hu: the image.
        lungs: with everything in them but trachea and main bronchi; without effusion.
        lesions: infection and consolidation, as the scores count them.
        spacing_mm: (slice, row, column).
        structures: what each voxel is, a `Structure`; lesions lie over it.
        crazy_paving: the part of the ground glass that has thickened septa.
        convolution_kernel: for the DICOM header.
    """

    hu: HuArray
    lungs: LungMask
    lesions: LesionMasks
    spacing_mm: Triple
    structures: LabelArray
    crazy_paving: MaskArray
    convolution_kernel: str = KERNELS["soft"].name

    def structure(self, *kinds: Structure) -> MaskArray:
        """The voxels that are any of these."""
        return np.isin(self.structures, kinds)

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
    """Draw a phantom; `seed` moves noise, texture, vessels and bronchi but not lungs and lesions."""
    spec = spec or PhantomSpec()
    shape = (spec.slices, spec.rows, spec.columns)
    hu, labels, structures = np.empty(shape, np.int16), np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    infection, paving, consolidation = (np.empty(shape, dtype=bool) for _ in range(3))
    kernel = KERNELS[spec.kernel]
    blobs = tuple(_blob(lesion) for lesion in spec.lesions)
    trees = phantom_trees.grow(seed, phantom_chest.places())
    scene = Scene(trees, blobs, spec.effusions, kernel, spec.noise_hu)
    for first in range(0, spec.slices, SLAB_SLICES):
        part = slice(first, min(first + SLAB_SLICES, spec.slices))
        drawn = phantom_chest.draw(_slab(spec, part), scene, seed * 1000 + first)
        hu[part], labels[part], structures[part] = drawn.hu, drawn.labels, drawn.structure
        paving[part], consolidation[part] = drawn.crazy_paving, drawn.consolidation
        infection[part] = drawn.ggo | drawn.crazy_paving | drawn.consolidation
    lungs, lesions = LungMask(labels, "truth"), LesionMasks(infection, consolidation)
    return Phantom(hu, lungs, lesions, spec.spacing_mm, structures, paving, kernel.name)


def _blob(lesion: Lesion) -> Blob:
    side = -1.0 if lesion.lung == Lung.RIGHT else 1.0
    distance, y, z = lesion.centre_mm
    return Blob(lesion.kind, (side * distance, y, z), lesion.radii_mm)


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
        min(HEIGHT_MM * (high - low) / spec.slices, spec.slice_spacing_mm * scale),
    )
