"""Stored pixels of one CT instance → Hounsfield units.

Every decoder that pydicom finds is used (gdcm for JPEG and JPEG-LS, openjpeg for JPEG 2000, RLE). What is decoded
is measured first: a small file must not be able to fill the memory.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from pipeline.errors import SeriesRejected

MIN_HU = -1024  # air; also what padding becomes
MAX_FILE_BYTES = 64 * 1024 * 1024  # of one instance, inflated where it is deflated
PIXEL_TAGS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
)

# All that pydicom and its decoders raise for bytes that are not what they say; there is no common base class.
DAMAGED = (
    InvalidDicomError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    struct.error,
    zlib.error,
)


def read_header(path: Path) -> Dataset:
    """The data set without group 7FE0.

    Raises:
        SeriesRejected: not a DICOM file (PS3.10), damaged, or far larger than a CT instance.
    """
    try:
        header = _read(path, stop_before_pixels=True)
        for element in header.group_dataset(0x7FE0):
            del header[element.tag]
    except DAMAGED as error:
        raise SeriesRejected(f"{path.name} is not a DICOM file that can be read: {error}") from error
    return header


def _read(path: Path, **options: Any) -> Dataset:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES // 2**20} MB")
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        # Group 0002 ends so many bytes behind preamble, prefix and group length (PS3.10 7.1).
        _check_inflated_size(path.read_bytes()[144 + int(meta.FileMetaInformationGroupLength) :])
    return pydicom.dcmread(path, **options)


def _check_inflated_size(deflated: bytes) -> None:
    """PS3.5 A.5: everything behind the file meta group is one raw deflate stream."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(deflated, MAX_FILE_BYTES)
    if inflater.unconsumed_tail:
        raise ValueError(f"inflates to more than {MAX_FILE_BYTES // 2**20} MB")


def syntax_fault(uid: str) -> str | None:
    """Why pixels of this transfer syntax cannot be decoded here, or None."""
    syntax = UID(uid)
    if not uid:
        return "there is no transfer syntax"
    if syntax.is_private or not syntax.is_transfer_syntax:
        return f"transfer syntax {uid} is not known"
    if not syntax.is_encapsulated:
        return None
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    return None if available else f"transfer syntax {syntax.name} is not supported"


def read_hu(path: Path, header: Dataset) -> npt.NDArray[np.int16]:
    """Decode one instance: (row, column), Hounsfield units, padding −1024.

    Args:
        path: the file.
        header: of the same file, with checked rescale and pixel attributes.

    Raises:
        SeriesRejected: the pixels are missing, truncated, damaged or beyond 16 bits.
    """
    try:
        ds = _read(path, specific_tags=list(PIXEL_TAGS))
        _check_encoded_size(ds)
        stored = pixel_array(ds)
    except DAMAGED as error:
        first_line = str(error).strip().split("\n")[0]
        raise SeriesRejected(f"{_named(path, header)}: the pixel data cannot be decoded: {first_line}") from error
    if stored.shape != (header.Rows, header.Columns):
        raise SeriesRejected(f"{_named(path, header)}: the pixel data are {stored.shape}, not Rows x Columns")
    return to_hu(stored, header)


def _named(path: Path, header: Dataset) -> str:
    """For a person: in the node's archive a file's name is a hash, which no viewer shows."""
    number = header.get("InstanceNumber")
    return path.name if number is None else f"{path.name} (InstanceNumber {number})"


def to_hu(stored: npt.NDArray[Any], header: Dataset) -> npt.NDArray[np.int16]:
    """Stored values → HU: padding (PS3.3 C.7.5.1.1.2), unused bits (PS3.5 8.1.1), rescale (PS3.3 C.11.1.1.2).

    Raises:
        SeriesRejected: a value does not fit into 16 bits, so that slope or intercept must be wrong.
    """
    padding = _padding(stored, header)
    values = _used_bits(stored, header).astype(np.float32)
    values *= np.float32(header.RescaleSlope)
    values += np.float32(header.RescaleIntercept)
    np.rint(values, out=values)
    if padding is not None:
        values[padding] = MIN_HU
    top = float(values.max())
    if not top <= np.iinfo(np.int16).max:
        raise SeriesRejected(
            f"Hounsfield units up to {top:.0f} do not fit into 16 bits: "
            f"RescaleSlope {header.RescaleSlope}, RescaleIntercept {header.RescaleIntercept} cannot be right"
        )
    np.maximum(values, MIN_HU, out=values)
    return values.astype(np.int16)


def _used_bits(stored: npt.NDArray[Any], header: Dataset) -> npt.NDArray[Any]:
    """Without what lies above HighBit, e.g. an overlay; the sign extended."""
    unused = stored.dtype.itemsize * 8 - int(header.BitsStored)
    if unused <= 0:
        return stored
    return (stored << unused) >> unused  # arithmetic for signed, logical for unsigned


def _padding(stored: npt.NDArray[Any], header: Dataset) -> npt.NDArray[np.bool_] | None:
    """Where PixelPaddingValue, or the range up to PixelPaddingRangeLimit, is stored."""
    value = _stored_integer(header.get("PixelPaddingValue"), stored.dtype)
    if value is None:
        return None
    limit = _stored_integer(header.get("PixelPaddingRangeLimit"), stored.dtype)
    low, high = sorted((value, value if limit is None else limit))
    return np.asarray((stored >= low) & (stored <= high))


def _stored_integer(value: object, dtype: np.dtype[Any]) -> int | None:
    """A padding attribute as a stored value; written as US where it should be SS it is turned back."""
    if not isinstance(value, int):
        return None
    bits = dtype.itemsize * 8
    wrapped = value & ((1 << bits) - 1)
    return wrapped - (1 << bits) if dtype.kind == "i" and wrapped >> (bits - 1) else wrapped


def _check_encoded_size(ds: Dataset) -> None:
    """The size in a JPEG or JPEG 2000 codestream must be that of the data set, before a decoder believes it."""
    syntax = ds.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or syntax == RLELossless:
        return
    frame = next(generate_frames(ds.PixelData, number_of_frames=1), b"")
    size = codestream_size(frame)
    if size != (ds.Rows, ds.Columns):
        raise ValueError(f"the codestream is {size}, the data set {ds.Rows} x {ds.Columns}")


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """(rows, columns) from SIZ (ISO 15444-1 A.5.1) or a start of frame marker (ISO 10918-1 B.2.2, ISO 14495-1)."""
    if frame[:4] == b"\xff\x4f\xff\x51":
        width, height, left, top = struct.unpack_from(">4I", frame, 8)
        return height - top, width - left
    position = 2
    while frame[:2] == b"\xff\xd8" and position + 9 <= len(frame):
        marker, length = struct.unpack_from(">HH", frame, position)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in {0xFFC4, 0xFFC8, 0xFFCC} or marker == 0xFFF7:
            rows, columns = struct.unpack_from(">HH", frame, position + 5)
            return rows, columns
        position += 2 + length
    return None
