"""Small pieces of consolidation, which are left out.

A vessel in cross-section is as dense as consolidation, but not as wide.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from pipeline.arrays import MaskArray

IN_PLANE = np.array([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))], np.bool_)
ALL_AROUND = np.ones((3, 3, 3), np.bool_)


def wide_pieces(mask: MaskArray, pixel_mm2: float, least_mm2: float) -> MaskArray:
    """The connected pieces that cover at least so much somewhere in a slice, with their thin ends above and below.

    Args:
        mask: [slice, row, column]; pixels touch at edges and corners, slices that follow each other too.
        pixel_mm2: area of a pixel.
        least_mm2: in one slice, in one piece; 0 keeps everything.
    """
    areas, _ = ndimage.label(mask, IN_PLANE)
    covered = np.bincount(areas.ravel()) * pixel_mm2
    covered[0] = 0.0
    seeds = (covered >= least_mm2)[areas] & mask
    return np.asarray(ndimage.binary_propagation(seeds, ALL_AROUND, mask), dtype=np.bool_)


def without(probability: Tensor, threshold: float, pixel_mm2: float, least_mm2: float) -> Tensor:
    """Probabilities [slice, row, column] with 0 in the small pieces of what lies above the threshold."""
    if not least_mm2:
        return probability
    found = probability > threshold
    kept = torch.from_numpy(wide_pieces(found.numpy(), pixel_mm2, least_mm2))
    return probability * (kept | ~found)
