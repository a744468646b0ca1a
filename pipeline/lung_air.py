"""Aerated lung: air inside the body that is neither airway nor bowel gas, and where right and left part.

Works on volumes and on single slices, on arrays (slice, row, column) in canonical order with their spacing in mm.
All areas and lengths are in mm, so that the same rules hold on any grid; a coarse grid of about 2 mm is enough.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.arrays import MaskArray

Spacing = tuple[float, float, float]
Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
PerLabel = npt.NDArray[np.float64]

AIR_HU = -400.0  # halfway between lung and soft tissue
GAS_HU = -940.0  # darker: no lung tissue in it
BODY_HU = -500.0
TABLE_MM = 4.0  # half the thickness of what is not body: table, clothes, tubes
MIN_AREA_MM2 = 60.0
AIRWAY_AREA_MM2 = 800.0  # trachea, main bronchi and oesophagus are smaller, in the middle of the chest
MIDDLE_MM = 35.0
BOTH_SHARE = 0.15  # of the air on one side by that on the other, from which on there are two lungs to go by
STRAY_SHARE = 0.01  # of what is found, on either side, that does not count for where the lungs end
SPINE_SHARE = 0.8  # of the lungs' depth, behind which there is lung beside the spine
CORNER_AREA_MM2 = (25.0, 3000.0)
EDGE_SHARE = 0.6  # of the bounding box's outer edges
SLICE_AREA_MM2 = 150.0  # of a component, where there is one slice only
LUNG_AREA_MM2, LUNG_ML = 6000.0, 1000.0  # no bowel is so large: lung, however dark
MIN_SHARE = 0.015  # of the largest component, where there is a volume
MAIN_SHARE = 0.1
MIN_ML = 10.0
BASE_SHARE = 0.2  # of the lungs' height, where small components are bowel gas rather than lung

IN_PLANE = np.zeros((3, 3, 3), dtype=bool)
IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)


def disc(radius_px: int) -> MaskArray:
    """A disc in the plane of the slices, (1, n, n)."""
    y, x = np.ogrid[-radius_px : radius_px + 1, -radius_px : radius_px + 1]
    return np.asarray((x * x + y * y <= radius_px**2 + 0.5)[None])


def pixels(length_mm: float, spacing_mm: Spacing) -> int:
    """A length in plane as whole pixels, at least one."""
    return max(1, round(length_mm / spacing_mm[1]))


def find_body(hu: Floats, spacing_mm: Spacing) -> MaskArray:
    """The largest solid component with everything that it encloses in a slice: the lungs too, not the table.

    Room air in the corners of a picture that was cropped and framed is taken out again.
    """
    solid = ndimage.binary_opening(hu > BODY_HU, disc(pixels(TABLE_MM, spacing_mm)))
    labels, count = ndimage.label(solid)
    if count == 0:
        return np.asarray(solid)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = labels == sizes.argmax()
    whole = fill_holes(body)
    return whole & ~_picture_corners((hu < AIR_HU) & whole, spacing_mm)


def fill_holes(mask: MaskArray) -> MaskArray:
    """Fill what a mask encloses within a slice; one labelling, far quicker than scipy's flooding of each slice."""
    labels, count = ndimage.label(~mask, IN_PLANE)
    outside = np.zeros(count + 1, dtype=bool)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        outside[edge] = True
    outside[0] = False  # the mask itself
    return np.asarray(~outside[labels])


def find_lung_air(
    hu: Floats, body: MaskArray, body_middle: float, spacing_mm: Spacing
) -> tuple[MaskArray, MaskArray]:
    """(air of the lungs, air of trachea, main bronchi and oesophagus)."""
    labels, count = ndimage.label((hu < AIR_HU) & body, IN_PLANE)
    area = np.bincount(labels.ravel(), minlength=count + 1) * spacing_mm[1] * spacing_mm[2]
    kept = area >= MIN_AREA_MM2
    kept[0] = False
    large = kept & (area > 2 * AIRWAY_AREA_MM2)
    reference = (large if large.any() else kept)[labels]
    if not reference.any():
        return reference, reference
    rows = np.flatnonzero(reference.any(axis=(0, 2)))
    row = mean_of(np.broadcast_to(np.arange(hu.shape[1])[:, None], hu.shape), labels, count)
    column = mean_of(np.broadcast_to(np.arange(hu.shape[2]), hu.shape), labels, count)
    central = np.abs(column - find_middle(reference, body_middle)) * spacing_mm[2] < MIDDLE_MM
    before_spine = row < rows[0] + SPINE_SHARE * (rows[-1] - rows[0])
    airway = kept & central & before_spine & (area < AIRWAY_AREA_MM2)
    return _without_bowel(hu, (kept & ~airway)[labels], spacing_mm), airway[labels]


def find_body_middle(body: MaskArray) -> float:
    """Column that parts the body in two of one size; an arm that lies beside it moves it by little."""
    before = np.cumsum(np.count_nonzero(body, axis=(0, 1)))
    return float(np.searchsorted(before, before[-1] / 2))


def find_middle(air: MaskArray, body_middle: float) -> float:
    """Column between the lungs: halfway between the outer borders of both, of air that is not empty.

    Where hardly any air is on one side of the body, that lung is dense or was taken out, and the other's borders
    say nothing of the middle of the chest: then it is that of the body.
    """
    per_column = np.count_nonzero(air, axis=(0, 1))
    right = int(per_column[np.arange(len(per_column)) < body_middle].sum())
    left = int(per_column.sum()) - right
    if min(right, left) < BOTH_SHARE * max(right, left):
        return body_middle
    first, last = outer_columns(air)
    return (first + last) / 2


