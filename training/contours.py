"""Structures that radiologists drew, DICOM SEG (PS3.3 A.51) and RT Structure Set (A.19), on the grid of their CT.

Nothing is resampled: a drawing that does not lie on the grid of the CT's voxels is refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from pipeline.arrays import CtVolume, LabelArray, MaskArray
from pipeline.pixels import DAMAGED
from pipeline.volume import MAX_VOXELS
from training.errors import CohortError
from training.polygons import rasterise
from training.structures import Structures, Value

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
SOP_CLASSES = frozenset({SegmentationStorage, LABEL_MAP_STORAGE, RTStructureSetStorage})
OFF_GRID = 0.1  # of a voxel: SEG frames must lie on the CT's voxels
OFF_SLICE = 0.5  # of a slice distance: a contour belongs to the nearest slice
DECIMALS = 3  # of a slice distance: contours of one plane differ in the digits behind
COARSE = 1.5  # slice distances between planes, from which on slices between them lack what was drawn
ALONE = "build the cohort from a folder that holds the series it was drawn on alone"
CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})
LABELS = {Value.INFECTION: 1, Value.GGO: 1, Value.CONSOLIDATION: 2}


@dataclass(frozen=True)
class Drawing:
    """All that one object holds of one kind, on the canonical grid of the CT."""

    value: Value
    mask: MaskArray
    drawn_at: str  # date and time as text that sorts
    names: tuple[str, ...]


@dataclass(frozen=True)
class Drawn:
    """Drawings of an object, and the names of structures that the table does not take."""

    drawings: tuple[Drawing, ...]
    others: tuple[str, ...]


@dataclass(frozen=True)
class _Structure:
    """One segment or ROI that the table takes, by its number."""

    number: int
    name: str
    value: Value


def read(path: Path, ct: CtVolume, table: Structures) -> Drawn:
    """The structures of a SEG or RTSTRUCT that the table names.

    Raises:
        CohortError: the object cannot be read, or does not lie on the grid of the CT; says why.
    """
    try:
        ds = pydicom.dcmread(path)
        contours = ds.SOPClassUID == RTStructureSetStorage
        taken, others = _sorted_out(_rois(ds, table) if contours else _segments(ds, table))
        masks = _roi_masks(ds, ct, taken) if contours else _segment_masks(ds, ct, taken)
        moment = ("StructureSetDate", "StructureSetTime") if contours else ("ContentDate", "ContentTime")
        drawn_at = "".join(str(ds.get(keyword) or "") for keyword in moment)
    except DAMAGED as error:
        first_line = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise CohortError(f"{path.name} cannot be read as a drawing: {first_line}") from error
    drawings = (
        Drawing(value, mask, drawn_at, tuple(one.name for one in taken if one.value is value))
        for value, mask in masks.items()
    )
    return Drawn(tuple(drawings), tuple(others))


def _sorted_out(structures: Iterable[tuple[int, str, Value | None]]) -> tuple[list[_Structure], list[str]]:
    taken, others = [], []
    for number, name, value in structures:
        if value is None:
            others.append(name)
        else:
            taken.append(_Structure(number, name, value))
    return taken, others


def newest(drawings: Iterable[Drawing]) -> dict[Value, Drawing]:
    """Of each kind of structure the drawing that counts."""
    return {drawing.value: drawing for drawing in sorted(drawings, key=lambda one: one.drawn_at)}


def labels(drawings: Iterable[Drawing], ct: CtVolume) -> tuple[LabelArray | None, LabelArray | None]:
    """Label (0, 1 GGO or infection, 2 consolidation) and lung mask; None where nothing of the kind was drawn.

    Of two objects with the same kind of structure the newer one counts.
    """
    counting = newest(drawings)
    lung = counting.pop(Value.LUNG, None)
    label = None
    if counting:
        label = np.zeros(ct.hu.shape, np.uint8)
        for drawing in sorted(counting.values(), key=lambda one: LABELS[one.value]):
            label[drawing.mask] = LABELS[drawing.value]
    return label, None if lung is None else lung.mask.astype(np.uint8)


# --- Segmentation ------------------------------------------------------------------------------------------------


def _segments(ds: Dataset, table: Structures) -> Iterator[tuple[int, str, Value | None]]:
    for segment in ds.SegmentSequence:
        name = str(segment.get("SegmentLabel") or "")
        codes = _codes(segment.get("SegmentedPropertyTypeCodeSequence") or ())
        algorithm = str(segment.get("SegmentAlgorithmType") or "")
        yield int(segment.SegmentNumber), name, table.value(name, codes, algorithm)


def _segment_masks(ds: Dataset, ct: CtVolume, taken: Sequence[_Structure]) -> dict[Value, MaskArray]:
    masks = {one.value: np.zeros(ct.hu.shape, np.bool_) for one in taken}
    wanted = {one.number: masks[one.value] for one in taken}
    planes: set[float] = set()
    if not taken:
        return masks
    _require_frame_of_reference(str(ds.get("FrameOfReferenceUID") or ""), ct)
    frames = int(ds.get("NumberOfFrames") or 1)
    if frames * int(ds.Rows) * int(ds.Columns) > MAX_VOXELS:
        raise CohortError(f"the SEG has {frames} frames of {ds.Rows} x {ds.Columns}: more than this software takes")
    pixels = ds.pixel_array.reshape(frames, int(ds.Rows), int(ds.Columns))
    label_map = ds.SOPClassUID == LABEL_MAP_STORAGE
    least = int(ds.get("MaximumFractionalValue") or 1) / 2  # of a FRACTIONAL one; of a BINARY one ½
    for plane, item in zip(pixels, ds.PerFrameFunctionalGroupsSequence, strict=True):
        for number in wanted if label_map else wanted.keys() & {_segment_number(item, ds)}:
            chosen = plane == number if label_map else plane > least
            if chosen.any():
                columns, rows, slices = _places(np.argwhere(chosen), item, ds, ct)
                wanted[number][slices, rows, columns] = True
                planes |= set(slices.tolist())
    _require_planes_of(ct, planes, ds.get("ReferencedSeriesSequence") or ())
    return masks


def _segment_number(item: Dataset, ds: Dataset) -> int:
    return int(_group(item, ds, "SegmentIdentificationSequence").ReferencedSegmentNumber)


def _group(item: Dataset, ds: Dataset, keyword: str) -> Dataset:
    """A functional group of a frame, or the one that all frames share (PS3.3 C.7.6.16)."""
    holder = item if keyword in item else ds.SharedFunctionalGroupsSequence[0]
    group: Dataset = holder[keyword].value[0]
    return group


def _places(
    pixels: npt.NDArray[np.int64], item: Dataset, ds: Dataset, ct: CtVolume
) -> tuple[npt.NDArray[np.int64], ...]:
    """(column, row, slice) of the CT under these (row, column) pixels of a frame (PS3.3 C.7.6.2.1.1)."""
    orientation = np.array(_group(item, ds, "PlaneOrientationSequence").ImageOrientationPatient, float)
    position = np.array(_group(item, ds, "PlanePositionSequence").ImagePositionPatient, float)
    row_mm, column_mm = map(float, _group(item, ds, "PixelMeasuresSequence").PixelSpacing)
    steps = np.array([orientation[3:] * row_mm, orientation[:3] * column_mm])
    return _on_grid(_indices(pixels @ steps + position, ct), ct)


def _on_grid(indices: npt.NDArray[np.float64], ct: CtVolume) -> tuple[npt.NDArray[np.int64], ...]:
    places = np.rint(indices)
    off = float(np.abs(indices - places).max(initial=0))
    if off > OFF_GRID:
        raise CohortError(f"it was drawn on another grid than the CT's: voxels lie {off:.2f} of a step off")
    slices, rows, columns = ct.hu.shape
    outside = ((places < 0) | (places >= (columns, rows, slices))).any(axis=1)
    if outside.any():
        raise CohortError(f"{int(outside.sum())} of its voxels lie outside the image")
    return tuple(places.astype(np.int64).T)


# --- RT Structure Set --------------------------------------------------------------------------------------------


def _rois(ds: Dataset, table: Structures) -> Iterator[tuple[int, str, Value | None]]:
    codes = {
        int(item.ReferencedROINumber): _codes(item.get("RTROIIdentificationCodeSequence") or ())
        for item in ds.get("RTROIObservationsSequence") or ()
    }
    for roi in ds.StructureSetROISequence:
        number, name = int(roi.ROINumber), str(roi.get("ROIName") or "")
        algorithm = str(roi.get("ROIGenerationAlgorithm") or "")
        yield number, name, table.value(name, codes.get(number, ()), algorithm)


def _roi_masks(ds: Dataset, ct: CtVolume, taken: Sequence[_Structure]) -> dict[Value, MaskArray]:
    masks = {one.value: np.zeros(ct.hu.shape, np.bool_) for one in taken}
    values = {one.number: one.value for one in taken}
    frames = {
        int(roi.ROINumber): str(roi.get("ReferencedFrameOfReferenceUID") or "")
        for roi in ds.StructureSetROISequence
    }
    planes: set[float] = set()
    for roi in ds.get("ROIContourSequence") or ():
        number = int(roi.ReferencedROINumber)
        if number in values:
            _require_frame_of_reference(frames[number], ct)
            mask, own = _filled(roi.get("ContourSequence") or (), ct)
            masks[values[number]] |= mask
            planes |= own
    _require_planes_of(ct, planes, _drawn_on(ds))
    return masks


def _drawn_on(ds: Dataset) -> Iterator[Dataset]:
    """The series that an RTSTRUCT refers to (PS3.3 C.8.8.5)."""
    for frame in ds.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            yield from study.get("RTReferencedSeriesSequence") or ()


def _filled(contours: Iterable[Dataset], ct: CtVolume) -> tuple[MaskArray, set[float]]:
    """The pixels inside the contours of one ROI, and the planes of these, in slices of the CT."""
    mask = np.zeros(ct.hu.shape, np.bool_)
    on: dict[int, float] = {}
    for contour in contours:
        if str(contour.get("ContourGeometricType") or "") == "POINT":
            continue
        plane = _fill(contour, ct, mask)
        apart = abs(plane - on.setdefault(round(plane), plane))
        if apart > OFF_GRID:
            raise CohortError(
                f"its contours lie {apart:.2f} of the CT's slice distance apart: it was drawn on another series "
                f"with thinner slices; {ALONE}"
            )
    return mask, set(on.values())


def _fill(contour: Dataset, ct: CtVolume, mask: MaskArray) -> float:
    """Turn over the pixels inside one contour: one inside another one cuts a hole (PS3.3 C.8.8.6.3). Its plane."""
    kind = str(contour.get("ContourGeometricType") or "")
    if kind not in CLOSED:
        raise CohortError(f"a contour is {kind or 'of no stated type'}, not closed and planar")
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    if len(points) < 3 or not np.isfinite(points).all():
        raise CohortError("a contour has fewer than three points, or points that are not numbers")
    indices = _indices(points, ct)
    along = indices[:, 2]
    if np.ptp(along) > OFF_SLICE:
        raise CohortError("a contour is not parallel to the slices of the CT")
    plane = round(float(along.mean()), DECIMALS)
    place = round(plane)
    slices, rows, columns = ct.hu.shape
    low, high = indices[:, :2].min(axis=0), indices[:, :2].max(axis=0)
    if not 0 <= place < slices or (low < -OFF_SLICE).any() or (high > (columns - 0.5, rows - 0.5)).any():
        raise CohortError("a contour lies outside the image")
    mask[place] ^= rasterise(indices[:, :2], (rows, columns))
    return plane


def _indices(points: npt.NDArray[np.float64], ct: CtVolume) -> npt.NDArray[np.float64]:
    """LPS mm → fractional (column, row, slice) of the canonical grid."""
    return np.asarray((points - ct.affine[:3, 3]) @ np.linalg.inv(ct.affine[:3, :3]).T)


def _require_frame_of_reference(uid: str, ct: CtVolume) -> None:
    wanted = str(ct.headers[0].get("FrameOfReferenceUID") or "")
    if uid and wanted and uid != wanted:
        raise CohortError("it has another frame of reference than the CT")


def _require_planes_of(ct: CtVolume, planes: Collection[float], series: Iterable[Dataset]) -> None:
    """Refuse a drawing on thicker slices of the study, which would leave those between them without a label.

    Only where it names other series than the CT's: on that one a person may have left slices out.
    """
    named = {str(one.get("SeriesInstanceUID") or "") for one in series} - {""}
    steps = np.diff(np.array(sorted(planes), float))
    apart = float(steps[steps > OFF_GRID].min(initial=np.inf))  # nearer ones are one plane, drawn twice
    if named and str(ct.headers[0].get("SeriesInstanceUID")) not in named and COARSE < apart < np.inf:
        raise CohortError(
            f"its planes lie {apart:.1f} of the CT's slice distances apart: it was drawn on another series with "
            f"thicker slices; {ALONE}"
        )


def _codes(items: Iterable[Dataset]) -> list[str]:
    return [f"{item.get('CodeValue', '')} {item.get('CodingSchemeDesignator', '')}" for item in items]
