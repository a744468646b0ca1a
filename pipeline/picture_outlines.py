"""Outlines of findings on a slice of the picture: thin, with a dark edge, told apart in colour and in grey.

Opacity has a solid line, consolidation a dashed one, and their colours differ in luminance, so that colour-blind
readers and greyscale prints keep them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import numpy as np
import numpy.typing as npt
from contourpy import contour_generator
from PIL import Image, ImageDraw
from scipy import ndimage

from pipeline.arrays import MaskArray
from pipeline.picture_canvas import BACKGROUND, Rgb
from pipeline.subjects import Subject

FINE_PX = 600  # a narrower picture has a line of one pixel, a wider one of two
EDGE_PX = 1  # dark, on both sides
DASH_PX, GAP_PX = 7.0, 4.0
HALF = 127.5
DASHED = frozenset({Subject.CONSOLIDATION})

Line = npt.NDArray[np.float64]


def lines(mask: MaskArray, size: tuple[int, int]) -> list[Line]:
    """The closed borders of a mask, holes too, as (x, y) points on a picture of `size` (width, height)."""
    padded = np.pad(_resized(mask, size), 1)
    return [np.asarray(line, np.float64) - 1.0 for line in contour_generator(z=padded).lines(HALF)]


def _resized(mask: MaskArray, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """How much of each pixel of the picture is in the mask, 0 to 255; borders run at the half.

    Where the picture has fewer pixels than the slice, a region may fill the half of none: it is made as large as
    the pixels on which it lies, for what counts in the figures is outlined.
    """
    picture = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    share = np.array(picture, np.float32)
    if size[0] < mask.shape[1] or size[1] < mask.shape[0]:
        labels, _ = ndimage.label(mask)
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            rows, columns = np.nonzero(labels[box] == label)
            rows, columns = rows + box[0].start, columns + box[1].start
            under = rows * size[1] // mask.shape[0], columns * size[0] // mask.shape[1]
            if share[under].max() <= HALF:
                share[under] = 255.0
    return share


def draw_outline(picture: Image.Image, mask: MaskArray, rgb: Rgb, dashed: bool) -> None:
    """Draw the border of a mask that covers the whole picture."""
    draw = ImageDraw.Draw(picture)
    width = 1 if picture.width < FINE_PX else 2
    found = lines(mask, picture.size)
    strokes = [stroke for line in found for stroke in (dashes(line) if dashed else [line])]
    for colour, thickness in ((BACKGROUND, width + 2 * EDGE_PX), (rgb, width)):
        for stroke in strokes:
            draw.line([tuple(point) for point in stroke], fill=colour, width=thickness, joint="curve")


def dashes(line: Line) -> Iterator[Line]:
    """Pieces of a line, `DASH_PX` long and `GAP_PX` apart."""
    along = np.array([0.0, *accumulate(np.hypot(*np.diff(line, axis=0).T))])
    for start in np.arange(0.0, along[-1], DASH_PX + GAP_PX):
        end = min(start + DASH_PX, along[-1])
        at = np.concatenate([[start], along[(along > start) & (along < end)], [end]])
        yield np.stack([np.interp(at, along, line[:, axis]) for axis in (0, 1)], axis=1)
