"""What result objects take over from the source: patient, study and equipment, fit to be written again.

Source headers are often not valid. Attributes of type 2 that are absent become empty, invalid values become blank,
each with a note; what tells whose result this is and where it lies (names, IDs, UIDs) is never changed. Text keeps
its SpecificCharacterSet, so that names survive in any alphabet. Decimal strings that are too long are shortened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass

from pydicom import config
from pydicom.charset import convert_encodings, python_encoding
from pydicom.datadict import dictionary_VM
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, TM, DSfloat, validate_value

from pipeline import uids
from pipeline.errors import ResultError

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
_IDENTITY = ("PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID")
# A SEG in another frame of reference lies on no image, so that one stays too, however it is written.
_AS_RECEIVED = frozenset({*_UIDS, *_IDENTITY, "FrameOfReferenceUID"})
_LOSS = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_EMPTY_IF_ABSENT = (  # type 2 in the modules of every result object (PS3.3 C.7.1.1, C.7.2.1, C.7.5.1)
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "Manufacturer",
    "PositionReferenceIndicator",
)
_OPTIONAL = (
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
    "StudyDescription",
    "ProcedureCodeSequence",
    "IssuerOfAccessionNumberSequence",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
    "TimezoneOffsetFromUTC",
    "SeriesNumber",
    "Modality",
    "InstitutionName",
    "ManufacturerModelName",
    "StationName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
    "SliceThickness",
    *_LOSS,
    "RequestAttributesSequence",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
)
_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
_DATE = re.compile(r"\d{8}")
_TIME = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")
_OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")  # PS3.3 C.12.1
_ASCII = "A^B=C-d"
_LATIN_1, _UNICODE = "ISO_IR 100", "ISO_IR 192"
_DEFINED_TERMS = {
    encoding: term for term, encoding in reversed(python_encoding.items()) if encoding != python_encoding[""]
} | {python_encoding[""]: _LATIN_1}  # how pydicom reads a term that it does not know: every byte is kept


@dataclass(frozen=True)
class SourceHeader:
    """The header of one source slice, fit for highdicom, and a sentence for each attribute that was changed."""

    ds: Dataset
    notes: tuple[str, ...]


def normalise(header: Dataset) -> SourceHeader:
    """Copy what results take over of a source header; the source is not changed.

    Raises:
        ResultError: a UID that names study, series or instance is missing.
    """
    for keyword in _UIDS:
        if not header.get(keyword):
            raise ResultError(f"the source has no {keyword}, no result can refer to it")
    notes: list[str] = []
    ds = Dataset()
    header = _legible(header)
    _copy_character_set(header, ds, notes)
    for keyword in (*_UIDS, *_EMPTY_IF_ABSENT, *_OPTIONAL):
        if keyword in header:
            _copy(header, keyword, ds, notes)
    for keyword in _EMPTY_IF_ABSENT:
        if keyword not in ds:
            setattr(ds, keyword, "")
    if not ds.get("FrameOfReferenceUID"):
        ds.FrameOfReferenceUID = uids.derive("frame of reference", str(ds.SeriesInstanceUID))
        notes.append("FrameOfReferenceUID is missing; one was derived from the series")
    return SourceHeader(ds, tuple(notes))


def of_series(headers: Sequence[Dataset]) -> SourceHeader:
    """`normalise` of the first slice; compressed with loss where any slice was (PS3.3 C.7.6.1.1.5).

    Slices of one series may come from the scanner and, later, from an archive that keeps them so.
    """
    source = normalise(headers[0])
    lossy = next((each for each in headers if each.get("LossyImageCompression") == "01"), None)
    if lossy is not None and source.ds.get("LossyImageCompression") != "01":
        for keyword in _LOSS:
            if keyword in lossy:
                _copy(lossy, keyword, source.ds, [])
    return source


def evidence(headers: Sequence[Dataset]) -> list[Dataset]:
    """One small dataset per slice that names it: the UIDs of study, series and instance."""
    return [_named(header) for header in headers]


def series_number(header: Dataset) -> int:
    """SeriesNumber of a normalised header; 0 where it has none that can be used."""
    number = header.get("SeriesNumber")
    return int(number) if isinstance(number, int) and 0 < number < 1_000_000 else 0


def _named(header: Dataset) -> Dataset:
    ds = Dataset()
    for keyword in _UIDS:
        setattr(ds, keyword, header[keyword].value)
    return ds


def _copy(header: Dataset, keyword: str, ds: Dataset, notes: list[str]) -> None:
    """Add one attribute to `ds`, unless its value is invalid or an empty option."""
    try:
        elem = header[keyword]
        fault = None if keyword in _AS_RECEIVED else _fault(elem)
    except (ValueError, TypeError, LookupError, NotImplementedError, OverflowError) as error:
        fault = f"cannot be read ({type(error).__name__})"
    if fault:
        notes.append(f"{keyword} {fault}; left blank")
    elif not elem.is_empty or keyword in _EMPTY_IF_ABSENT:
        ds.add(copy(elem))
        if elem.VR == "DS" and elem.VM > 0:
            setattr(ds, keyword, decimals(elem.value if elem.VM > 1 else [elem.value]))


def decimals(values: Iterable[str | float]) -> list[DSfloat]:
    """Decimal strings of at most 16 characters (PS3.5 6.2); those that are no longer stay as they were received."""
    return [DSfloat(value, auto_format=True) for value in values]


def _fault(elem: DataElement) -> str | None:
    """What is wrong with a value, or None. `elem` is an attribute that may be blanked."""
    if elem.VR == "SQ":
        return next(_item_faults(elem.value, elem.keyword.endswith("CodeSequence")), None)
    if elem.VM > 1 and elem.keyword and dictionary_VM(elem.tag) == "1":
        return f"has {elem.VM} values"
    for value in elem.value if isinstance(elem.value, MultiValue) else [elem.value]:
        if value in (None, ""):
            continue
        if not _is_valid(elem, value):
            return f"has the invalid value {_ascii(value)}"
    return None


def _is_valid(elem: DataElement, value: object) -> bool:
    if elem.keyword == "PatientSex":
        return value in ("M", "F", "O")  # PS3.3 C.7.1.1
    if elem.keyword == "TimezoneOffsetFromUTC":
        return bool(_OFFSET.fullmatch(str(value)))
    if elem.VR == "DS":  # pydicom leaves a string where it cannot convert
        return isinstance(value, float) and math.isfinite(value)
    if elem.VR == "IS":  # pydicom leaves a string or a float
        return isinstance(value, int)
    try:
        if elem.VR in ("DA", "TM"):  # the pattern refuses the forms of ACR-NEMA, the class impossible dates
            pattern, parse = (_DATE, DA) if elem.VR == "DA" else (_TIME, TM)
            return bool(pattern.fullmatch(str(value).strip())) and parse(str(value).strip()) is not None
        # As text: a PersonName is not looked at.
        validate_value(elem.VR, str(value) if elem.VR == "PN" else value, config.RAISE)
    except ValueError:
        return False
    return True


def _item_faults(items: Iterable[Dataset], are_codes: bool) -> Iterator[str]:
    """Faults of sequence items: invalid values, and codes without what they need (PS3.3 8.8)."""
    for item in items:
        for elem in item:
            fault = _fault(elem)
            if fault:
                yield f"has an item whose {elem.keyword or elem.tag} {fault}"
        if are_codes and not all(_is_text(item.get(keyword)) for keyword in _CODE):
            yield "has an item with an incomplete code"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _copy_character_set(header: Dataset, ds: Dataset, notes: list[str]) -> None:
    """SpecificCharacterSet as received; a term that PS3.3 C.12.1.1.2 does not define is replaced.

    pydicom reads such a term as the nearest one, or as the encoding of that name (WINDOWS-1251, SHIFT_JIS), which
    is written as Unicode here; else as ISO 8859-1, also where the name is that of a codec for no such text (ZLIB).
    """
    received = header.get("SpecificCharacterSet")
    if received in (None, ""):
        return
    terms = [received] if isinstance(received, str) else list(received)
    if all(term in python_encoding for term in terms):
        ds.SpecificCharacterSet = received
        return
    encodings = [_text_encoding(encoding) for encoding in convert_encodings(terms)]
    known = all(encoding in _DEFINED_TERMS for encoding in encodings)
    repaired = [_DEFINED_TERMS[encoding] for encoding in encodings] if known else [_UNICODE]
    ds.SpecificCharacterSet = repaired if len(repaired) > 1 else repaired[0]
    notes.append(f"SpecificCharacterSet {_ascii(received)} is not defined; written as {_ascii(repaired)}")


def _legible(header: Dataset) -> Dataset:
    """The header, read as ISO 8859-1 where its encoding can be none: pydicom believes in every codec of Python."""
    received = header.original_character_set
    encodings = [received] if isinstance(received, str) else list(received)
    readable = [_text_encoding(encoding) for encoding in encodings]
    if not received or readable == encodings:
        return header
    legible = Dataset(header)
    is_implicit, is_little_endian = header.original_encoding
    legible.set_original_encoding(is_implicit, is_little_endian, readable)
    return legible


def _text_encoding(encoding: str) -> str:
    """An encoding of Python, or ISO 8859-1 where it does not leave ASCII what it is, as all of DICOM's do."""
    try:
        is_one = _ASCII.encode().decode(encoding, "replace") == _ASCII
    except (LookupError, UnicodeError):  # it is for bytes, or for names of hosts
        is_one = False
    return encoding if is_one else python_encoding[""]


def _ascii(value: object) -> str:
    return ascii(str(value))[:80]
