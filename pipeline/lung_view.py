"""What a lung network is shown of the slices, and what of its answer is taken for lung.

It has learnt chests that fill their picture, and sees slice by slice: neither how large a pixel is nor what lies
above and below. In a wide field it takes bowel and stomach for lung, in the abdomen gas and stool. On arrays
(slice, row, column) in canonical order on the coarse grid.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from pipeline.arrays import HuArray, MaskArray
from pipeline.lung_air import AIR_HU, GAS_HU, IN_PLANE, Floats, Spacing, fill_holes, mean_of
from pipeline.pixels import MIN_HU

FIELD_MM = 440.0  # the widest that the shipped network has learnt: 431 mm
CUT_AREA_MM2 = 400.0  # of lung that reaches the edge of a slice; what is found in room air is smaller
TALL_SHARE = 0.7  # height of aerated lung by its width; 0.9 to 1.0 where nothing is dense
APART_SHARE = 0.1  # of the lungs; larger is dense lung apart from all air, and no stomach

Finds = Callable[[Floats], MaskArray]


def find_padding(hu: HuArray | Floats) -> MaskArray:
    """(row, column): where no slice has a value, from the edge of the images to a round field.

    Air of the room has noise, and what is padded is `MIN_HU`. So are voxels of emphysema, where slices are few: a
    few side by side are none, nor are those inside.
    """
    padded = np.ones(hu.shape[1:], dtype=bool)
    for plane in hu:
        padded &= plane == MIN_HU
    padded = ndimage.binary_opening(padded, np.ones((5, 5)))
    return np.asarray(~fill_holes(~padded[None])[0])


def ask(network: Finds, hu: Floats, body: MaskArray, spacing_mm: Spacing) -> MaskArray:
    """What the network finds in a field of at most `FIELD_MM` around the middle of the body; nothing in padding.

    Where a round field cuts lung off, padding looks like more of it.
    """
    box = (slice(None), *(_field(body, axis, spacing_mm[axis]) for axis in (1, 2)))
    found = np.zeros(hu.shape, dtype=bool)
    found[box] = network(np.ascontiguousarray(hu[box]))
    return found & ~find_padding(hu)


def _field(body: MaskArray, axis: int, length_mm: float) -> slice:
    """Rows or columns of the field: around those that part the body in two of one size."""
    size, wanted = body.shape[axis], int(FIELD_MM / length_mm)
    if size <= wanted:
        return slice(0, size)
    before = np.cumsum(np.count_nonzero(body, axis=tuple({0, 1, 2} - {axis})))
    middle = int(np.searchsorted(before, before[-1] / 2))
    first = min(max(middle - wanted // 2, 0), size - wanted)
    return slice(first, first + wanted)


def cut_lung(found: MaskArray, hu: Floats, body: MaskArray, spacing_mm: Spacing) -> MaskArray:
    """Lung that no wall encloses because the field of view, square or round, ends in it: not in `body` yet."""
    labels, count = ndimage.label(found & ~body & (hu < AIR_HU), IN_PLANE)
    area = np.bincount(labels.ravel(), minlength=count + 1) * spacing_mm[1] * spacing_mm[2]
    is_lung = (area >= CUT_AREA_MM2) & (mean_of(hu < GAS_HU, labels, count) <= 0.5)
    is_lung[0] = False
    return np.asarray(is_lung[labels])


def near_air(found: MaskArray, air: MaskArray, spacing_mm: Spacing) -> MaskArray:
    """`found` without pieces below or above the lungs: stomach and bowel, pharynx, the head of a humerus.

    The lungs are aerated lung with all that is joined to it. Where little of their height is aerated the rest is
    dense, and pieces of it need not be joined: then nothing is left out.
    """
    slices, _, columns = (np.flatnonzero(air.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    if not len(slices) or np.ptp(slices) * spacing_mm[0] < TALL_SHARE * np.ptp(columns) * spacing_mm[2]:
        return found
    labels, count = ndimage.label(found | air, np.ones((3, 3, 3)))
    voxels = np.bincount(labels.ravel(), minlength=count + 1)
    joined = np.zeros(count + 1, dtype=bool)
    joined[labels[air]] = True
    heights = np.flatnonzero(joined[labels].any(axis=(1, 2)))
    centre = mean_of(np.broadcast_to(np.arange(len(found))[:, None, None], found.shape), labels, count)
    between = (centre >= heights[0]) & (centre <= heights[-1])
    kept = joined | between | (voxels > APART_SHARE * voxels[joined].sum())
    return np.asarray(found & kept[labels])
