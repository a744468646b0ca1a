"""What the synthetic chest is drawn on: slices in nominal millimetres, painted over and over like a picture.

Nominal millimetres are centred in plane: x from the patient's right (−) to the left (+), y from front (−) to back
(+), z from the caudal (0) to the cranial end (300) of the stack.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from pipeline.arrays import LabelArray, MaskArray

Floats = npt.NDArray[np.float32]
Point = tuple[float, float, float]
Box = tuple[slice, slice, slice]
HEIGHT_MM, WIDTH_MM, DEPTH_MM = 300.0, 360.0, 290.0  # of the field that the anatomy fills


class Structure(IntEnum):
    """What a voxel is; every voxel is one of these. What lies in the lungs comes last."""

    AIR = 0
    TABLE = 1
    SUBCUTANEOUS_FAT = 2
    BREAST = 3
    MUSCLE = 4
    RIBS = 5
    COSTAL_CARTILAGE = 6
    STERNUM = 7
    CLAVICLES = 8
    SCAPULAE = 9
    VERTEBRAE = 10
    SPINAL_CANAL = 11
    MEDIASTINAL_FAT = 12
    HEART = 13
    AORTA = 14
    PULMONARY_ARTERY = 15
    VENAE_CAVAE = 16
    OESOPHAGUS = 17
    ABDOMINAL_FAT = 18
    LIVER = 19
    SPLEEN = 20
    STOMACH = 21
    STOMACH_GAS = 22
    EFFUSION = 23
    TRACHEA = 24
    AIRWAY_WALL = 25
    RIGHT_UPPER_LOBE = 30
    RIGHT_MIDDLE_LOBE = 31
    RIGHT_LOWER_LOBE = 32
    LEFT_UPPER_LOBE = 33
    LEFT_LOWER_LOBE = 34
    FISSURES = 35
    ARTERIES = 36
    VEINS = 37
    BRONCHIAL_WALL = 38
    BRONCHI = 39


@dataclass(frozen=True)
class Slab:
    """Voxel centres of some slices, nominal mm, shaped to broadcast to (slice, row, column)."""

    z: Floats
    y: Floats
    x: Floats
    voxel_mm: float
    slice_mm: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        return self.z.size, self.y.size, self.x.size

    def cut(self, box: Box) -> Slab:
        """A part of it."""
        return Slab(self.z[box[0]], self.y[:, box[1]], self.x[:, :, box[2]], self.voxel_mm, self.slice_mm)

    def box(self, low: Point, high: Point) -> Box | None:
        """Index ranges of the voxels between two corners, or None where they miss the slab."""
        ranges = []
        for axis, values in enumerate((self.x, self.y, self.z)):
            flat = values.ravel()
            first, last = np.searchsorted(flat, low[axis]), np.searchsorted(flat, high[axis])
            if first >= last:
                return None
            ranges.append(slice(int(first), int(last)))
        return ranges[2], ranges[1], ranges[0]

    def ball(self, centre: Point, radii: Point) -> Floats:
        """Square of the distance in radii: 1 on the surface of an ellipsoid, less inside."""
        squares = (
            ((self.x - centre[0]) / radii[0]) ** 2
            + ((self.y - centre[1]) / radii[1]) ** 2
            + ((self.z - centre[2]) / radii[2]) ** 2
        )
        return np.asarray(squares, dtype=np.float32)


@dataclass(frozen=True)
class Tube:
    """A tapering vessel or airway from one point to another, nominal mm."""

    start: Point
    end: Point
    radii_mm: tuple[float, float]

    def wider(self, by_mm: float) -> Tube:
        """The same with a wall."""
        return Tube(self.start, self.end, (self.radii_mm[0] + by_mm, self.radii_mm[1] + by_mm))


@dataclass(frozen=True)
class Canvas:
    """One slab while it is painted: density and structure of each voxel. What comes later covers the earlier."""

    slab: Slab
    hu: Floats
    structure: LabelArray

    @classmethod
    def blank(cls, slab: Slab) -> Canvas:
        """Nothing but air."""
        return cls(slab, np.full(slab.shape, -1000, np.float32), np.zeros(slab.shape, np.uint8))

    def fill(self, where: MaskArray, structure: Structure, hu: float, box: Box = np.s_[:, :, :]) -> None:
        """Paint a mask, given on `box`; it may be smaller along axes on which it does not depend."""
        np.copyto(self.hu[box], np.float32(hu), where=where)
        np.copyto(self.structure[box], np.uint8(structure), where=where)

    def ellipsoid(self, centre: Point, radii: Point, structure: Structure, hu: float) -> None:
        """Paint an ellipsoid along the axes."""
        low, high = np.subtract(centre, radii), np.add(centre, radii)
        box = self.slab.box(point(low), point(high))
        if box is not None:
            self.fill(self.slab.cut(box).ball(centre, radii) < 1, structure, hu, box)

    def tube(
        self, tube: Tube, structure: Structure, hu: float, within: MaskArray | None = None, rim_mm: float = 0.0
    ) -> None:
        """Blend a tube in, with partial volume in plane and along z; `rim_mm` of mediastinal fat lies around it.

        Args:
            tube: where.
            structure: of the voxels of which it fills half or more.
            hu: its density.
            within: only there, e.g. in the lungs.
            rim_mm: painted first.
        """
        if rim_mm:
            self.tube(tube.wider(rim_mm), Structure.MEDIASTINAL_FAT, -90.0, within)
        start, end = np.array(tube.start), np.array(tube.end)
        margin = max(tube.radii_mm) + np.array([self.slab.voxel_mm] * 2 + [self.slab.slice_mm / 2])
        box = self.slab.box(point(np.minimum(start, end) - margin), point(np.maximum(start, end) + margin))
        if box is None:
            return
        share = _tube_share(self.slab.cut(box), start, (end - start).astype(np.float32), tube.radii_mm)
        if within is not None:
            share *= within[box]
        self.hu[box] += share * (np.float32(hu) - self.hu[box])
        np.copyto(self.structure[box], np.uint8(structure), where=share >= 0.5)


def _tube_share(part: Slab, start: npt.NDArray[np.float64], axis: Floats, radii_mm: tuple[float, float]) -> Floats:
    """Share of each voxel that a tube fills: the mean of two planes of each slice where slices are thick."""
    planes = 2 if part.slice_mm > 2 else 1
    offsets = (np.arange(planes, dtype=np.float32) - (planes - 1) / 2) * np.float32(part.slice_mm / planes)
    z = (part.z.reshape(-1, 1) + offsets).reshape(-1, 1, 1)
    dx, dy, dz = part.x - np.float32(start[0]), part.y - np.float32(start[1]), z - np.float32(start[2])
    along = dx * axis[0] + dy * axis[1] + dz * axis[2]
    along *= 1 / np.float32(max(float(axis @ axis), 1e-6))
    np.clip(along, 0, 1, out=along)
    square = (dx - along * axis[0]) ** 2
    square += (dy - along * axis[1]) ** 2
    square += (dz - along * axis[2]) ** 2
    along *= np.float32(radii_mm[1] - radii_mm[0])
    along += np.float32(radii_mm[0])
    along -= np.sqrt(square, out=square)  # depth below the surface
    along *= np.float32(1 / part.voxel_mm)
    along += np.float32(0.5)
    # A tube thinner than a voxel never fills one.
    most = min(1.0, 2 * max(radii_mm) / part.voxel_mm)
    share: Floats = np.clip(along, 0, most, out=along).reshape(-1, planes, *along.shape[1:]).mean(axis=1)
    return share


def point(values: npt.NDArray[np.float64]) -> Point:
    """x, y and z as plain numbers."""
    return float(values[0]), float(values[1]), float(values[2])