def outer_columns(air: MaskArray) -> tuple[int, int]:
    """Columns between which the lungs lie; a little that a network finds in an arm or blanket moves neither."""
    before = np.cumsum(np.count_nonzero(air, axis=(0, 1)))
    first, last = np.searchsorted(before, before[-1] * np.array([STRAY_SHARE, 1 - STRAY_SHARE]))
    return int(first), int(last)


def mean_of(values: npt.NDArray[np.generic], labels: Labels, count: int) -> PerLabel:
    """Mean of `values` per label; that of the background means nothing."""
    labelled = labels > 0
    members = labels[labelled]
    sums = np.bincount(members, weights=values[labelled], minlength=count + 1)
    return np.asarray(sums / np.maximum(np.bincount(members, minlength=count + 1), 1))


def _picture_corners(air: MaskArray, spacing_mm: Spacing) -> MaskArray:
    """Air with two straight outer edges, along its own bounding box in a slice: lungs are round there."""
    labels, count = ndimage.label(air, IN_PLANE)
    area = np.bincount(labels.ravel(), minlength=count + 1) * spacing_mm[1] * spacing_mm[2]
    corner = np.zeros(count + 1, dtype=bool)
    rows, columns = air.shape[1:]
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if CORNER_AREA_MM2[0] < area[label] < CORNER_AREA_MM2[1]:
            row = 0 if box[1].start + box[1].stop < rows else -1
            column = 0 if box[2].start + box[2].stop < columns else -1
            # The corner pixel itself may be half covered by the frame.
            edges = labels[box][0, row], labels[box][0, :, column]
            corner[label] = min(np.mean(edge == label) for edge in edges) > EDGE_SHARE
    return np.asarray(corner[labels])


def _without_bowel(hu: Floats, air: MaskArray, spacing_mm: Spacing) -> MaskArray:
    """Components in 3D that are not pure gas and large enough; small ones only well above the lung bases."""
    labels, count = ndimage.label(air, np.ones((3, 3, 3)))
    voxels = np.bincount(labels.ravel(), minlength=count + 1).astype(np.float64)
    gas = mean_of(hu < GAS_HU, labels, count) > 0.5
    if len(hu) == 1:
        area = voxels * spacing_mm[1] * spacing_mm[2]
        lung = (area >= SLICE_AREA_MM2) & (~gas | (area >= LUNG_AREA_MM2))
        lung[0] = False
        return np.asarray(lung[labels])
    lung = ~gas | (voxels * np.prod(spacing_mm) >= LUNG_ML * 1000)
    lung[0] = False
    if not lung.any():
        return np.zeros_like(air)
    largest = voxels[lung].max()
    lung &= voxels >= max(MIN_SHARE * largest, MIN_ML * 1000 / np.prod(spacing_mm))
    centre = mean_of(np.broadcast_to(np.arange(len(hu))[:, None, None], hu.shape), labels, count)
    lowest = ndimage.find_objects(labels)[int(np.where(lung, voxels, 0).argmax()) - 1][0].start
    main = lung & (voxels >= MAIN_SHARE * largest) & (centre >= lowest)  # a colon may be as large
    if not main.any():
        return np.zeros_like(air)
    heights = np.flatnonzero(main[labels].any(axis=(1, 2)))
    base = heights[0] + BASE_SHARE * (heights[-1] - heights[0])
    return np.asarray((main | (lung & (centre > base)))[labels])


def find_seam(air: MaskArray, hu: Floats, middle: float) -> npt.NDArray[np.intp]:
    """(slice, row): the column from which on a voxel is the left lung's; the cheapest way from front to back.

    A step through soft tissue costs next to nothing, through lung the more the darker it is: where the lungs touch,
    the way follows the junction line. It moves at most one column per row and keeps near `middle`, a column.
    """
    columns = np.arange(hu.shape[2])
    width = 2 * np.abs(np.array(outer_columns(air)) - middle).max() + 1
    cost = air * (1 + np.clip(-hu - 700, 0, 300) / 100)
    if len(hu) > 1:
        cost = ndimage.gaussian_filter1d(cost, 1.0, axis=0)
    away = np.abs(columns - middle) / width
    cost = cost + 0.8 * away**2 + 5.0 * (away > 0.3)
    total, back = cost.copy(), np.zeros(cost.shape, np.int8)
    for row in range(1, cost.shape[1]):
        before = np.pad(total[:, row - 1], ((0, 0), (1, 1)), constant_values=np.inf)
        ways = np.stack([before[:, 1:-1], before[:, :-2] + 0.01, before[:, 2:] + 0.01])
        best = ways.argmin(axis=0)
        total[:, row] += np.take_along_axis(ways, best[None], axis=0)[0]
        back[:, row] = np.array([0, -1, 1], np.int8)[best]
    seam = np.empty(cost.shape[:2], np.intp)
    seam[:, -1] = total[:, -1].argmin(axis=1)
    slices = np.arange(len(hu))
    for row in range(cost.shape[1] - 1, 0, -1):
        seam[:, row - 1] = seam[:, row] + back[slices, row, seam[:, row]]
    return seam
