"""Dense lung: what an air threshold leaves out of one lung, brought back from its pleural side.

Consolidated lung has the density of the chest wall, so its border is not seen; it is taken from the shape of the
aerated rest, from air pockets inside the lesion and from the ribs. The mediastinal side and the front are left as
they are: heart, vessels and liver have the same density. Everything is done slice by slice, on arrays
(slice, row, column) in canonical order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, spatial

from pipeline.arrays import MaskArray
from pipeline.lung_air import IN_PLANE, Floats, Spacing, disc, fill_holes, pixels
from pipeline.lung_ribs import Wall

GROW_HU = -150.0  # ground glass and mottled consolidation are darker, fat (−120 … −80) is not
FAT_HU = (-250.0, -40.0, 10.0)  # range and step of the histogram that the scale is checked with
FAT_PEAK_SHARE = 0.4  # of that histogram, in three of its bins
BELOW_FAT_HU = 50.0
POCKET_HU = -170.0
BONE_HU = 180.0
CLOSE_MM = 10.0  # vessels and fissures
SKIN_MM, DEEP_MM = 5.0, 10.0
AIRWAY_WALL_MM = 4.0
RIM_MM = 3.0  # half of what is taken for a blurred border
POCKET_AREA_MM2 = 25.0
MIN_LUNG_AREA_MM2 = 500.0
POCKET_LUNG_AREA_MM2 = 3000.0  # below the dome a lung is a thin crescent and bowel gas is near
MIDLINE_MM = 25.0
HOLLOW_MM2 = 10000.0
FORWARD, MEDIAL = -0.2, -0.8  # direction cosines, beyond which a hollow opens forward or to the mediastinum


@dataclass(frozen=True)
class Chest:
    """What surrounds the lungs, on one grid.

    Attributes:
        airways: air of trachea, main bronchi and oesophagus.
        middle: column between the lungs.
        wall: the ribs around the lungs.
    """

    hu: Floats
    body: MaskArray
    airways: MaskArray
    spacing_mm: Spacing
    middle: float
    wall: Wall


def grow(hu: Floats, air: MaskArray, body: MaskArray, airways: MaskArray, spacing_mm: Spacing) -> MaskArray:
    """Add what is connected to aerated lung in its slice, darker than fat, and not the rim of skin or airways."""
    smooth = ndimage.gaussian_filter(hu, (0, 1.5 / spacing_mm[1], 1.5 / spacing_mm[2]))
    inside = ndimage.binary_erosion(body, disc(pixels(SKIN_MM, spacing_mm)))
    rim = ndimage.binary_dilation(airways, disc(pixels(AIRWAY_WALL_MM, spacing_mm)))
    limits = [_grow_limit(plane[around]) for plane, around in zip(smooth, inside & ~air, strict=True)]
    dense = (smooth < np.array(limits)[:, None, None]) & inside & ~rim & ~air
    # The blurred border of aerated lung is such a rim too, but thin.
    dense = ndimage.binary_opening(dense, disc(pixels(RIM_MM, spacing_mm)))
    labels, count = ndimage.label(dense | air, IN_PLANE)
    touched = np.zeros(count + 1, dtype=bool)
    touched[np.unique(labels[air])] = True
    touched[0] = False
    return np.asarray(touched[labels])


def _grow_limit(hu: npt.NDArray[np.float32]) -> float:
    """`GROW_HU`, or less where the fat of a slice is darker than it should be, because its scale is off."""
    counts, edges = np.histogram(hu, np.arange(*FAT_HU))
    peaks = np.convolve(counts, np.ones(3), mode="same")
    if peaks.max() < FAT_PEAK_SHARE * max(1, counts.sum()):  # lesions are spread wider than fat
        return GROW_HU
    return min(GROW_HU, float(edges[peaks.argmax()]) + FAT_HU[2] / 2 - BELOW_FAT_HU)


def fill_lung(lung: MaskArray, side: MaskArray, right: bool, chest: Chest) -> MaskArray:
    """One lung with its dense lesions.

    Args:
        lung: aerated and grown lung of this side.
        side: the half of the chest.
        right: the patient's right, which lies at low columns.
    """
    closed = close_in_plane(lung, chest.spacing_mm)
    filled = _fill_hollows(closed | _air_pockets(closed, side, chest), right, chest)
    changed = (filled != closed).any(axis=(1, 2))
    filled[changed] = close_in_plane(filled[changed], chest.spacing_mm) & side[changed]
    supported = _fill_hollows(filled | _wall_of(filled, right, chest), right, chest)
    # The points of the wall themselves, and spikes towards them, go away again.
    return np.asarray(ndimage.binary_opening(supported, disc(2)) | filled)


def close_in_plane(mask: MaskArray, spacing_mm: Spacing, largest_hole_mm2: float = np.inf) -> MaskArray:
    """Closing with a disc of `CLOSE_MM`, then the holes filled, but those larger than the limit."""
    sampling = spacing_mm[1:]
    margin = int(np.ceil(CLOSE_MM / min(sampling))) + 2
    closed = mask.copy()
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        plane = np.pad(mask[index], margin)
        near = ndimage.distance_transform_edt(~plane, sampling=sampling) <= CLOSE_MM
        core = ndimage.distance_transform_edt(near, sampling=sampling) > CLOSE_MM
        closed[index] |= core[margin:-margin, margin:-margin]
    holes, count = ndimage.label(fill_holes(closed) & ~closed, IN_PLANE)
    small = np.bincount(holes.ravel(), minlength=count + 1) * spacing_mm[1] * spacing_mm[2] <= largest_hole_mm2
    small[0] = False
    return np.asarray(closed | small[holes])


def _air_pockets(lung: MaskArray, side: MaskArray, chest: Chest) -> MaskArray:
    """Bronchograms and other pockets of air behind the lung's centre, cut off from it by dense lesions."""
    spacing = chest.spacing_mm
    pixel_mm2 = spacing[1] * spacing[2]
    deep = ndimage.binary_erosion(chest.body, disc(pixels(DEEP_MM, spacing)))
    rim = ndimage.binary_dilation(chest.airways, disc(pixels(AIRWAY_WALL_MM, spacing)))
    labels, count = ndimage.label((chest.hu < POCKET_HU) & deep & side & ~lung & ~rim, IN_PLANE)
    areas = np.bincount(labels.ravel(), minlength=count + 1) * pixel_mm2
    lung_areas = lung.sum(axis=(1, 2)) * pixel_mm2
    chosen = np.zeros(count + 1, dtype=bool)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        index = box[0].start
        if areas[label] >= POCKET_AREA_MM2 and lung_areas[index] >= POCKET_LUNG_AREA_MM2:
            row, column = _centre(labels[index] == label)
            behind = row > _centre(lung[index])[0] and not chest.wall.is_beyond(index, row, column)
            chosen[label] = behind and abs(column - chest.middle) * spacing[2] > MIDLINE_MM
    return np.asarray(chosen[labels])


