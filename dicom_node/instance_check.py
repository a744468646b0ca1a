"""A bounded look at the head of a received data set, before it is answered. Pixel data are never touched.

It tells whether the data set is what the command set says, and whether it can be filed at all: a sender deletes an
instance that was answered with success, so that what cannot be filed must not be.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag
from pydicom.uid import UID

from dicom_node.errors import NodeError, NotParsable
from dicom_node.malformed import MALFORMED
from pipeline.uids import is_uid

SPECIFIC_CHARACTER_SET = 0x00080005
ACCESSION_NUMBER = 0x00080050
PATIENT_ID = 0x00100020
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
_KEYWORDS = {
    SOP_CLASS_UID: "SOPClassUID",
    SOP_INSTANCE_UID: "SOPInstanceUID",
    STUDY_INSTANCE_UID: "StudyInstanceUID",
    SERIES_INSTANCE_UID: "SeriesInstanceUID",
}
MAX_INFLATED_BYTES = 1 << 20  # of a deflated data set; the four UIDs come long before


class Mismatch(NodeError):
    """The data set is not the instance that the command set announces (DICOM status A900)."""


@dataclass(frozen=True)
class Instance:
    """Which instance a data set says it is, and whose: for the audit trail, empty where that cannot be read."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    patient_id: str = ""
    accession_number: str = ""


def identify(data: BytesIO, transfer_syntax: UID) -> Instance:
    """Read the four UIDs of an encoded data set, and whose it is; reading ends at SeriesInstanceUID (0020,000E).

    Raises:
        NotParsable: it does not parse in this transfer syntax, or a UID is missing or malformed; says which.
    """
    data.seek(0)
    source = BytesIO(_inflate(data)) if transfer_syntax.is_deflated else data
    try:
        elements = data_element_generator(
            source,
            transfer_syntax.is_implicit_VR,
            transfer_syntax.is_little_endian,
            stop_when=_after_series,
            specific_tags=[*_KEYWORDS, SPECIFIC_CHARACTER_SET, ACCESSION_NUMBER, PATIENT_ID],
        )
        values = {int(element.tag): _whole_value(element) for element in elements}
    except (*MALFORMED, OSError) as error:  # OSError: pydicom's, of a sequence that breaks off; nothing is on disk
        raise NotParsable(f"does not parse as {transfer_syntax.name}") from error
    sop_class, sop_instance, study, series = (_uid(values, tag) for tag in _KEYWORDS)
    return Instance(
        sop_class, sop_instance, study, series, _text(values, PATIENT_ID), _text(values, ACCESSION_NUMBER)
    )


def check(instance: Instance, sop_class_uid: str, sop_instance_uid: str) -> None:
    """Compare a data set with the Affected SOP Class and Instance UID of its command set (PS3.4 B.2.3).

    Raises:
        Mismatch: they differ; says in what.
    """
    if instance.sop_class_uid != sop_class_uid:
        raise Mismatch("SOPClassUID differs between command and data set")
    if instance.sop_instance_uid != sop_instance_uid:
        raise Mismatch("SOPInstanceUID differs between command and data set")


def _after_series(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) > SERIES_INSTANCE_UID


def _whole_value(element: RawDataElement | DataElement) -> object:
    if isinstance(element, RawDataElement) and element.value is not None and len(element.value) != element.length:
        raise EOFError("the data set ends inside an element")
    return element.value


def _uid(values: dict[int, object], tag: int) -> str:
    value = values.get(tag) or b""
    text = value.rstrip(b"\x00 ").decode("latin-1") if isinstance(value, bytes) else str(value)
    if not text:
        raise NotParsable(f"{_KEYWORDS[tag]} is missing")
    if not is_uid(text):
        raise NotParsable(f"{_KEYWORDS[tag]} is not a valid UID")
    return text


def _text(values: dict[int, object], tag: int) -> str:
    """A text (PS3.5 6.1.2.3) as well as it can be read: nothing is refused because of it."""
    value = values.get(tag) or b""
    if not isinstance(value, bytes):
        return str(value)
    name = values.get(SPECIFIC_CHARACTER_SET)
    if not value.isascii() and isinstance(name, bytes):
        with suppress(*MALFORMED):
            encodings = convert_encodings(name.decode("ascii").split("\\"))
            return decode_bytes(value, encodings, set()).strip("\x00 ")
    return value.decode("latin-1").strip("\x00 ")


def _inflate(data: BytesIO) -> bytes:
    """The beginning of a deflated data set (PS3.5 A.5); what follows is cut off, bombs included."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data.getbuffer(), MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise NotParsable("does not inflate") from error
