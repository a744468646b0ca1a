"""Is this the header of a chest CT slice that can be analysed? Each answer is a sentence for a person, or None."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage

from pipeline.geometry import Slice
from pipeline.pixels import DAMAGED, syntax_fault

MAX_SIDE = 2048  # Rows and Columns: the most that CT scanners reconstruct
MAX_BITS = 16
REQUIRED_UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
PATIENT = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")
ONE_PER_SERIES = (*REQUIRED_UIDS[1:], *PATIENT)
REQUIRED_NUMBERS = {  # keyword: value multiplicity
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
    "PixelSpacing": 2,
    "Rows": 1,
    "Columns": 1,
    "BitsAllocated": 1,
    "BitsStored": 1,
    "PixelRepresentation": 1,
    "RescaleSlope": 1,
    "RescaleIntercept": 1,
}

# Words of ImageType (PS3.3 C.8.2.1.1.1, and what manufacturers add) that say: not the reconstructed slices.
REFORMATTED = frozenset({"SECONDARY", "LOCALIZER", "SCOUT", "MPR", "MIP", "MINIP", "REFORMATTED", "VRT"})

# BodyPartExamined (PS3.16 annex L and local spellings). A region without lungs is refused by its tag; what is not
# known here is left to the lungs that are found, or not.
WITH_LUNGS = re.compile("CHEST|THORAX|LUNG|HEART|TORSO|TRUNK|BODY")
WITHOUT_LUNGS = re.compile(
    "ABD|ANKLE|ARM|BRAIN|EAR|ELBOW|EXTREMITY|EYE|FACE|FEMUR|FINGER|FOOT|HAND|HEAD|HIP|HUMERUS|IAC|JAW|KNEE|LEG|LIVER|"
    "MANDIBLE|MAXILLA|NECK|ORBIT|PELVIS|SHOULDER|SINUS|SKULL|[CTLS]?SPINE|TOE|WRIST"
)


def instance_fault(header: Dataset) -> str | None:
    """The first reason why this instance cannot belong to an analysed series."""
    checks: tuple[Callable[[Dataset], str | None], ...] = (
        _class_fault,
        _type_fault,
        _body_fault,
        _missing_fault,
        _pixel_fault,
        _rescale_fault,
    )
    try:
        return next((fault for check in checks if (fault := check(header)) is not None), None)
    except DAMAGED as error:
        return f"an attribute of the header cannot be read: {error}"


def series_fault(headers: Sequence[Dataset]) -> str | None:
    """Why these instances, each without a fault, are not one series."""
    for keyword in ONE_PER_SERIES:
        count = len({str(header.get(keyword) or "").strip() for header in headers})
        if count > 1:
            return f"the instances have {count} different values of {keyword}"
    repeated = len(headers) - len({str(header.SOPInstanceUID) for header in headers})
    return f"{repeated} SOP instances occur more than once" if repeated else None


def slice_of(header: Dataset) -> Slice:
    """The geometry of an instance that has no fault."""
    x, y, z = (float(value) for value in header.ImagePositionPatient)
    a, b, c, d, e, f = (float(value) for value in header.ImageOrientationPatient)
    between_rows, between_columns = (float(value) for value in header.PixelSpacing)
    return Slice(
        key=str(header.SOPInstanceUID),
        position_mm=(x, y, z),
        orientation=(a, b, c, d, e, f),
        pixel_spacing_mm=(between_rows, between_columns),
        rows=int(header.Rows),
        columns=int(header.Columns),
    )


def _class_fault(header: Dataset) -> str | None:
    sop_class = str(header.get("SOPClassUID") or "")
    if not sop_class:
        return "SOPClassUID is missing or empty"
    if sop_class != CTImageStorage:
        return f"not CT Image Storage but {UID(sop_class).name}"
    modality = header.get("Modality")
    return None if modality == "CT" else f"Modality is {modality or 'missing'}, not CT"


def _type_fault(header: Dataset) -> str | None:
    """DERIVED alone never rejects: manufacturers write it on axial slices that were only filtered."""
    values = header.get("ImageType") or ()
    text = values if isinstance(values, str) else " ".join(str(value) for value in values)
    found = set(re.split(r"[^A-Z0-9]+", text.upper())) & REFORMATTED
    return f"ImageType says {', '.join(sorted(found))}: not the original axial slices" if found else None


def _body_fault(header: Dataset) -> str | None:
    part = re.sub("[^A-Z]", "", str(header.get("BodyPartExamined") or "").upper())
    if WITHOUT_LUNGS.match(part) and not WITH_LUNGS.search(part):
        return f"BodyPartExamined is {header.BodyPartExamined}, not the chest"
    return None


def _missing_fault(header: Dataset) -> str | None:
    missing = [keyword for keyword in REQUIRED_UIDS if not str(header.get(keyword) or "").strip()]
    missing += [keyword for keyword, count in REQUIRED_NUMBERS.items() if not _has_numbers(header, keyword, count)]
    return f"missing or without a usable value: {', '.join(missing)}" if missing else None


def _has_numbers(header: Dataset, keyword: str, count: int) -> bool:
    value = header.get(keyword)
    if value is None or value == "":
        return False
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        return len(values) == count and all(math.isfinite(float(item)) for item in values)
    except (TypeError, ValueError):
        return False


def _pixel_fault(header: Dataset) -> str | None:
    rows, columns, frames = int(header.Rows), int(header.Columns), int(header.get("NumberOfFrames") or 1)
    if frames != 1:
        return f"{frames} frames in one CT image"
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE):
        return f"Rows x Columns is {rows} x {columns}, the limit is {MAX_SIDE} x {MAX_SIDE}"
    if int(header.get("SamplesPerPixel") or 1) != 1:
        return "the picture is in colour"
    if int(header.BitsAllocated) != MAX_BITS or not 0 < int(header.BitsStored) <= MAX_BITS:
        return f"{header.BitsStored} bits stored in {header.BitsAllocated}, not up to 16 in 16"
    high_bit = header.get("HighBit")
    if high_bit is not None and int(high_bit) != int(header.BitsStored) - 1:  # PS3.5 8.1.1
        return f"HighBit is {high_bit} where {header.BitsStored} bits are stored: which bits count is not known"
    if int(header.PixelRepresentation) not in {0, 1}:
        return f"PixelRepresentation is {header.PixelRepresentation}"
    return syntax_fault(str(header.file_meta.get("TransferSyntaxUID") or ""))


def _rescale_fault(header: Dataset) -> str | None:
    if float(header.RescaleSlope) <= 0:
        return f"RescaleSlope is {header.RescaleSlope}"
    unit = str(header.get("RescaleType") or "HU").strip().upper()
    # US is "unspecified" (PS3.3 C.11.1.1.2), which older scanners write for HU.
    return None if unit in {"HU", "US"} else f"values are {unit}, not Hounsfield units"
