"""Figures of the lungs and their lesions from voxel counts (Wu, Gong et al. 2020, eq. 14 and 15)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.arrays import CtVolume, LesionMasks, LungMask
from pipeline.types import Lung, Region, RegionScores, Scores, severity_class

# Less of a side is a remnant of a lung that was not found, wholly opaque or collapsed: its lesions lie outside the
# mask, and their share of the remnant would make the sickest lung the healthiest. A third of what both must have.
MIN_LUNG_ML = 100.0

_INFECTED, _CONSOLIDATED = len(Lung), 2 * len(Lung)  # added to the lung's label; consolidation is infected too
_BINS = 4 * len(Lung)
_SIDES = {Region.BOTH: (Lung.RIGHT, Lung.LEFT), Region.RIGHT: (Lung.RIGHT,), Region.LEFT: (Lung.LEFT,)}


@dataclass(frozen=True)
class _Tally:
    """Voxels and the sum of their HU, by lung label + `_INFECTED` + `_CONSOLIDATED`."""

    voxels: npt.NDArray[np.int64]
    hu: npt.NDArray[np.float64]

    def of(self, sides: tuple[Lung, ...], *marks: int) -> tuple[int, float]:
        bins = [side + mark for side in sides for mark in marks]
        return int(self.voxels[bins].sum()), float(self.hu[bins].sum())


def measure(volume: CtVolume, lungs: LungMask, lesions: LesionMasks) -> Scores:
    """Scores of both lungs, right and left.

    Severity is infected / lung volume (eq. 14), the consolidation score consolidated / lung volume (eq. 15);
    the same fraction of ground glass is the rest of severity. Only voxels inside the lung count, so that both
    lungs are the sum of right and left. A side of less than `MIN_LUNG_ML` has volumes and no scores.

    Raises:
        ValueError: there is no lung at all; `lungs.segment` rejects such a series.
    """
    tally = _count(volume, lungs, lesions)
    regions = {
        region: _region(tally, sides, volume.voxel_volume_ml, 0.0 if region is Region.BOTH else MIN_LUNG_ML)
        for region, sides in _SIDES.items()
    }
    severity = regions[Region.BOTH].severity_score
    if severity is None:
        raise ValueError("there is no lung to measure")
    return Scores(regions=regions, severity_class=severity_class(severity))


def _count(volume: CtVolume, lungs: LungMask, lesions: LesionMasks) -> _Tally:
    """Slice by slice: bincount needs eight bytes a voxel."""
    voxels = np.zeros(_BINS, np.int64)
    hu = np.zeros(_BINS, np.float64)
    for hu_slice, label, infection, consolidation in zip(
        volume.hu, lungs.labels, lesions.infection, lesions.consolidation, strict=True
    ):
        if not label.any():
            continue
        mark = (label + _INFECTED * infection + _CONSOLIDATED * consolidation).ravel()
        voxels += np.bincount(mark, minlength=_BINS)
        hu += np.bincount(mark, weights=hu_slice.ravel(), minlength=_BINS)
    return _Tally(voxels, hu)


def _region(tally: _Tally, sides: tuple[Lung, ...], voxel_ml: float, least_ml: float) -> RegionScores:
    """Figures of one region; without scores where its lung has less than `least_ml`."""
    dense = _INFECTED + _CONSOLIDATED
    lung, lung_hu = tally.of(sides, 0, _INFECTED, dense)
    infected, infected_hu = tally.of(sides, _INFECTED, dense)
    consolidated, _ = tally.of(sides, dense)
    is_found = lung > 0 and lung * voxel_ml >= least_ml
    return RegionScores(
        lung_volume_ml=lung * voxel_ml,
        infection_volume_ml=infected * voxel_ml,
        consolidation_volume_ml=consolidated * voxel_ml,
        ggo_volume_ml=(infected - consolidated) * voxel_ml,
        severity_score=infected / lung if is_found else None,
        consolidation_score=consolidated / lung if is_found else None,
        ggo_score=(infected - consolidated) / lung if is_found else None,
        lung_mean_hu=lung_hu / lung if lung else None,
        infection_mean_hu=infected_hu / infected if infected else None,
    )
