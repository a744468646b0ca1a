"""Where the inner side of the chest wall runs, told from ribs: seen from the middle of the chest, ray by ray."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.arrays import MaskArray
from pipeline.lung_air import Floats, Spacing

Rays = npt.NDArray[np.float64]  # (slice, ray), mm from the centre; NaN where nothing was met

RIB_HU = 140.0  # a rib that is cut obliquely on a coarse grid
RAYS = 240
STEP_MM = 1.5
NEAREST_MM = 35.0  # nearer to the centre is the spine
NEIGHBOUR_MM = 7.5  # ribs run obliquely: slices so near see them where this one does not
WINDOW = 10  # rays to either side
STRAY_MM = 6.0  # farther out than ribs nearby: scapula, clavicle, arm
TOUCH_MM = 15.0  # lung that near to a rib reaches the pleura
GAP_MM = (3.0, 8.0)  # plausible distance from pleura to rib
DENSE_MM = 10.0  # nearer to that is muscle between the ribs


@dataclass(frozen=True)
class Wall:
    """The chest wall as seen from the middle of the chest.

    Attributes:
        centre: (row, column).
        ribs: (slice, ray) distance of the first bone beyond the lung, mm.
        inner: (slice, ray) distance of the wall's inner side where something dense keeps the lung away from it, mm.
    """

    centre: tuple[float, float]
    ribs: Rays
    inner: Rays
    spacing_mm: Spacing

    def points(self, index: int, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Indices of `inner` in one slice, of those that lie on a grid of (rows, columns)."""
        known = np.isfinite(self.inner[index])
        radius, angle = self.inner[index, known], _angles()[known]
        rows = np.rint(self.centre[0] + radius * np.sin(angle) / self.spacing_mm[1]).astype(np.intp)
        columns = np.rint(self.centre[1] + radius * np.cos(angle) / self.spacing_mm[2]).astype(np.intp)
        on_grid = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
        return rows[on_grid], columns[on_grid]

    def is_beyond(self, index: int, row: float, column: float) -> bool:
        """Whether a rib lies between the middle of the chest and a point."""
        y, x = (row - self.centre[0]) * self.spacing_mm[1], (column - self.centre[1]) * self.spacing_mm[2]
        ray = round(np.arctan2(y, x) / (2 * np.pi) * RAYS) % RAYS
        return bool(np.hypot(y, x) > self.ribs[index, ray])  # False for NaN


def _angles() -> npt.NDArray[np.float64]:
    """From the patient's left (0) to the back (a quarter turn), to the right, to the front."""
    return np.arange(RAYS) * 2 * np.pi / RAYS


def find_wall(hu: Floats, lungs: MaskArray, middle: float, spacing_mm: Spacing) -> Wall:
    """The ribs around the lungs, and the wall's inner side: as far inside them as the pleura usually is.

    `middle` is the column between the lungs, from which the wall is seen.
    """
    rows, columns = (np.flatnonzero(lungs.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    centre = float(rows[0] + rows[-1]) / 2, middle
    width = 2 * float(np.abs(columns[[0, -1]] - middle).max())
    extent = max((rows[-1] - rows[0]) * spacing_mm[1], width * spacing_mm[2])
    radii = np.arange(0.0, 0.75 * extent + 30.0, STEP_MM)
    grid = (
        centre[0] + np.outer(np.sin(_angles()), radii) / spacing_mm[1],
        centre[1] + np.outer(np.cos(_angles()), radii) / spacing_mm[2],
    )
    lung_end = _last(_along_rays(lungs, grid), radii)
    bone = _along_rays(hu > RIB_HU, grid)
    ribs = _first(bone & (radii > np.maximum(lung_end, NEAREST_MM)[..., None]), radii)
    ribs = _without_strays(_from_neighbours(ribs, lung_end, spacing_mm))
    inner = ribs - _usual_gap(ribs - lung_end)[:, None]
    return Wall(centre, ribs, np.where(inner - lung_end > DENSE_MM, inner, np.nan), spacing_mm)


def _along_rays(mask: MaskArray, grid: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]) -> MaskArray:
    """(slice, ray, radius) samples of a mask, nearest neighbour, False off the grid."""
    return np.stack([ndimage.map_coordinates(plane.view(np.uint8), grid, order=0) > 0 for plane in mask])


def _first(hits: MaskArray, radii: Rays) -> Rays:
    return np.where(hits.any(axis=2), radii[hits.argmax(axis=2)], np.nan)


def _last(hits: MaskArray, radii: Rays) -> Rays:
    """0 where a ray meets nothing."""
    last = len(radii) - 1 - hits[:, :, ::-1].argmax(axis=2)
    return np.where(hits.any(axis=2), radii[last], 0.0)


def _from_neighbours(ribs: Rays, lung_end: Rays, spacing_mm: Spacing) -> Rays:
    """The nearest rib in this slice and those around it, where it lies beyond the lung of this slice."""
    reach = int(NEIGHBOUR_MM // spacing_mm[0]) if len(ribs) > 1 else 0
    padded = np.pad(ribs, ((reach, reach), (0, 0)), constant_values=np.nan)
    shifted = [padded[shift : shift + len(ribs)] for shift in range(2 * reach + 1)]
    nearest = np.fmin.reduce(shifted)
    return np.where(nearest > lung_end, nearest, np.nan)


def _without_strays(ribs: Rays) -> Rays:
    """Ribs lie on a smooth curve; what is met farther out than the near third of its neighbours is no rib."""
    wrapped = np.concatenate([ribs[:, -WINDOW:], ribs, ribs[:, :WINDOW]], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(wrapped, 2 * WINDOW + 1, axis=1)
    known = np.isfinite(windows).sum(axis=-1)
    third = np.maximum(known - 1, 0) * 3 // 10
    near = np.take_along_axis(np.sort(windows, axis=-1), third[..., None], axis=-1)[..., 0]  # NaN sorts last
    return np.where(ribs <= near + STRAY_MM, ribs, np.nan)


def _usual_gap(gaps: Rays) -> Rays:
    """(slice,): median distance from lung to rib over the rays where lung touches the wall."""
    touching = np.sort(np.where(gaps < TOUCH_MM, gaps, np.nan), axis=-1)
    middle = np.isfinite(touching).sum(axis=-1) // 2
    median = np.take_along_axis(touching, middle[:, None], axis=-1)[:, 0]
    return np.clip(np.where(np.isfinite(median), median, sum(GAP_MM) / 2), *GAP_MM)
