"""The built-in lung segmentation: thresholds and shapes. Found on a coarse grid, refined on the given one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.lung_air import (
    AIR_HU,
    Floats,
    Spacing,
    find_body,
    find_body_middle,
    find_lung_air,
    find_middle,
    find_seam,
)
from pipeline.lung_fill import Chest, fill_lung, grow
from pipeline.lung_ribs import find_wall
from pipeline.types import HuArray, LabelArray, Lung, MaskArray

METHOD = "built-in 2"  # raised whenever another mask comes out
COARSE_MM = 2.0  # in plane
COARSE_SLICE_MM = 3.0
MARGIN_MM = 40.0
RIM_SHARE = 0.2  # of a voxel near the border that must be covered, if it is air, to belong to the lung


def builtin(hu: HuArray, spacing_mm: Spacing) -> LabelArray:
    """`Lung` labels by air threshold, airway removal, left/right split and filling from the pleural side.

    Args:
        hu: (slice, row, column) in canonical order; a single slice will do.
        spacing_mm: (slice, row, column).

    Returns:
        Labels of the same shape; all background where no lung is found.
    """
    factors = _factors(hu.shape, spacing_mm)
    coarse = _shrink(hu, factors)
    spacing = (spacing_mm[0] * factors[0], spacing_mm[1] * factors[1], spacing_mm[2] * factors[2])
    body = find_body(coarse, spacing)
    body_middle = find_body_middle(body)
    air, airways = find_lung_air(coarse, body, body_middle, spacing)
    if not air.any():
        return np.zeros(hu.shape, np.uint8)
    box = _around(air, spacing)
    lungs, is_right = np.zeros_like(air), np.zeros_like(air)
    middle = body_middle - box[2].start
    lungs[box], is_right[box] = _find(coarse[box], air[box], body[box], airways[box], middle, spacing)
    return _refine(hu, lungs, is_right, factors)


def _around(air: MaskArray, spacing_mm: Spacing) -> tuple[slice, slice, slice]:
    """The lungs and the wall around them: what is farther away need not be looked at."""
    (slices, *in_plane) = ndimage.find_objects(air.astype(np.uint8))[0]
    margins = (round(MARGIN_MM / length) for length in spacing_mm[1:])
    rows, columns = (slice(max(0, s.start - m), s.stop + m) for s, m in zip(in_plane, margins, strict=True))
    return slices, rows, columns


def _find(
    hu: Floats, air: MaskArray, body: MaskArray, airways: MaskArray, body_middle: float, spacing_mm: Spacing
) -> tuple[MaskArray, MaskArray]:
    """Both lungs, and which voxels lie on the patient's right, on the coarse grid."""
    air = grow(hu, air, body, airways, spacing_mm)
    middle = find_middle(air, body_middle)
    is_right = np.arange(hu.shape[2]) < find_seam(air, hu, middle)[:, :, None]
    chest = Chest(hu, body, airways, spacing_mm, middle, find_wall(hu, air, middle, spacing_mm))
    right = fill_lung(air & is_right, is_right, True, chest)
    left = fill_lung(air & ~is_right, ~is_right, False, chest)
    return (right | left) & ~airways, is_right


def _factors(shape: tuple[int, ...], spacing_mm: Spacing) -> tuple[int, int, int]:
    """How many slices, rows and columns make one of the coarse grid."""
    slices = max(1, int(COARSE_SLICE_MM / spacing_mm[0])) if shape[0] > 1 else 1
    return slices, max(1, round(COARSE_MM / spacing_mm[1])), max(1, round(COARSE_MM / spacing_mm[2]))


def _shrink(hu: HuArray, factors: tuple[int, int, int]) -> Floats:
    """Means of blocks; the last ones are filled up with the border."""
    slices, rows, columns = factors
    size = [-(-length // factor) for length, factor in zip(hu.shape, factors, strict=True)]
    margin = ((0, size[1] * rows - hu.shape[1]), (0, size[2] * columns - hu.shape[2]))
    coarse = np.empty(size, np.float32)
    for index in range(size[0]):
        plane = hu[index * slices : (index + 1) * slices].mean(axis=0, dtype=np.float32)
        blocks = np.pad(plane, margin, mode="edge").reshape(size[1], rows, size[2], columns)
        coarse[index] = blocks.mean(axis=(1, 3))
    return coarse


def _refine(hu: HuArray, lungs: MaskArray, is_right: MaskArray, factors: tuple[int, int, int]) -> LabelArray:
    """Labels on the fine grid: linear between coarse voxels; at the border every voxel of air that is near."""
    labels = np.zeros(hu.shape, np.uint8)
    rows, columns = (np.arange(size) // factor for size, factor in zip(hu.shape[1:], factors[1:], strict=True))
    for index, share in enumerate(_shares(lungs, hu.shape, factors)):
        inside = (share > 0.5) | ((share > RIM_SHARE) & (hu[index] < AIR_HU))
        right = is_right[index // factors[0]][np.ix_(rows, columns)]
        labels[index] = np.where(inside, np.where(right, np.uint8(Lung.RIGHT), np.uint8(Lung.LEFT)), 0)
    return labels


def _shares(lungs: MaskArray, shape: tuple[int, ...], factors: tuple[int, int, int]) -> Iterator[Floats]:
    """For each fine slice how much of each voxel is lung, 0 to 1, by linear interpolation."""
    across, down = _weights(shape[2], factors[2]), _weights(shape[1], factors[1])
    fine: dict[int, Floats] = {}
    for above, weight in _neighbours(shape[0], factors[0]):
        wanted = (above, min(above + 1, len(lungs) - 1))
        fine = {
            index: fine[index] if index in fine else down @ lungs[index].astype(np.float32) @ across.T
            for index in wanted
        }
        yield fine[wanted[0]] + np.float32(weight) * (fine[wanted[1]] - fine[wanted[0]])


def _neighbours(size: int, factor: int) -> Iterator[tuple[int, float]]:
    """For each fine index the coarse one before it, and how far it lies towards the next, 0 to 1."""
    last = -(-size // factor) - 1
    for index in range(size):
        position = min(max((index + 0.5) / factor - 0.5, 0.0), float(last))
        yield int(position), position - int(position)


def _weights(size: int, factor: int) -> npt.NDArray[np.float32]:
    """(fine, coarse) matrix of linear interpolation between the centres of blocks."""
    weights = np.zeros((size, -(-size // factor)), np.float32)
    for index, (before, share) in enumerate(_neighbours(size, factor)):
        weights[index, before] += 1 - share
        weights[index, min(before + 1, weights.shape[1] - 1)] += share
    return weights