def _centre(plane: MaskArray) -> tuple[float, float]:
    row, column = ndimage.center_of_mass(plane)
    return float(row), float(column)


def _wall_of(lung: MaskArray, right: bool, chest: Chest) -> MaskArray:
    """Points on the inner side of the ribs, behind the lung's centre and away from the spine."""
    stamped = np.zeros_like(lung)
    sign = -1.0 if right else 1.0
    for index in np.flatnonzero(_areas(lung, chest.spacing_mm) >= MIN_LUNG_AREA_MM2):
        rows, columns = chest.wall.points(int(index), lung.shape[1:])
        lateral = sign * (columns - chest.middle) * chest.spacing_mm[2] > MIDLINE_MM
        kept = lateral & (rows > _centre(lung[index])[0])
        stamped[index, rows[kept], columns[kept]] = True
    return stamped


def _areas(mask: MaskArray, spacing_mm: Spacing) -> npt.NDArray[np.float64]:
    return np.asarray(mask.sum(axis=(1, 2)) * spacing_mm[1] * spacing_mm[2], dtype=np.float64)


def _fill_hollows(lung: MaskArray, right: bool, chest: Chest) -> MaskArray:
    """Fill the hollows of the convex hull that open to the costal side, up to an area; not bone, not outside."""
    filled = lung.copy()
    tissue = (chest.hu < BONE_HU) & chest.body
    for index in np.flatnonzero(_areas(lung, chest.spacing_mm) >= MIN_LUNG_AREA_MM2):
        ((rows, columns),) = ndimage.find_objects(lung[index].astype(np.uint8))
        hollows = _costal_hollows(lung[index, rows, columns], right, chest.spacing_mm)
        filled[index, rows, columns] |= hollows & tissue[index, rows, columns]
    return filled


def _costal_hollows(plane: MaskArray, right: bool, spacing_mm: Spacing) -> MaskArray:
    """Hollows of a 2D mask that open to the side or back, without what is nearer to the mediastinum."""
    hull, towards_wall = _hull(plane, right, spacing_mm)
    hollows, count = ndimage.label(hull & ~plane)
    chosen = np.bincount(hollows.ravel(), minlength=count + 1) * spacing_mm[1] * spacing_mm[2] <= HOLLOW_MM2
    chosen[0] = False
    rim = hull & ~ndimage.binary_erosion(hull)
    centre = _centre(hull)
    for label in np.flatnonzero(chosen):
        mouth = np.argwhere((hollows == label) & rim)
        if len(mouth) == 0:
            chosen[label] = False
            continue
        back, left = (mouth.mean(axis=0) - centre) * spacing_mm[1:]
        length = max(float(np.hypot(back, left)), 1e-6)
        chosen[label] = _is_costal(back / length, left / length, right)
    return np.asarray(chosen[hollows] & towards_wall)


def _hull(plane: MaskArray, right: bool, spacing_mm: Spacing) -> tuple[MaskArray, MaskArray]:
    """The filled convex hull of a 2D mask, and where its nearest face is one towards the side or back."""
    points = np.argwhere(plane & ~ndimage.binary_erosion(plane)) * spacing_mm[1:]
    try:
        faces = spatial.ConvexHull(points).equations
    except spatial.QhullError:  # all points on one line
        return plane, np.zeros_like(plane)
    rows, columns = (np.arange(size) * length for size, length in zip(plane.shape, spacing_mm[1:], strict=True))
    # Signed distance to the nearest of the other faces, and to the nearest of the costal ones; negative inside.
    nearest = np.full((2, *plane.shape), -np.inf)
    for row, column, offset in faces:
        kind = int(_is_costal(row, column, right))
        np.maximum(nearest[kind], row * rows[:, None] + column * columns + offset, out=nearest[kind])
    hull = nearest.max(axis=0) <= 0.3 * spacing_mm[1]  # through pixel centres, a little rounded
    return np.asarray(hull | plane), np.asarray(nearest[1] >= nearest[0])


def _is_costal(backward: float, leftward: float, right: bool) -> bool:
    """Whether a direction (cosines) from the lung's centre points to the chest wall at the side or back."""
    lateral = -leftward if right else leftward
    return lateral > MEDIAL and backward > FORWARD
