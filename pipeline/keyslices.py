"""The slices worth looking at, and the outlines of what lies on them; for the picture and for SCOORD in the SR."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.arrays import MaskArray
from pipeline.types import Analysis

COUNT = 6
_AHEAD = {  # direction of travel (x, y): (row, column) offsets from a corner to the pixels ahead, right and left
    (1, 0): ((0, 0), (-1, 0)),
    (0, 1): ((0, -1), (0, 0)),
    (-1, 0): ((-1, -1), (0, -1)),
    (0, -1): ((-1, 0), (-1, -1)),
}


@dataclass(frozen=True)
class Region:
    """A connected region of a slice.

    Attributes:
        pixels: how many.
        outline: (corner, 2) as (column, row) along pixel edges, closed; (0, 0) is the outer corner of the first
            pixel, as SCOORD counts (PS3.3 C.18.6.1.2). Holes are not cut out.
    """

    pixels: int
    outline: npt.NDArray[np.int64]


def lesion_slices(analysis: Analysis, count: int = COUNT) -> list[int]:
    """Up to `count` canonical slices, caudal to cranial: the fullest of each part of the slices with lesions.

    Consolidation counts double. Parts, not the fullest of all: lesions far from the largest are shown too. Slices
    that lie close together show the same, so a part may go without.
    """
    lesions = analysis.lesions
    weight = lesions.infection.sum(axis=(1, 2)) + lesions.consolidation.sum(axis=(1, 2))
    with_lesion = np.flatnonzero(weight)
    apart = max(1, with_lesion.size // (2 * count))
    chosen: list[int] = []
    for part in np.array_split(with_lesion, count):
        distant = part[part - (chosen[-1] if chosen else -apart) >= apart]
        if distant.size:
            chosen.append(int(distant[weight[distant].argmax()]))
    return chosen


def shown_slices(analysis: Analysis, count: int = COUNT) -> list[int]:
    """`lesion_slices`, filled up to `count` with slices spread over the lungs; fewer only in a short stack."""
    chosen = set(lesion_slices(analysis, count))
    with_lung = np.flatnonzero(analysis.lungs.labels.any(axis=(1, 2)))
    stack = with_lung if with_lung.size else np.arange(len(analysis.volume.headers))
    spread = np.unique(np.linspace(stack[0], stack[-1], count + 2).round().astype(int)[1:-1])
    for index in sorted(spread.tolist(), key=lambda place: -min((abs(place - c) for c in chosen), default=0)):
        if len(chosen) < count:
            chosen.add(int(index))
    return sorted(chosen)


def source_index(analysis: Analysis, canonical: int) -> int:
    """The place of a canonical slice among the source headers."""
    return len(analysis.volume.headers) - 1 - canonical if analysis.volume.flips[0] else canonical


def slice_name(analysis: Analysis, canonical: int) -> str:
    """InstanceNumber, by which a reader finds the slice in the series, or its place where that is no number."""
    number = analysis.volume.headers[source_index(analysis, canonical)].get("InstanceNumber")
    return f"image {number}" if isinstance(number, int) else f"slice {canonical + 1} from below"


def regions(mask: MaskArray) -> Iterator[Region]:
    """The 4-connected regions of a (row, column) mask, the largest first."""
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    for label in sorted(range(1, count + 1), key=lambda label: -sizes[label]):
        yield Region(int(sizes[label]), outline(labels == label))


def outline(mask: MaskArray) -> npt.NDArray[np.int64]:
    """The outer boundary of a 4-connected (row, column) mask, walked with the inside on the right.

    Returns:
        The corners as (column, row), the first one repeated at the end.
    """
    padded = np.pad(mask, 1)
    row, column = (int(place) for place in np.argwhere(padded)[0])
    start, heading = (column, row), (1, 0)
    (x, y), corners = start, [start]
    while True:
        x, y = x + heading[0], y + heading[1]
        right, left = (bool(padded[y + dy, x + dx]) for dy, dx in _AHEAD[heading])
        if not right:
            heading = (-heading[1], heading[0])
        elif left:
            heading = (heading[1], -heading[0])
        else:
            continue
        corners.append((x, y))
        if (x, y) == start:
            return np.array(corners, np.int64) - 1
