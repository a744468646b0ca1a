"""What a spooled file holds, read once and without decoding: UIDs, the tags that rules read, two digests.

Two files of one SOP instance are told apart by digests of their bytes. Where these differ, they may still say the
same: `same_pixels` compares pixels that are not compressed, `same_header` what is left. Nothing here decompresses
pixels: the decoders are native code, and a file made to crash one would end the receiving process at every start.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom import config, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRBigEndian

from dicom_node.errors import NotParsable
from dicom_node.malformed import MALFORMED, brief
from pipeline.uids import is_uid

UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
PATIENT = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "AccessionNumber", "StudyDate")
MOMENTS = ("StudyTime", "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime")
TEXTS = (
    "Modality",
    "SeriesDescription",
    "StudyDescription",
    "ProtocolName",
    "BodyPartExamined",
    "Manufacturer",
    "ManufacturerModelName",
    "ConvolutionKernel",
    "ImageType",
    "PatientPosition",
    "PhotometricInterpretation",
    "FrameOfReferenceUID",
)
NUMBERS = (
    "SeriesNumber",
    "InstanceNumber",
    "AcquisitionNumber",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "SliceThickness",
    "GantryDetectorTilt",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)
KEYWORDS = (*UIDS, *PATIENT, *MOMENTS, *TEXTS, *NUMBERS)
MAX_TEXT = 256
MAX_VALUES = 64
MAX_INFLATED_BYTES = 512 << 20
CHUNK_BYTES = 1 << 20

_TAGS = [0x00080005, *(tag for keyword in KEYWORDS if (tag := tag_for_keyword(keyword)) is not None)]
_PIXELS = 0x7FE00008  # FloatPixelData, DoubleFloatPixelData and PixelData: PS3.6
_LONG_VRS = frozenset({b"OB", b"OW", b"OF", b"OD", b"OV", b"OL", b"UN"})
# How pixels are encoded, not what they show: may differ between two copies of one instance (PS3.3 C.7.6.1.1.5).
_ENCODING = frozenset({"LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"})
_UNDEFINED_LENGTH = 0xFFFFFFFF


@dataclass(frozen=True)
class Received:
    """One spooled file.

    Attributes:
        header: `KEYWORDS` → text, number or list of them; None where it is absent, empty or not readable.
        calling_ae, peer_address: who sent it, as the spool noted it in the file meta information.
        dataset_sha256: over transfer syntax and encoded data set, not over the file meta information, which
            differs with the sender.
        pixel_sha256: over the encoded value of the pixel data and what follows it.
    """

    path: Path
    transfer_syntax_uid: str
    calling_ae: str
    peer_address: str
    header: dict[str, Any] = field(repr=False)
    size_bytes: int
    dataset_sha256: str
    pixel_sha256: str

    @property
    def sop_instance_uid(self) -> str:
        """SOPInstanceUID of the data set."""
        return str(self.header["SOPInstanceUID"])

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID of the data set."""
        return str(self.header["SeriesInstanceUID"])


def read(path: Path) -> Received:
    """Parse a spooled file up to its pixel data and hash it in one stream.

    Raises:
        NotParsable: it is not DICOM, or one of the four UIDs is missing or malformed; says which.
        OSError: it cannot be read.
    """
    with parsing():
        meta = read_file_meta_info(path)
        syntax = UID(meta.TransferSyntaxUID)
        with _WholeFile(path) as file:
            start, size = file.seek(132 + 12 + int(meta.FileMetaInformationGroupLength)), file.size
            data: BinaryIO = file
            if syntax.is_deflated:
                data, start = _inflated(file), 0
                size = data.getbuffer().nbytes
            ds, pixels_at = _head(data, syntax, size)
            digests = _digests(data, start, pixels_at, syntax.encode())
        header = {keyword: _value(ds, keyword) for keyword in KEYWORDS}
    for keyword in UIDS:
        _require_uid(header, keyword)
    sender = str(meta.get("SourceApplicationEntityTitle", ""))
    return Received(path, str(syntax), sender, _host(meta), header, path.stat().st_size, *digests)


def same_pixels(one: Path, other: Path) -> bool:
    """Whether two files hold the same stored values; to be asked where the digests of their pixels differ.

    Pixels that are not compressed are compared, whatever the byte order or what follows them. False where one of
    them is compressed, cannot be read, or is lost.
    """
    try:
        first, second = _native_values(one), _native_values(other)
    except (NotParsable, FileNotFoundError):
        return False
    return first is not None and second is not None and np.array_equal(first, second)


def same_header(one: Path, other: Path) -> bool:
    """Whether two files say the same beside their pixels: standard attributes, whatever the transfer syntax."""
    try:
        with parsing():
            first, second = (_said(_dataset(path, stop_before_pixels=True)) for path in (one, other))
            return first == second
    except (NotParsable, FileNotFoundError):
        return False


def is_compressed(transfer_syntax_uid: str) -> bool:
    """Whether pixels of that transfer syntax are encapsulated (PS3.5 A.4)."""
    return UID(transfer_syntax_uid).is_compressed


