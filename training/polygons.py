"""Closed polygons → pixels, by one rule: a pixel belongs to a polygon if its centre lies inside.

Centres have integer coordinates. A centre on an edge belongs to the polygon on its right or below, so that two
polygons with a common edge share no pixel and leave none out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.arrays import MaskArray

Points = npt.NDArray[np.float64]


def rasterise(points: Points, shape: tuple[int, int]) -> MaskArray:
    """Pixels (row, column) inside a closed polygon of (column, row) points; even-odd where it crosses itself.

    Parts outside `shape` are cut off.
    """
    rows, columns = shape
    toggles = np.zeros((rows, columns + 1), np.uint8)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        low, high = sorted((y0, y1))
        crossed = np.arange(max(0, int(np.ceil(low))), min(rows, int(np.ceil(high))))
        x = x0 + (crossed - y0) * (x1 - x0) / (y1 - y0)
        np.bitwise_xor.at(toggles, (crossed, np.clip(np.ceil(x), 0, columns).astype(int)), 1)
    inside: MaskArray = np.bitwise_xor.accumulate(toggles, axis=1)[:, :columns].astype(np.bool_)
    return inside
