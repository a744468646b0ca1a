"""Counts behind the paper's figures 3, 4 and 6, as functions of arrays of one case.

Figure 3: the E-step (eq. 10) for a grid of b₂ and k₂. Figure 4: true and false positive rates inside the labelled
infection. Figure 6: false positives by their distance from the labelled consolidation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.arrays import HuArray, LabelArray, MaskArray
from pipeline.preprocess import Preprocessing

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

B2 = tuple(np.arange(7.0, 10.51, 0.25).tolist())  # normalised; −254 to +131 HU with the default preprocessing
K2 = (0.5, 1.0, 2.0, 5.0)
PRIOR_ALONE = "prior alone"
DISTANCES = 10  # 0 … 9 pixels
HALF = 0.5
LOWEST_HU = -1024


def sweep(
    hu: HuArray, f: npt.NDArray[np.float32], solid: MaskArray, missed: int, settings: Preprocessing
) -> Counts:
    """E-step labels y = f + sigmoid(k₂·(x − b₂)) > ½ (eq. 10 with eq. 13, for z = 1) against the labels.

    Args:
        hu, f, solid: of the voxels of the infected region m: HU, probability of UNet-2, labelled consolidation.
        missed: labelled consolidation outside m.

    Returns:
        int64 [b₂, k₂ + 1, 3]: both, label of the E-step only, expert's label only. The last k₂ is f = 0, where
        the prior's limit is x > b₂ whatever k₂.
    """
    normalised = (np.arange(LOWEST_HU, 3072) - settings.hu_min) / settings.hu_per_unit
    x = np.clip(normalised, 0.0, (settings.hu_max - settings.hu_min) / settings.hu_per_unit)
    at = np.clip(hu, LOWEST_HU, 3071).astype(np.intp) - LOWEST_HU
    made = np.zeros((len(B2), len(K2) + 1, 3), np.int64)
    total = int(np.count_nonzero(solid))
    for i, b2 in enumerate(B2):
        for j, k2 in enumerate(K2):
            needed = (HALF - 1.0 / (1.0 + np.exp(-k2 * (x - b2)))).astype(np.float32)
            made[i, j] = _counts(f > needed[at], solid, total, missed)
        made[i, -1] = _counts((x > b2)[at], solid, total, missed)
    return made


def _counts(y: MaskArray, solid: MaskArray, total: int, missed: int) -> tuple[int, int, int]:
    both = int(np.count_nonzero(y & solid))
    return both, int(np.count_nonzero(y)) - both, total - both + missed


@dataclass(frozen=True)
class Rates:
    """Consolidation inside the labelled infection of one case.

    Attributes:
        positives, negatives: labelled consolidation, labelled infection that is not consolidation.
        true, false: what was called consolidation of either.
        negatives_by, false_by: int64 [DISTANCES], of the negatives those farther than 0 … 9 pixels from the
            labelled consolidation.
    """

    positives: int
    negatives: int
    true: int
    false: int
    negatives_by: Counts
    false_by: Counts

    @property
    def tpr(self) -> float:
        """True positive rate; NaN without positives."""
        return self.true / self.positives if self.positives else float("nan")

    @property
    def fpr(self) -> float:
        """False positive rate; NaN without negatives."""
        return self.false / self.negatives if self.negatives else float("nan")


def rates(found: MaskArray, label: LabelArray, settings: Preprocessing) -> Rates:
    """Rates of a consolidation mask (slice, row, column) against labels 0/1/2, slice by slice."""
    negatives_by, false_by = np.zeros(DISTANCES, np.int64), np.zeros(DISTANCES, np.int64)
    for k in np.flatnonzero((label == 1).any(axis=(1, 2))):
        distance = _distance(label[k] == 2, settings)
        negative = label[k] == 1
        negatives_by += _farther(distance[negative])
        false_by += _farther(distance[negative & found[k]])
    solid = label == 2
    return Rates(
        positives=int(np.count_nonzero(solid)),
        negatives=int(negatives_by[0]),
        true=int(np.count_nonzero(found & solid)),
        false=int(false_by[0]),
        negatives_by=negatives_by,
        false_by=false_by,
    )


def _distance(solid: MaskArray, settings: Preprocessing) -> Floats:
    """Distance of each pixel from the mask, in pixels of the network grid; infinite where the mask is empty."""
    if not solid.any():
        return np.full(solid.shape, np.inf)
    sampling = (settings.rows / solid.shape[0], settings.columns / solid.shape[1])
    return np.asarray(ndimage.distance_transform_edt(~solid, sampling=sampling))


def _farther(distance: Floats) -> Counts:
    """How many lie farther than 0 … 9 pixels: what a dilation of the label by so much does not cover."""
    return np.array([np.count_nonzero(distance > reach) for reach in range(DISTANCES)], np.int64)