class _WholeFile(BufferedReader):
    """A file that never reserves memory for more than it holds, whatever length an element claims."""

    def __init__(self, path: Path) -> None:
        super().__init__(FileIO(path))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file."""
        left = max(0, self.size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


@contextmanager
def parsing() -> Iterator[None]:
    """What is wrong with the content is NotParsable; nothing about values is written to stderr or a log.

    pydicom warns of values that break the rules of their VR, and quotes them: dates of birth, names. Its setting is
    that of the process; only the ingest thread reads received files, and others lose no more than such a warning.
    """
    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    try:
        yield
    except MALFORMED as error:
        raise NotParsable(f"not a DICOM file that can be read: {brief(error)}") from error
    except OSError as error:
        if error.errno is not None:
            raise  # of the disk; pydicom's own, of a sequence that breaks off, have none
        raise NotParsable(f"not a DICOM file that can be read: {brief(error)}") from error
    finally:
        config.settings.reading_validation_mode = before


def _dataset(path: Path, stop_before_pixels: bool = False) -> Dataset:
    with _WholeFile(path) as file:
        return dcmread(file, stop_before_pixels=stop_before_pixels)


def _native_values(path: Path) -> np.ndarray[Any, Any] | None:
    """Stored values one after the other (PS3.5 8.1.1); None where there are none, or compressed ones."""
    with parsing():
        ds = _dataset(path)
        syntax = ds.file_meta.TransferSyntaxUID
        if syntax.is_compressed or "PixelData" not in ds:
            return None
        count = int(ds.Rows) * int(ds.Columns) * int(ds.SamplesPerPixel) * int(ds.get("NumberOfFrames") or 1)
        width = int(ds.BitsAllocated) // 8
        # OW is a string of 16-bit words, of which one holds two 8-bit values: the first in the lower byte
        word = 2 if ds["PixelData"].VR == "OW" and width == 1 else width
        words = np.frombuffer(ds.PixelData, f"{'<' if syntax.is_little_endian else '>'}u{word}")
        values = words.astype(f"<u{word}").view(f"<u{width}")
        if not 0 < count <= len(values):
            raise ValueError("pixels are missing")
        return values[:count]


def _said(ds: Dataset) -> Dataset:
    """What a data set says: without private attributes (Implicit VR does not tell their VR) and encoding."""
    ds.remove_private_tags()
    kept = Dataset()
    for element in ds:
        if element.keyword not in _ENCODING and element.tag.element != 0:
            kept.add(element)
    return kept


def _inflated(file: BinaryIO) -> BytesIO:
    """The rest of a deflated file (PS3.5 A.5), up to a limit."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(file.read(), MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise NotParsable(f"the data set inflates to more than {MAX_INFLATED_BYTES >> 20} MB")
    return BytesIO(content)


def _head(data: BinaryIO, syntax: UID, size: int) -> tuple[Dataset, int]:
    """The wanted elements before the pixel data, and where its value begins (the end where there is none).

    Raises:
        NotParsable: an element before the pixel data is longer than what is left of the `size` bytes.
    """

    def at_pixels(tag: BaseTag, _vr: str | None, length: int) -> bool:
        if int(tag) >= _PIXELS:
            return True
        if length != _UNDEFINED_LENGTH and length > size - data.tell():
            raise NotParsable(f"not a DICOM file that can be read: it ends inside {tag}")
        return False

    implicit, little = syntax.is_implicit_VR, syntax != ExplicitVRBigEndian
    ds = read_dataset(data, implicit, little, stop_when=at_pixels, specific_tags=list(_TAGS))
    at = data.tell()
    element_head = data.read(8)
    explicit_long = element_head[4:6] in _LONG_VRS and not implicit
    return ds, min(at + (12 if explicit_long else 8), at + len(element_head) + len(data.read(4)))


def _digests(data: BinaryIO, start: int, pixels_at: int, prefix: bytes) -> tuple[str, str]:
    """SHA-256 (hex) of `prefix` and the data set from `start`, and of what follows `pixels_at`; read once."""
    whole, pixels = sha256(prefix), sha256()
    data.seek(start)
    whole.update(data.read(pixels_at - start))
    while chunk := data.read(CHUNK_BYTES):
        whole.update(chunk)
        pixels.update(chunk)
    return whole.hexdigest(), pixels.hexdigest()


def _value(ds: Dataset, keyword: str) -> Any:
    """One attribute as JSON can hold it, bounded; None where it cannot be read."""
    try:
        value = ds.get(keyword)
        if isinstance(value, MultiValue | list | tuple):
            return [_plain(item, keyword) for item in _bounded(value)]
        return _plain(value, keyword)
    except (*MALFORMED, OSError):  # of a sequence in place of a value; the disk is not asked here
        return None


def _bounded(values: Iterable[Any]) -> list[Any]:
    return [value for value, _ in zip(values, range(MAX_VALUES), strict=False)]


def _plain(value: Any, keyword: str) -> str | float | int | None:
    if value is None or value == "":
        return None
    if keyword not in NUMBERS:
        return str(value)[:MAX_TEXT]
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _require_uid(header: dict[str, Any], keyword: str) -> None:
    value = header[keyword]
    if not isinstance(value, str):
        raise NotParsable(f"{keyword} is missing")
    if not is_uid(value):
        raise NotParsable(f"{keyword} is not a valid UID")


def _host(meta: FileMetaDataset) -> str:
    """Peer of a presentation address "dicom://HOST" (PS3.10 table 7.1-1)."""
    return str(meta.get("SourcePresentationAddress", "")).removeprefix("dicom://").strip("[]")
