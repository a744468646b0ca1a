"""The built-in lung segmentation: thresholds and shapes. Found on a coarse grid, refined on the given one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.arrays import HuArray, LabelArray, MaskArray
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
from pipeline.lung_fill import Chest, close_in_plane, fill_lung, grow
from pipeline.lung_ribs import find_wall
from pipeline.lung_view import Finds, ask, cut_lung, find_padding, near_air
from pipeline.types import Lung

METHOD = "built-in 3"  # raised whenever another mask comes out
NETWORK_METHOD = "built-in 4 with lung network"
COARSE_MM = 2.0  # in plane
COARSE_SLICE_MM = 3.0
MARGIN_MM = 40.0
HOLE_MM2 = 400.0  # the largest that is a vessel or bronchus where a network looks for dense lung
RIM_SHARE = 0.2  # of a voxel near the border that must be covered, if it is air, to belong to the lung


def builtin(hu: HuArray, spacing_mm: Spacing, network: Finds | None = None) -> LabelArray:
    """`Lung` labels by air threshold, airway removal and left/right split, joined with dense lung.

    Args:
        hu: (slice, row, column) in canonical order; a single slice will do.
        spacing_mm: (slice, row, column).
        network: finds lung, however dense, on a coarse grid; None fills from the pleural side by shape instead.

    Returns:
        Labels of the same shape; all background where no lung is found.
    """
    factors = _factors(hu.shape, spacing_mm)
    coarse = _shrink(hu, factors)
    spacing = (spacing_mm[0] * factors[0], spacing_mm[1] * factors[1], spacing_mm[2] * factors[2])
    body = find_body(coarse, spacing)
    found = None if network is None else ask(network, coarse, body, spacing)
    if found is not None:
        body |= cut_lung(found, coarse, body, spacing)
    body_middle = find_body_middle(body)
    air, airways = find_lung_air(coarse, body, body_middle, spacing)
    found = None if found is None else near_air(found & body, air, spacing)
    known = air if found is None else air | found
    if not known.any():
        return np.zeros(hu.shape, np.uint8)
    box = _around(known, spacing)
    lungs, is_right = np.zeros_like(air), np.zeros_like(air)
    place = Place(coarse[box], body[box], airways[box], body_middle - box[2].start, spacing)
    if found is None:
        lungs[box], is_right[box] = _filled(air[box], place)
    else:
        lungs[box], is_right[box] = _joined(air[box], found[box], place)
    labels = _refine(hu, lungs, is_right, factors)
    labels[:, find_padding(hu)] = Lung.BACKGROUND
    return labels


@dataclass(frozen=True)
class Place:
    """The coarse grid around the lungs: HU, body, air of the airways, and the column that parts the body in two."""

    hu: Floats
    body: MaskArray
    airways: MaskArray
    body_middle: float
    spacing_mm: Spacing


def _around(air: MaskArray, spacing_mm: Spacing) -> tuple[slice, slice, slice]:
    """The lungs and the wall around them: what is farther away need not be looked at."""
    (slices, *in_plane) = ndimage.find_objects(air.astype(np.uint8))[0]
    margins = (round(MARGIN_MM / length) for length in spacing_mm[1:])
    rows, columns = (slice(max(0, s.start - m), s.stop + m) for s, m in zip(in_plane, margins, strict=True))
    return slices, rows, columns


def _filled(air: MaskArray, place: Place) -> tuple[MaskArray, MaskArray]:
    """Both lungs, dense parts by their shape, and which voxels lie on the patient's right."""
    air = grow(place.hu, air, place.body, place.airways, place.spacing_mm)
    is_right, middle = _sides(air, place)
    wall = find_wall(place.hu, air, middle, place.spacing_mm)
    chest = Chest(place.hu, place.body, place.airways, place.spacing_mm, middle, wall)
    right = fill_lung(air & is_right, is_right, True, chest)
    left = fill_lung(air & ~is_right, ~is_right, False, chest)
    return (right | left) & ~place.airways, is_right


def _joined(air: MaskArray, found: MaskArray, place: Place) -> tuple[MaskArray, MaskArray]:
    """Both lungs, dense parts where the network found them; as `_filled`.

    Large holes stay: the network knows dense lung, so what it leaves out there is the dome of the diaphragm.
    """
    lungs = grow(place.hu, air, place.body, place.airways, place.spacing_mm) | found
    is_right, _ = _sides(lungs, place)
    closed = [close_in_plane(lungs & side, place.spacing_mm, HOLE_MM2) & side for side in (is_right, ~is_right)]
    return (closed[0] | closed[1]) & ~place.airways, is_right


def _sides(lungs: MaskArray, place: Place) -> tuple[MaskArray, float]:
    """Which voxels lie on the patient's right, and the column between the lungs."""
    middle = find_middle(lungs, place.body_middle)
    return np.arange(lungs.shape[2]) < find_seam(lungs, place.hu, middle)[:, :, None], middle


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
