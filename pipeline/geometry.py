"""Where slices lie in the patient: order, gaps, tilt, and the way from source grid to canonical grid.

Positions and directions are LPS millimetres (PS3.3 C.7.6.2.1.1). The slice normal is the cross product of the row
direction and the column direction of ImageOrientationPatient; slices are ordered along it, never by z,
SliceLocation or InstanceNumber. numpy and the standard library only: the node uses this module too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Orientation = tuple[float, float, float, float, float, float]

DIRECTION_TOLERANCE = 1e-3  # of a direction cosine: 0.06 degrees
UNIT_TOLERANCE = 1e-2  # of the length of a direction, and of the cosine between row and column
SPACING_TOLERANCE = 1e-3  # relative, of PixelSpacing within a series
SAME_POSITION_MM = 0.01
MAX_TILT_DEG = 1.0  # an affine carries so much shear; a network does not see it
MAX_SHIFT_MM = 1.0  # of one slice against the line through all of them
GAP_FACTOR = 1.5  # of the usual step
UNEVEN_FACTOR = 0.5  # of the usual step: nearer neighbours, or so far from an even grid
NAMED_POSITIONS = 5  # in the text of a fault


@dataclass(frozen=True)
class Slice:
    """The geometry of one instance.

    Attributes:
        key: names the slice to its owner, e.g. the SOPInstanceUID.
        position_mm: ImagePositionPatient, the centre of the first voxel.
        orientation: ImageOrientationPatient: row direction, then column direction.
        pixel_spacing_mm: PixelSpacing: distance between rows, then between columns.
        rows, columns: Rows and Columns.
    """

    key: str
    position_mm: tuple[float, float, float]
    orientation: Orientation
    pixel_spacing_mm: tuple[float, float]
    rows: int
    columns: int


@dataclass(frozen=True)
class Limits:
    """What a series must keep to be analysed."""

    min_slices: int
    max_slice_spacing_mm: float
    max_oblique_deg: float


class FaultKind(StrEnum):
    """What can be wrong with the geometry of a series."""

    GAP = "gap"
    DUPLICATE = "duplicate"
    ORIENTATION = "orientation"
    SIZE = "size"
    TILT = "tilt"
    FEW = "few"
    SPACING = "spacing"
    NOT_AXIAL = "not axial"


@dataclass(frozen=True)
class Fault:
    """One fault: a sentence, and where. `positions_mm` are measured along the slice normal, towards the head.

    For a GAP they are the positions of the missing slices, for a DUPLICATE those that occur more than once.
    """

    kind: FaultKind
    text: str
    positions_mm: tuple[float, ...] = ()


@dataclass(frozen=True)
class Assessment:
    """Result of `assess`.

    Attributes:
        order: indices of all slices, sorted along the normal of the series; slices without a usable position,
            or with another orientation than most, come last.
        spacing_mm: the usual distance of neighbours (median over all steps); 0.0 where there are no two.
        faults: empty where the series is one regular stack within the limits.
    """

    order: tuple[int, ...]
    spacing_mm: float
    faults: tuple[Fault, ...]


def assess(slices: Sequence[Slice], limits: Limits) -> Assessment:
    """Order a series and name every fault of its geometry. Never raises: odd values become faults."""
    usable = [index for index, item in enumerate(slices) if _is_usable(item)]
    faults: list[Fault] = []
    if len(usable) < len(slices):
        count = len(slices) - len(usable)
        faults.append(Fault(FaultKind.ORIENTATION, f"{count} slice(s) have no usable position or orientation"))
    if len(slices) < limits.min_slices:
        faults.append(Fault(FaultKind.FEW, f"{len(slices)} slices, at least {limits.min_slices} are needed"))
    if not usable:
        return Assessment(tuple(range(len(slices))), 0.0, tuple(faults))
    reference = _commonest_orientation([slices[index] for index in usable])
    stack = [index for index in usable if _same_direction(slices[index].orientation, reference)]
    if len(stack) < len(usable):
        text = f"{len(usable) - len(stack)} of {len(usable)} slices have another orientation than the rest"
        faults.append(Fault(FaultKind.ORIENTATION, text))
    faults.extend(_size_faults([slices[index] for index in stack]))
    faults.extend(_axial_faults(reference, limits))
    positions = np.array([slices[index].position_mm for index in stack], dtype=np.float64)
    ranks = np.argsort(positions @ normal(reference), kind="stable")
    spacing, stack_faults = _assess_stack(positions[ranks], reference, limits)
    in_order = [stack[rank] for rank in ranks]
    others = sorted(set(range(len(slices))) - set(in_order))
    return Assessment((*in_order, *others), spacing, (*faults, *stack_faults))


def normal(orientation: Sequence[float]) -> Vector:
    """Unit slice normal: row direction × column direction (PS3.3 C.7.6.2.1.1)."""
    cross = np.cross(np.asarray(orientation[:3], dtype=np.float64), np.asarray(orientation[3:], dtype=np.float64))
    return np.asarray(cross / np.linalg.norm(cross), dtype=np.float64)


def _is_usable(item: Slice) -> bool:
    """Finite numbers, unit directions at right angles, positive spacing and size."""
    numbers = (*item.position_mm, *item.orientation, *item.pixel_spacing_mm)
    if (len(item.position_mm), len(item.orientation), len(item.pixel_spacing_mm)) != (3, 6, 2):
        return False
    # 1e7 mm keeps products finite: no patient is ten kilometres away from the origin.
    if not all(math.isfinite(number) and abs(number) < 1e7 for number in numbers):
        return False
    row, column = np.array(item.orientation[:3]), np.array(item.orientation[3:])
    unit = max(abs(float(np.linalg.norm(direction)) - 1.0) for direction in (row, column)) < UNIT_TOLERANCE
    square = abs(float(row @ column)) < UNIT_TOLERANCE
    return unit and square and min(item.pixel_spacing_mm) > 0 and item.rows > 0 and item.columns > 0


def _same_direction(one: Sequence[float], other: Sequence[float]) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= DIRECTION_TOLERANCE


def _commonest_orientation(slices: Sequence[Slice]) -> Orientation:
    counts = Counter(tuple(round(value, 3) + 0.0 for value in item.orientation) for item in slices)
    ((commonest, _),) = counts.most_common(1)
    return next(
        item.orientation
        for item in slices
        if tuple(round(value, 3) + 0.0 for value in item.orientation) == commonest
    )


def _size_faults(slices: Sequence[Slice]) -> list[Fault]:
    faults = []
    sizes = Counter((item.rows, item.columns) for item in slices)
    if len(sizes) > 1:
        listed = ", ".join(f"{count} of {rows} x {columns}" for (rows, columns), count in sizes.most_common())
        faults.append(Fault(FaultKind.SIZE, f"slices of different size: {listed}"))
    spacings = np.array([item.pixel_spacing_mm for item in slices], dtype=np.float64)
    if bool((np.ptp(spacings, axis=0) > SPACING_TOLERANCE * spacings.min(axis=0)).any()):
        low, high = spacings.min(), spacings.max()
        faults.append(Fault(FaultKind.SIZE, f"PixelSpacing differs between slices: {low:.4f} to {high:.4f} mm"))
    return faults


def _axial_faults(orientation: Orientation, limits: Limits) -> list[Fault]:
    angle = math.degrees(math.acos(min(1.0, abs(float(normal(orientation)[2])))))
    if angle <= limits.max_oblique_deg:
        return []
    text = f"slices are not axial: {angle:.0f} degrees from it, the limit is {limits.max_oblique_deg:g}"
    return [Fault(FaultKind.NOT_AXIAL, text)]


def _assess_stack(positions: Vector, orientation: Orientation, limits: Limits) -> tuple[float, list[Fault]]:
    """Spacing and faults of positions that are sorted along the normal of their common orientation."""
    along = positions @ normal(orientation)
    headward = 1.0 if normal(orientation)[2] >= 0 else -1.0
    steps = np.diff(along)
    repeated = steps < SAME_POSITION_MM
    faults = []
    if repeated.any():
        where = sorted({round(float(value), 3) for value in headward * along[1:][repeated]})
        text = f"{int(repeated.sum())} slice(s) lie where another one lies, at {_listed(where)}"
        faults.append(Fault(FaultKind.DUPLICATE, text, tuple(where)))
    kept = positions[np.concatenate(([True], ~repeated))]
    if len(kept) < 2:
        return 0.0, faults
    along, steps = kept @ normal(orientation), steps[~repeated]
    spacing = float(np.median(steps))
    faults += _gap_faults(along, steps, spacing, headward)
    faults += _spacing_faults(along, steps, spacing, limits)
    faults += _tilt_faults(kept, orientation)
    return spacing, faults


def _gap_faults(along: Vector, steps: Vector, spacing: float, headward: float) -> list[Fault]:
    missing: list[float] = []
    for index in np.flatnonzero(steps > GAP_FACTOR * spacing):
        count = max(1, round(float(steps[index] / spacing)) - 1)
        # A single far-off slice must not fill memory with positions: the first hundred are named.
        fractions = np.arange(1, min(count, 100) + 1) / (count + 1)
        missing += [float(value) for value in headward * (along[index] + fractions * steps[index])]
    if not missing:
        return []
    where = sorted(round(value, 3) for value in missing)
    text = f"{len(where)} slices are missing, at {_listed(where)} (usual distance {spacing:.2f} mm)"
    return [Fault(FaultKind.GAP, text, tuple(where))]


def _spacing_faults(along: Vector, steps: Vector, spacing: float, limits: Limits) -> list[Fault]:
    faults = []
    if spacing > limits.max_slice_spacing_mm + SAME_POSITION_MM:  # 0.1 + 10 is not 10.1 in binary
        text = f"slices are {spacing:.2f} mm apart, the limit is {limits.max_slice_spacing_mm:g} mm"
        faults.append(Fault(FaultKind.SPACING, text))
    if (steps > GAP_FACTOR * spacing).any():  # told as a gap already; a grid through it means nothing
        return faults
    _, residual = _fit(along[:, None])
    uneven = max(float(np.abs(residual).max()), spacing - float(steps.min()))
    if uneven > UNEVEN_FACTOR * spacing:
        text = f"slices are unevenly spaced: {steps.min():.2f} to {steps.max():.2f} mm, usually {spacing:.2f} mm"
        faults.append(Fault(FaultKind.SPACING, text))
    return faults


def _tilt_faults(positions: Vector, orientation: Orientation) -> list[Fault]:
    """Gantry tilt (the stack leans) and single slices that are shifted sideways."""
    axis = normal(orientation)
    along = positions @ axis
    lateral = positions - along[:, None] * axis
    depth = along - along.mean()
    lean = depth @ lateral / float(depth @ depth)  # mm sideways per mm along the normal
    angle = math.degrees(math.atan(float(np.linalg.norm(lean))))
    shift = float(np.linalg.norm(lateral - lateral.mean(axis=0) - depth[:, None] * lean, axis=1).max())
    if angle > MAX_TILT_DEG:
        return [Fault(FaultKind.TILT, f"the gantry was tilted: the stack leans by {angle:.1f} degrees")]
    if shift > MAX_SHIFT_MM:
        return [Fault(FaultKind.TILT, f"slices are shifted sideways against each other by up to {shift:.1f} mm")]
    return []


def _fit(values: Vector) -> tuple[Vector, Vector]:
    """Least-squares step per index of (n, k) values, and the residuals."""
    index = np.arange(len(values), dtype=np.float64)
    index -= index.mean()
    step = index @ values / float(index @ index)
    return step, values - values.mean(axis=0) - index[:, None] * step


def _listed(positions: Sequence[float]) -> str:
    named = ", ".join(f"{value:.2f}" for value in positions[:NAMED_POSITIONS])
    more = "" if len(positions) <= NAMED_POSITIONS else f" and {len(positions) - NAMED_POSITIONS} more"
    return f"{named} mm{more}"


@dataclass(frozen=True)
class Arrangement:
    """How the axes of a source stack become the canonical ones (see `pipeline.types`).

    Attributes:
        transpose: canonical rows are source columns.
        flips: for each canonical axis (slice, row, column), whether it runs against the source axis.
    """

    transpose: bool
    flips: tuple[bool, bool, bool]

    def to_canonical(self, source: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A (slice, row, column) stack, sorted along the source normal, in canonical order (a view)."""
        turned = source.transpose(0, 2, 1) if self.transpose else source
        return np.flip(turned, tuple(axis for axis, flipped in enumerate(self.flips) if flipped))

    def affine(self, source_affine: Vector, shape: tuple[int, int, int]) -> Vector:
        """Affine of the canonical grid: (column, row, slice, 1) to LPS mm.

        Args:
            source_affine: the same of the source grid.
            shape: (slices, rows, columns) of the canonical grid.
        """
        index = np.eye(4)  # canonical (column, row, slice, 1) to source
        for axis in range(3):
            if self.flips[2 - axis]:
                index[axis, axis] = -1.0
                index[axis, 3] = shape[2 - axis] - 1
        if self.transpose:
            index[[0, 1]] = index[[1, 0]]
        return np.asarray(source_affine @ index, dtype=np.float64)


