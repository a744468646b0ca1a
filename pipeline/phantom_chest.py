"""The anatomy of the synthetic chest: what lies where, drawn slab by slab in Hounsfield units.

Drawn in nominal millimetres, centred in plane: x from the patient's right (−) to the left (+), y from front (−)
to back (+), z from the caudal (0) to the cranial end (300) of the stack. The shapes are invented, sizes are those
of an adult; heart and stomach lie on the left and the liver on the right, so that a mirrored picture is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.types import HuArray, LabelArray, Lung, MaskArray

Floats = npt.NDArray[np.float32]
Point = tuple[float, float, float]

HEIGHT_MM, WIDTH_MM, DEPTH_MM = 300.0, 360.0, 290.0  # of the field that the anatomy fills
AIR, LUNG, FAT, MUSCLE, BLOOD, LIVER, BONE, TABLE = -1000.0, -850.0, -100.0, 50.0, 40.0, 60.0, 350.0, 100.0
CARINA: Point = (2.0, 12.0, 182.0)
BRONCHI: tuple[tuple[Point, Point, float], ...] = (
    ((2.0, 2.0, 310.0), CARINA, 9.0),
    (CARINA, (-50.0, 16.0, 150.0), 7.0),
    (CARINA, (56.0, 18.0, 154.0), 6.0),
)
WALL_MM = 2.0


@dataclass(frozen=True)
class Tube:
    """A tapering vessel from one point to another, nominal mm."""

    start: Point
    end: Point
    radii_mm: tuple[float, float]


@dataclass(frozen=True)
class Blob:
    """A lesion as an ellipsoid in nominal mm; `soft_mm` is the width of its edge, half its depth lies outside."""

    centre: Point
    radii_mm: Point
    soft_mm: float
    hu: float
    solid: bool


@dataclass(frozen=True)
class Slab:
    """Voxel centres of some slices, nominal mm, shaped to broadcast to (slice, row, column)."""

    z: Floats
    y: Floats
    x: Floats
    voxel_mm: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        return self.z.size, self.y.size, self.x.size


@dataclass(frozen=True)
class Drawn:
    """One slab: HU and truth; `ggo` and `consolidation` lie inside the lungs and do not overlap."""

    hu: HuArray
    labels: LabelArray
    ggo: MaskArray
    consolidation: MaskArray


def draw(slab: Slab, vessels: Sequence[Tube], blobs: Sequence[Blob], noise_hu: float, seed: int) -> Drawn:
    """Draw one slab. The same arguments give the same voxels."""
    rng = np.random.default_rng(seed)
    hu, labels = _tissue(slab)
    inside = labels > 0
    rise = np.float32(0.25) * (slab.y + np.float32(100))  # dependent lung is denser
    hu = np.where(inside, np.float32(LUNG) + rise, hu)
    for tube in vessels:
        _draw_tube(hu, slab, tube, BLOOD, inside)
    solid = np.zeros(slab.shape, bool)
    hazy = np.zeros(slab.shape, bool)
    for blob in sorted(blobs, key=lambda blob: blob.solid):
        truth = solid if blob.solid else hazy
        _draw_blob(hu, slab, blob, inside, truth, rng)
    for start, end, radius in BRONCHI:
        tube = Tube(start, end, (radius + WALL_MM, radius + WALL_MM))
        labels[_draw_tube(hu, slab, tube, MUSCLE, None)] = Lung.BACKGROUND
    for start, end, radius in BRONCHI:
        _draw_tube(hu, slab, Tube(start, end, (radius, radius)), AIR, None)
    inside = labels > 0
    grain = rng.standard_normal(slab.shape, dtype=np.float32)
    # Reconstructed noise is correlated in plane; the blur takes the standard deviation down, the factor back up.
    hu += np.float32(noise_hu / 0.41) * ndimage.gaussian_filter(grain, (0, 0.7, 0.7))
    rounded = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    return Drawn(rounded, labels, hazy & ~solid & inside, solid & inside)


def grow_vessels(seed: int, per_lung: int = 40) -> tuple[Tube, ...]:
    """Vessels from each hilum outwards, each with a bend; they thin towards the pleura."""
    rng = np.random.default_rng(seed)
    tubes = []
    for side in (-1.0, 1.0):
        hilum = np.array([side * 42.0, 14.0, 152.0])
        for _ in range(per_lung):
            reach = np.array([side * rng.uniform(20, 80), rng.uniform(-80, 70), rng.uniform(-105, 105)])
            bend = hilum + 0.5 * reach + rng.normal(0, 8, 3)
            radius = float(rng.uniform(2.0, 4.0))
            tubes.append(Tube(_point(hilum), _point(bend), (radius, 0.7 * radius)))
            tubes.append(Tube(_point(bend), _point(hilum + reach), (0.7 * radius, 0.8)))
    return tuple(tubes)


def _point(values: npt.NDArray[np.float64]) -> Point:
    return float(values[0]), float(values[1]), float(values[2])


def _tissue(slab: Slab) -> tuple[Floats, LabelArray]:
    """Everything but vessels, airways and lesions; and the lungs, still with the bronchi in them."""
    x, y, z = slab.x, slab.y, slab.z
    body = (np.abs(x) / 166) ** 2.4 + (np.abs(y) / 118) ** 2.4
    hu: Floats = np.full(slab.shape, AIR, np.float32)
    hu[np.broadcast_to(body < 1, slab.shape)] = FAT
    hu[np.broadcast_to(body < 0.84, slab.shape)] = MUSCLE
    hu[np.broadcast_to((np.abs(y - 128) < 4) & (np.abs(x) < 150), slab.shape)] = TABLE
    taper = np.sqrt(np.clip(1 - (np.maximum(z - 120, 0) / 162) ** 2, 0, 1))
    cavity = np.sqrt((x / 132) ** 2 + ((y - 5) / 93) ** 2)
    shell = cavity / np.maximum(taper, 0.4)
    rib = (shell > 1.03) & (shell < 1.09) & ((z - 0.5 * y) % 28 < 9)
    hu[np.broadcast_to(rib, slab.shape)] = BONE
    _draw_abdomen(hu, slab)
    heart = _ellipsoid(slab, (26, -30, 108), (62, 50, 62))
    spine = np.broadcast_to(np.hypot(x / 21, (y - 76) / 18), slab.shape)
    aorta = np.broadcast_to(np.hypot(x - 24, y - 54), slab.shape)
    middle = np.abs(x - 3) < 9 + 28 * np.exp(-(((y - 22) / 45) ** 2))
    lungs = (cavity < taper) & ~middle & (z > _dome(slab)) & (heart > 1) & (spine > 1.25) & (aorta > 14)
    hu[(spine < 1) & ~lungs] = 0.6 * BONE
    hu[np.hypot(spine * 21, 0) < 6] = BLOOD  # the canal
    hu[(aorta < 12) & ~lungs] = BLOOD
    labels = np.where(lungs, np.where(x < 3, np.uint8(Lung.RIGHT), np.uint8(Lung.LEFT)), np.uint8(0))
    return hu, labels


def _dome(slab: Slab) -> Floats:
    """Height of the diaphragm; the right dome is the higher one."""
    x, y = slab.x, slab.y
    right = 58 * np.exp(-(((x + 65) / 58) ** 2) - (((y - 0) / 70) ** 2))
    left = 44 * np.exp(-(((x - 70) / 58) ** 2) - (((y - 0) / 70) ** 2))
    return np.asarray(24 + right + left, dtype=np.float32)


def _draw_abdomen(hu: Floats, slab: Slab) -> None:
    """Liver on the right and a stomach with gas on the left, below the diaphragm."""
    below = slab.z < _dome(slab) - 4
    inner = (slab.x / 128) ** 2 + ((slab.y - 5) / 90) ** 2 < 1
    hu[below & inner & (slab.x < 20)] = LIVER
    hu[_ellipsoid(slab, (70, -25, 20), (34, 28, 26)) < 1] = LIVER - 30
    hu[(_ellipsoid(slab, (70, -25, 20), (30, 24, 22)) < 1) & (slab.y < -25)] = AIR


def _ellipsoid(slab: Slab, centre: Point, radii: Point) -> Floats:
    """1 on the surface, less inside."""
    squares = (
        ((slab.x - centre[0]) / radii[0]) ** 2
        + ((slab.y - centre[1]) / radii[1]) ** 2
        + ((slab.z - centre[2]) / radii[2]) ** 2
    )
    return np.asarray(np.sqrt(squares), dtype=np.float32)


def _box(slab: Slab, low: Point, high: Point) -> tuple[slice, slice, slice] | None:
    """Index ranges of the voxels within a box, or None where it misses the slab."""
    ranges = []
    for axis, values in enumerate((slab.x, slab.y, slab.z)):
        flat = values.ravel()
        first, last = np.searchsorted(flat, low[axis]), np.searchsorted(flat, high[axis])
        if first >= last:
            return None
        ranges.append(slice(int(first), int(last)))
    return ranges[2], ranges[1], ranges[0]


def _cut(slab: Slab, box: tuple[slice, slice, slice]) -> Slab:
    return Slab(slab.z[box[0]], slab.y[:, box[1]], slab.x[:, :, box[2]], slab.voxel_mm)


def _draw_tube(hu: Floats, slab: Slab, tube: Tube, value: float, within: MaskArray | None) -> MaskArray:
    """Blend a tube into `hu` with partial volume at its rim; gives the voxels of which it fills half or more."""
    start, end = np.array(tube.start), np.array(tube.end)
    margin = max(tube.radii_mm) + slab.voxel_mm
    mask = np.zeros(slab.shape, bool)
    box = _box(slab, _point(np.minimum(start, end) - margin), _point(np.maximum(start, end) + margin))
    if box is None:
        return mask
    part = _cut(slab, box)
    axis = (end - start).astype(np.float32)
    dx, dy, dz = part.x - np.float32(start[0]), part.y - np.float32(start[1]), part.z - np.float32(start[2])
    along = np.clip((dx * axis[0] + dy * axis[1] + dz * axis[2]) / np.float32(axis @ axis), 0, 1)
    square = (dx - along * axis[0]) ** 2 + (dy - along * axis[1]) ** 2 + (dz - along * axis[2]) ** 2
    radius = tube.radii_mm[0] + along * (tube.radii_mm[1] - tube.radii_mm[0])
    share = np.clip((radius - np.sqrt(square)) / slab.voxel_mm + 0.5, 0, 1).astype(np.float32)
    if within is not None:
        share *= within[box]
    hu[box] += share * (np.float32(value) - hu[box])
    mask[box] = share >= 0.5
    return mask


def _draw_blob(
    hu: Floats, slab: Slab, blob: Blob, within: MaskArray, truth: MaskArray, rng: np.random.Generator
) -> None:
    """Blend a lesion into the lung and mark the voxels of which it fills half or more in `truth`."""
    centre, radii = np.array(blob.centre), np.array(blob.radii_mm)
    reach = radii + 2 * blob.soft_mm
    box = _box(slab, _point(centre - reach), _point(centre + reach))
    if box is None:
        return
    part = _cut(slab, box)
    depth = (1 - _ellipsoid(part, blob.centre, blob.radii_mm)) * np.float32(radii.min())  # mm, roughly
    share = (1 / (1 + np.exp(-4 * depth / blob.soft_mm))) * within[box]
    texture = ndimage.gaussian_filter(rng.standard_normal(depth.shape, dtype=np.float32), 1.5)
    target = np.maximum(hu[box], blob.hu + 150 * texture * (not blob.solid))  # vessels show through ground glass
    hu[box] += (share * (target - hu[box])).astype(np.float32)
    truth[box] |= share >= 0.5
