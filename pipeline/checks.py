"""The project's own checks of a built object, before anything is delivered.

Public validators find what violates the standard; these find what is valid and wrong: another patient, a reference
to nothing, a tracking UID that only the SR knows, a number that is not the voxels'. They read the data set as a
receiver would and share no code with the builders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, MultiFrameTrueColorSecondaryCaptureImageStorage

from pipeline import codes, rejection, uids
from pipeline.arrays import MaskArray
from pipeline.checks_priors import prior_complaints
from pipeline.checks_sr import sr_complaints
from pipeline.errors import ResultError
from pipeline.priors import Priors
from pipeline.types import Analysis, Lung, ObjectReference, ResultKind

_SAME_MM = 1e-6  # decimal strings of more than 16 characters are shortened
_IDENTITY = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "AccessionNumber",
    "StudyInstanceUID",
    "StudyID",
)
_MASKS: Mapping[tuple[str, str], Callable[[Analysis], MaskArray]] = {
    (codes.OPACITY.value, ""): lambda analysis: analysis.lesions.infection,
    (codes.CONSOLIDATION.value, ""): lambda analysis: analysis.lesions.consolidation,
    (codes.GROUND_GLASS_OPACITY.value, ""): lambda analysis: analysis.lesions.ggo,
    (codes.LUNG.value, codes.RIGHT.value): lambda analysis: analysis.lungs.labels == Lung.RIGHT,
    (codes.LUNG.value, codes.LEFT.value): lambda analysis: analysis.lungs.labels == Lung.LEFT,
}


def check(
    ds: Dataset,
    analysis: Analysis,
    segmentations: Mapping[ResultKind, Dataset] | None = None,
    superseded: Sequence[ObjectReference] = (),
    priors: Priors | None = None,
) -> None:
    """Check one object of a result set.

    Args:
        segmentations: the SEG objects of the set; with them the references of an SR are checked too.
        superseded: what a rejection note of the set is to name.
        priors: the earlier results that it shows.

    Raises:
        ResultError: naming every complaint.
    """
    found = list(complaints(ds, analysis, segmentations, superseded, priors))
    if found:
        raise ResultError(f"{ds.get('Modality', 'object')} of {analysis.volume.series_uid}: " + "; ".join(found))


def complaints(
    ds: Dataset,
    analysis: Analysis,
    segmentations: Mapping[ResultKind, Dataset] | None = None,
    superseded: Sequence[ObjectReference] = (),
    priors: Priors | None = None,
) -> Iterator[str]:
    """Everything that is wrong with one object of a result set, as sentences."""
    yield from _common_complaints(ds, analysis.volume.headers[0])
    if ds.Modality == "SEG":
        yield from _seg_complaints(ds, analysis)
    elif ds.Modality == "SR":
        yield from sr_complaints(ds, analysis, segmentations or {})
        yield from prior_complaints(ds, analysis, priors or Priors())
    elif ds.Modality == "KO":
        yield from rejection.complaints(ds, superseded)
    else:
        is_page = ds.SOPClassUID != MultiFrameTrueColorSecondaryCaptureImageStorage
        shows_dates = is_page and bool(priors and priors.results)
        yield from (_document_complaints if ds.Modality == "DOC" else _picture_complaints)(ds)
        if ds.get("BurnedInAnnotation") != ("YES" if shows_dates else "NO"):
            yield "BurnedInAnnotation does not say whether the page shows dates"


def _common_complaints(ds: Dataset, source: Dataset) -> Iterator[str]:
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
        if not UID(str(ds.get(keyword, ""))).is_valid:
            yield f"{keyword} is missing or invalid"
    if not uids.is_uid(str(ds.get("StudyInstanceUID", ""))):  # the scanner's own
        yield "StudyInstanceUID is missing or invalid"
    for keyword in _IDENTITY:
        theirs, ours = str(source.get(keyword) or ""), str(ds.get(keyword) or "")
        blanked = keyword == "PatientBirthDate" and not ours
        if ours != theirs and not blanked:
            yield f"{keyword} is not the source's"
    if ds.get("SeriesInstanceUID") == source.SeriesInstanceUID:
        yield "the result would join the series of the source"
    if "RESEARCH USE ONLY" not in str(ds.get("SeriesDescription", "")):
        yield "SeriesDescription does not say RESEARCH USE ONLY"
    if "DeviceUID" not in ds or not ds.get("ContributingEquipmentSequence"):
        yield "the device that made the result is not named"


def _seg_complaints(ds: Dataset, analysis: Analysis) -> Iterator[str]:
    headers = {str(header.SOPInstanceUID): header for header in analysis.volume.headers}
    first = analysis.volume.headers[0]
    if ds.get("FrameOfReferenceUID") != first.get("FrameOfReferenceUID", ds.get("FrameOfReferenceUID")):
        yield "FrameOfReferenceUID is not the source's"
    if (ds.Rows, ds.Columns) != (first.Rows, first.Columns):
        yield f"frames of {ds.Rows} x {ds.Columns} for images of {first.Rows} x {first.Columns}"
        return
    frames = ds.PerFrameFunctionalGroupsSequence
    if len(frames) != ds.NumberOfFrames or len(ds.PixelData) != _pixel_bytes(ds):
        yield f"{ds.NumberOfFrames} frames are announced, groups or pixels of another number are there"
        return
    for number, frame in enumerate(frames, start=1):
        reference = str(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
        position = list(frame.PlanePositionSequence[0].ImagePositionPatient)
        if reference not in headers:
            yield f"frame {number} refers to an image that is not of the source"
        elif not np.allclose(position, list(headers[reference].ImagePositionPatient), rtol=0.0, atol=_SAME_MM):
            yield f"frame {number} does not lie where its source image lies"
    yield from _segment_complaints(ds, analysis)


def _segment_complaints(ds: Dataset, analysis: Analysis) -> Iterator[str]:
    counted = _voxels(ds)
    for segment in ds.SegmentSequence:
        if segment.SegmentNumber == ds.get("PixelPaddingValue", -1):  # the background of a label map
            continue
        label, voxels = segment.SegmentLabel, counted[segment.SegmentNumber]
        if not (segment.get("TrackingID") and UID(str(segment.get("TrackingUID", ""))).is_valid):
            yield f"segment {label} has no tracking identifier"
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence")
        mask = _MASKS.get((kind.CodeValue, modifiers[0].CodeValue if modifiers else ""))
        if not voxels:
            yield f"segment {label} is empty"
        elif mask is None:
            yield f"segment {label} has an unknown type"
        elif voxels != np.count_nonzero(mask(analysis)):
            yield f"segment {label} has {voxels} voxels, its mask {np.count_nonzero(mask(analysis))}"


def _pixel_bytes(ds: Dataset) -> int:
    bits = ds.NumberOfFrames * ds.Rows * ds.Columns * ds.BitsAllocated
    length = -(-bits // 8)
    return int(length + length % 2)


def _voxels(ds: Dataset) -> dict[int, int]:
    """Voxels by segment number, frame by frame."""
    size = ds.Rows * ds.Columns
    counted = dict.fromkeys((int(segment.SegmentNumber) for segment in ds.SegmentSequence), 0)
    for number, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        if ds.BitsAllocated == 1:
            first = number * size
            packed = np.frombuffer(ds.PixelData[first // 8 : -(-(first + size) // 8)], np.uint8)
            bits = np.unpackbits(packed, bitorder="little")[first % 8 : first % 8 + size]
            counted[int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)] += int(bits.sum())
        else:
            labels = np.frombuffer(ds.PixelData[number * size : (number + 1) * size], np.uint8)
            for segment in counted:
                counted[segment] += int(np.count_nonzero(labels == segment))
    return counted


def _picture_complaints(ds: Dataset) -> Iterator[str]:
    length = int(ds.get("NumberOfFrames", 1)) * ds.Rows * ds.Columns * 3
    if len(ds.PixelData) != length + length % 2:
        yield "the pixels do not fill the page"
    if not ds.get("PatientOrientation"):
        yield "the orientation is not stated"


def _document_complaints(ds: Dataset) -> Iterator[str]:
    length, content = int(ds.get("EncapsulatedDocumentLength", 0)), bytes(ds.EncapsulatedDocument)
    if not content.startswith(b"%PDF-") or not content[:length].rstrip().endswith(b"%%EOF"):
        yield "the document is not a whole PDF"
    if len(content) != length + length % 2:
        yield f"EncapsulatedDocumentLength is {length} for {len(content)} bytes"