def arrangement(orientation: Sequence[float]) -> Arrangement:
    """The arrangement that brings slices of this orientation nearest to caudal→cranial, front→back, right→left.

    Exact for any slices that are less than 45 degrees from axial; turned in plane, the nearest quarter turn.
    """
    row, column = np.asarray(orientation[:3], dtype=np.float64), np.asarray(orientation[3:], dtype=np.float64)
    # A quarter turn is chosen by both directions together, so that 45 degrees in plane cannot give two equal axes.
    transpose = abs(row[1]) + abs(column[0]) > abs(row[0]) + abs(column[1])
    along_columns, along_rows = (column, row) if transpose else (row, column)
    flips = (bool(normal(orientation)[2] < 0), bool(along_rows[1] < 0), bool(along_columns[0] < 0))
    return Arrangement(bool(transpose), flips)


def source_affine(slices: Sequence[Slice]) -> Vector:
    """4×4 affine, (column, row, slice, 1) to LPS mm, of slices sorted along their normal (PS3.3 eq. C.7.6.2.1-1).

    The slice step is fitted through the positions of all slices, not taken from the first and the last.
    """
    first = slices[0]
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    positions = np.array([item.position_mm for item in slices], dtype=np.float64)
    affine = np.eye(4)
    affine[:3, 0] = row * first.pixel_spacing_mm[1]
    affine[:3, 1] = column * first.pixel_spacing_mm[0]
    step, residual = _fit(positions)
    affine[:3, 2] = step
    affine[:3, 3] = positions[0] - residual[0]
    return affine
