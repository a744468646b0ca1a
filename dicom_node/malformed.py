"""What pydicom and pynetdicom raise on bytes that are not DICOM. Neither has a base class for it.

Found by damaging conversations and data sets at random; the tests that do so fail where one is missing here.
"""

from __future__ import annotations

import struct
import zlib

from pydicom.errors import BytesLengthException, InvalidDicomError

MALFORMED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    AssertionError,
    EOFError,
    OverflowError,
    RecursionError,
    MemoryError,  # a length that no memory holds
    struct.error,
    zlib.error,
    BytesLengthException,
    InvalidDicomError,
)


def brief(error: BaseException) -> str:
    """Such an error for a log: its kind and the beginning of its text, which may quote long values."""
    return f"{type(error).__name__}: {str(error)[:80]}"
