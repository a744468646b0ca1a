"""A phantom as CT Image Storage (PS3.3 A.3), in any patient position, slice order, encoding and transfer syntax.

Also the place where test series are broken on purpose: dropped, doubled and edited slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import gdcm
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from pipeline.arrays import Affine, CtVolume, HuArray
from pipeline.geometry import Arrangement, arrangement, normal

Orientation = tuple[float, float, float, float, float, float]

# ImageOrientationPatient of a scanner that keeps its picture fixed to the table, seen from the feet end for head
# first, from the head end for feet first (PS3.3 C.7.3.1.1.2: Patient Position).
PATIENT_POSITIONS: Mapping[str, Orientation] = {
    "HFS": (1, 0, 0, 0, 1, 0),
    "HFP": (-1, 0, 0, 0, -1, 0),
    "HFDR": (0, 1, 0, -1, 0, 0),
    "HFDL": (0, -1, 0, 1, 0, 0),
    "FFS": (-1, 0, 0, 0, 1, 0),
    "FFP": (1, 0, 0, 0, -1, 0),
    "FFDR": (0, -1, 0, -1, 0, 0),
    "FFDL": (0, 1, 0, 1, 0, 0),
}
PYDICOM_ENCODES = frozenset({RLELossless, JPEG2000Lossless, JPEGLSLossless})


class Drawing(Protocol):
    """What is written: HU in canonical order and the affine of that grid, e.g. a `pipeline.phantom.Phantom`."""

    @property
    def hu(self) -> HuArray:
        """(slice, row, column)."""

    @property
    def affine(self) -> Affine:
        """(column, row, slice, 1) to LPS mm."""

    @property
    def convolution_kernel(self) -> str:
        """As in (0018,1210), e.g. "B40f"."""


@dataclass(frozen=True)
class SeriesOptions:
    """How a series is written. Slices are counted in order of the source normal, from 0.

    Attributes:
        patient_position: gives ImageOrientationPatient, see `PATIENT_POSITIONS`.
        orientation: another ImageOrientationPatient, along the axes, e.g. with a negative row step.
        oblique_deg: the patient turned about the x, y and z axes, after which the grid is oblique.
        order: of files and InstanceNumber, against the source normal.
        transfer_syntax: any of PS3.5 A.1, A.2, A.5, RLE, JPEG lossless, JPEG-LS lossless, JPEG 2000 lossless.
        signed: PixelRepresentation 1.
        rescale: (slope, intercept), used in turn: with two or more, neighbouring slices differ.
        padding: stored value outside the reconstructed circle; sets PixelPaddingValue.
        uid_seed: all UIDs follow from it; another seed is another study.
        study_seed: the same for the study alone, so that series of one study can be made.
        attributes: any attribute by keyword, over the usual ones; None takes it away.
        drop, double: slices left out, or written a second time under another SOP Instance UID.
        edit: called with slice number and data set before it is encoded.
    """

    patient_position: str = "HFS"
    orientation: Orientation | None = None
    oblique_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    order: Literal["ascending", "descending", "shuffled"] = "ascending"
    transfer_syntax: str = ExplicitVRLittleEndian
    signed: bool = False
    rescale: tuple[tuple[float, float], ...] = ((1.0, -1024.0),)
    padding: int | None = None
    uid_seed: str = "phantom"
    study_seed: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    drop: frozenset[int] = frozenset()
    double: frozenset[int] = frozenset()
    edit: Callable[[int, Dataset], None] | None = None

    @property
    def directions(self) -> Orientation:
        """ImageOrientationPatient before `oblique_deg`."""
        return self.orientation or PATIENT_POSITIONS[self.patient_position]


def write_series(
    phantom: Drawing, folder: Path, options: SeriesOptions | None = None, **changes: Any
) -> list[Path]:
    """Write one file per slice; gives their paths in order of InstanceNumber.

    Args:
        phantom: what is drawn.
        folder: made where absent.
        options: how; `changes` are fields of it, e.g. ``write_series(p, folder, patient_position="FFS")``.
    """
    options = replace(options or SeriesOptions(), **changes)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(datasets(phantom, options), start=1):
        path = folder / f"{number:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        if options.transfer_syntax == JPEGLosslessSV1:
            _encode_jpeg(path)
        paths.append(path)
    return paths


def datasets(phantom: Drawing, options: SeriesOptions) -> Iterator[Dataset]:
    """The data sets of the series in order of InstanceNumber; JPEG lossless ones are not yet encoded."""
    grid = _Grid(phantom, options)
    written = sorted([*(set(range(grid.slices)) - options.drop), *options.double])
    order = _shuffled(len(written), options)
    seen: set[int] = set()
    for number, index in enumerate((written[rank] for rank in order), start=1):
        ds = grid.dataset(index, again=index in seen)
        seen.add(index)
        ds.InstanceNumber = number
        for keyword, value in options.attributes.items():
            if value is not None:
                setattr(ds, keyword, value)
            elif keyword in ds:
                delattr(ds, keyword)
        if options.edit is not None:
            options.edit(index, ds)
        if options.transfer_syntax in PYDICOM_ENCODES and "PixelData" in ds:
            ds.compress(options.transfer_syntax, generate_instance_uid=False)
        yield ds


def as_volume(phantom: Drawing, options: SeriesOptions | None = None, **changes: Any) -> CtVolume:
    """The volume that reading the written series gives, without writing and reading it.

    `drop` and `double` do not apply. The values are those of `phantom`, whatever the rescale is.
    """
    options = replace(options or SeriesOptions(), **changes, drop=frozenset(), double=frozenset())
    options = replace(options, transfer_syntax=ExplicitVRLittleEndian)
    headers = sorted(datasets(phantom, options), key=lambda ds: normal(ds.ImageOrientationPatient) @ _position(ds))
    for ds in headers:
        del ds.PixelData
    turn = arrangement(options.directions)
    affine = rotation(options.oblique_deg) @ phantom.affine
    return CtVolume(phantom.hu, affine, tuple(headers), turn.transpose, turn.flips)


def _position(ds: Dataset) -> npt.NDArray[np.float64]:
    return np.array(ds.ImagePositionPatient, dtype=np.float64)


def rotation(degrees: tuple[float, float, float]) -> Affine:
    """4×4 rotation about the x, then the y, then the z axis."""
    matrix = np.eye(4)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(4)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _shuffled(count: int, options: SeriesOptions) -> list[int]:
    ranks = list(range(count))
    if options.order == "descending":
        return ranks[::-1]
    if options.order == "shuffled":
        return [int(rank) for rank in np.random.default_rng(count).permutation(count)]
    return ranks


class _Grid:
    """A drawing turned onto the source grid; makes the data set of each slice."""

    def __init__(self, phantom: Drawing, options: SeriesOptions) -> None:
        self.options, self.kernel = options, phantom.convolution_kernel
        turn = arrangement(options.directions)
        axes = tuple(axis for axis, flipped in enumerate(turn.flips) if flipped)
        self.stored = np.flip(phantom.hu, axes)
        if turn.transpose:
            self.stored = self.stored.transpose(0, 2, 1)
        self.slices, self.rows, self.columns = self.stored.shape
        self.affine = rotation(options.oblique_deg) @ _source_affine(phantom, turn)

    def dataset(self, index: int, again: bool) -> Dataset:
        """Slice `index` as a data set; `again` gives it another SOP Instance UID."""
        ds = _common_attributes(self.options, self.kernel)
        ds.SOPInstanceUID = self._uid("instance", index, again)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        column, row, step = (self.affine[:3, axis] for axis in range(3))
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        ds.ImageOrientationPatient = [_ds(value) for value in (*(column / spacing[0]), *(row / spacing[1]))]
        ds.ImagePositionPatient = [_ds(value) for value in self.affine[:3, 3] + index * step]
        ds.SliceLocation = _ds(ds.ImagePositionPatient[2])
        ds.PixelSpacing = [_ds(spacing[1]), _ds(spacing[0])]
        ds.SliceThickness = _ds(spacing[2])
        self._add_pixels(ds, index)
        return ds

    def _uid(self, *parts: object) -> str:
        return _uid(self.options.uid_seed, *parts)

    def _add_pixels(self, ds: Dataset, index: int) -> None:
        signed, (slope, intercept) = self.options.signed, self.options.rescale[index % len(self.options.rescale)]
        ds.Rows, ds.Columns = self.rows, self.columns
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelRepresentation = int(signed)
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = _ds(slope), _ds(intercept), "HU"
        stored = np.rint((self.stored[index].astype(np.float64) - intercept) / slope)
        if self.options.padding is not None:
            stored[_outside_circle(self.rows, self.columns)] = self.options.padding
            ds.add_new("PixelPaddingValue", "SS" if signed else "US", self.options.padding)
        ds.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
        ds["PixelData"].VR = "OW"


def _source_affine(phantom: Drawing, turn: Arrangement) -> Affine:
    """Affine of the source grid: the inverse of `Arrangement.affine`, found by giving it the identity."""
    return np.asarray(phantom.affine @ np.linalg.inv(turn.affine(np.eye(4), phantom.hu.shape)), dtype=np.float64)


def _common_attributes(options: SeriesOptions, kernel: str) -> Dataset:
    """Everything that all slices of the series share."""
    study = (options.study_seed or options.uid_seed,)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    encoded_later = options.transfer_syntax in PYDICOM_ENCODES or options.transfer_syntax == JPEGLosslessSV1
    ds.file_meta.TransferSyntaxUID = UID(ExplicitVRLittleEndian if encoded_later else options.transfer_syntax)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20200315"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "101500"
    ds.AccessionNumber, ds.StudyID = "PHANTOM1", "1"
    ds.Modality, ds.Manufacturer, ds.ReferringPhysicianName = "CT", "dicomnode phantom", ""
    ds.StudyDescription, ds.SeriesDescription = "Synthetic chest CT", f"Synthetic chest 5.0 {kernel}"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^Chest", "PHANTOM", "19600101", "O"
    ds.BodyPartExamined, ds.PatientPosition = "CHEST", options.patient_position
    ds.KVP, ds.ConvolutionKernel = "120", kernel
    ds.StudyInstanceUID = _uid(*study, "study")
    ds.SeriesInstanceUID = _uid(options.uid_seed, "series")
    ds.FrameOfReferenceUID = _uid(*study, "frame")
    ds.SeriesNumber, ds.AcquisitionNumber, ds.PositionReferenceIndicator = 2, 1, ""
    return ds


def _uid(*parts: object) -> str:
    return str(generate_uid(entropy_srcs=["dicomnode phantom", *(str(part) for part in parts)]))


def _ds(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 6.2)."""
    return f"{value + 0.0:.8f}".rstrip("0").rstrip(".")[:16]


def _outside_circle(rows: int, columns: int) -> npt.NDArray[np.bool_]:
    y, x = np.ogrid[:rows, :columns]
    return np.asarray(np.hypot((y + 0.5) / rows - 0.5, (x + 0.5) / columns - 0.5) > 0.5)


def _encode_jpeg(path: Path) -> None:
    """JPEG lossless, first order prediction (1.2.840.10008.1.2.4.70), in place; pydicom has no encoder for it."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    writer = gdcm.ImageWriter()
    if not reader.Read():
        raise ValueError(f"{path}: gdcm cannot read it")
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise ValueError(f"{path}: gdcm cannot encode it")
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    if not writer.Write():
        raise ValueError(f"{path}: gdcm cannot write it")
