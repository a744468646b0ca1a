"""What is read of a spooled file: the same from every transfer syntax, and no value can crash it."""

from __future__ import annotations

import json
import logging
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from dicom_node import received
from dicom_node.errors import NotParsable
from dicom_node.part10 import FileMeta
from dicom_node.received import KEYWORDS, MAX_TEXT, MAX_VALUES, read, same_header, same_pixels
from dicom_node.spool import Spool
from tests.fixtures.ct import encode, slice_of, spooled

NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
SYNTAXES = (*NATIVE, RLELossless, JPEG2000Lossless)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "state")


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: UID(uid).keyword)
def test_every_transfer_syntax_says_the_same(spool: Spool, syntax: str) -> None:
    ds = slice_of(3, PatientName="김^희중", AcquisitionNumber=2)
    found = read(spooled(spool, ds, syntax))
    assert (found.transfer_syntax_uid, found.calling_ae, found.peer_address) == (syntax, "CT1", "192.0.2.7")
    assert found.header == read(spooled(spool, ds)).header
    assert found.header["PatientName"] == "김^희중"
    assert found.header["ImagePositionPatient"] == [-100, -100, 6]
    assert found.header["ImageType"] == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert (found.header["AcquisitionNumber"], found.header["GantryDetectorTilt"]) == (2, None)
    assert set(found.header) == set(KEYWORDS)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: UID(uid).keyword)
def test_headers_are_compared_by_what_they_say(spool: Spool, syntax: str) -> None:
    first = spooled(spool, slice_of(1))
    assert same_header(first, spooled(spool, slice_of(1), syntax))
    assert not same_header(first, spooled(spool, slice_of(1, PatientID="P2"), syntax))


@pytest.mark.parametrize("other", NATIVE, ids=lambda uid: UID(uid).keyword)
@pytest.mark.parametrize("one", NATIVE, ids=lambda uid: UID(uid).keyword)
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_pixels_are_compared_by_what_they_show(spool: Spool, one: str, other: str, bits: int) -> None:
    first = spooled(spool, _image(bits, 0, one), one)
    assert same_pixels(first, spooled(spool, _image(bits, 0, other), other))
    assert not same_pixels(first, spooled(spool, _image(bits, 1, other), other))


def _image(bits: int, shift: int, syntax: str) -> Dataset:
    """Some values, in OW; `encode` puts 16-bit words into the byte order of `syntax`."""
    values = np.arange(32 * 32) % 250 + shift
    content = values.astype(f"<u{bits // 8}").tobytes()
    if bits == 32 and syntax == ExplicitVRBigEndian:
        content = values.astype(">u4").view("<u2").byteswap().tobytes()
    ds = slice_of(1, BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1, PixelData=content)
    ds["PixelData"].VR = "OW"
    return ds


def test_what_follows_the_pixels_does_not_count(spool: Spool) -> None:
    longer = slice_of(1)
    longer.PixelData += b"\0\0"
    assert same_pixels(spooled(spool, slice_of(1)), spooled(spool, longer))
    longer.PixelData = longer.PixelData[:-4]
    assert not same_pixels(spooled(spool, slice_of(1)), spooled(spool, longer)), "one pixel is missing"


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_nothing_is_decompressed(spool: Spool, syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [spooled(spool, slice_of(1), syntax), spooled(spool, slice_of(1)), spooled(spool, slice_of(1), syntax)]
    decoded: list[object] = []
    monkeypatch.setattr(Dataset, "convert_pixel_data", decoded.append)
    for path in paths:
        read(path)
        assert not same_pixels(paths[0], path), "which says no more than that it cannot be known"
        assert same_header(paths[0], path)
    assert decoded == []


def test_what_is_lost_is_not_the_same(spool: Spool) -> None:
    path = spooled(spool, slice_of(1))
    lost = path.with_name("lost.dcm")
    assert not same_pixels(path, lost)
    assert not same_header(path, lost)


def test_native_little_endian_pixels_have_one_digest(spool: Spool) -> None:
    digests = {
        read(spooled(spool, slice_of(1), syntax)).pixel_sha256
        for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
    }
    assert len(digests) == 1
    assert read(spooled(spool, slice_of(1, pixels=1))).pixel_sha256 not in digests
    assert read(spooled(spool, slice_of(1, PatientID="P2"))).pixel_sha256 in digests


def test_the_data_set_digest_does_not_depend_on_the_sender(spool: Spool) -> None:
    one, other = (read(spooled(spool, slice_of(1), calling_ae=ae)) for ae in ("CT1", "ARCHIVE"))
    assert one.dataset_sha256 == other.dataset_sha256
    assert read(spooled(spool, slice_of(1, PatientID="P2"))).dataset_sha256 != one.dataset_sha256
    assert read(spooled(spool, slice_of(1), RLELossless)).dataset_sha256 != one.dataset_sha256


def test_no_pixel_data_is_read_as_it_is(spool: Spool) -> None:
    found = read(spooled(spool, slice_of(1, PixelData=None)))
    assert found.header["Rows"] == 32
    assert not same_pixels(found.path, found.path), "nothing can be shown to be equal"


def test_private_attributes_do_not_make_a_header_differ(spool: Spool) -> None:
    ds = slice_of(1)
    ds.private_block(0x0029, "ACME", create=True).add_new(1, "LO", "secret")
    assert same_header(spooled(spool, ds), spooled(spool, ds, ImplicitVRLittleEndian))


# Raw values under the VR of Explicit VR Little Endian, as a hostile or broken device may write them.
HOSTILE = {
    "a long description": ("SeriesDescription", b"LO", b"x" * 65_534),
    "NaN position": ("ImagePositionPatient", b"DS", b"nan\\inf\\-inf "),
    "text for a number": ("SliceThickness", b"DS", b"thick "),
    "many numbers": ("ImagePositionPatient", b"DS", b"1\\" * 30_000),
    "wrong VR": ("Rows", b"LO", b"lots"),
    "short US": ("Rows", b"US", b"\x01"),
    "name with NUL": ("PatientName", b"PN", b"a\x00\x1b$)Cb\xff\xfe"),
    "unknown VR": ("Modality", b"ZZ", b"CT"),
    "a sequence that is none": ("ImageType", b"SQ", b"\xff" * 12),
    "huge integer": ("InstanceNumber", b"IS", b"9" * 64),
    "orientation empty": ("ImageOrientationPatient", b"DS", b""),
}


@pytest.mark.parametrize(("keyword", "vr", "value"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_values_are_bounded_or_left_out(spool: Spool, keyword: str, vr: bytes, value: bytes) -> None:
    ds = slice_of(1)
    tag = ds.data_element(keyword).tag
    delattr(ds, keyword)
    content = encode(ds)
    long_form = vr in (b"SQ", b"ZZ")
    head = struct.pack("<HH2s", tag.group, tag.element, vr)
    head += struct.pack("<HL", 0, len(value)) if long_form else struct.pack("<H", len(value))
    at = _where(content, tag.group, tag.element)
    path = spool.write(
        FileMeta(ds.SOPClassUID, ds.SOPInstanceUID, ExplicitVRLittleEndian, "CT1", "192.0.2.7"),
        content[:at] + head + value + content[at:],
    )
    if vr == b"ZZ":  # its length cannot be known: what follows is lost
        with pytest.raises(NotParsable):
            read(path)
        return
    found = read(path)
    _assert_fit_for_the_ledger(found)
    assert found.header["ConvolutionKernel"] == "B40f"


ENDLESS = {
    "a value that is read": (0x0020, 0x0011),
    "a value that is passed over": (0x0020, 0x9998),
    "an odd one": (0x0021, 0x0001),
}


@pytest.mark.parametrize("length", [0xFFFFFFF0, 0x7FFFFFFF, 1 << 20])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize(("group", "element"), ENDLESS.values(), ids=ENDLESS)
def test_a_length_beyond_the_end_reserves_no_memory(
    spool: Spool, group: int, element: int, syntax: str, length: int
) -> None:
    ds = slice_of(1, InstanceNumber=None, PixelData=None, ImagePositionPatient=None)
    head = _until_series(ds, syntax)
    vr = b"" if syntax == ImplicitVRLittleEndian else b"UN\0\0"
    content = head + struct.pack("<HH", group, element) + vr + struct.pack("<L", length)
    if syntax != ImplicitVRLittleEndian:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        content = deflater.compress(content) + deflater.flush()
    path = spool.write(FileMeta(ds.SOPClassUID, ds.SOPInstanceUID, syntax, "CT1", "h"), content)
    tracemalloc.start()
    try:
        with pytest.raises(NotParsable, match=f"ends inside .{group:04X},{element:04X}"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def _until_series(ds: Dataset, syntax: str) -> bytes:
    """The elements up to SeriesInstanceUID, not deflated."""
    kept = Dataset()
    for element in ds:
        if element.tag <= 0x0020000E:
            kept.add(element)
    return encode(kept, ImplicitVRLittleEndian if syntax == ImplicitVRLittleEndian else ExplicitVRLittleEndian)


SEQUENCE = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
BROKEN_OFF = {
    "a sequence without items": SEQUENCE,
    "deeper than the stack": (SEQUENCE + ITEM) * 2000,
    "4 GB in an item": SEQUENCE + ITEM + struct.pack("<HH2sHL", 0x0008, 0x1150, b"UN", 0, 0xFFFFFFF0),
}


@pytest.mark.parametrize("content", BROKEN_OFF.values(), ids=BROKEN_OFF)
def test_sequences_that_break_off_are_the_files_fault(tmp_path: Path, content: bytes) -> None:
    """Not the disk's: what pydicom raises for them may be an OSError."""
    path = tmp_path / "file.dcm"
    path.write_bytes(FileMeta("1.2", "1.2.3", ExplicitVRLittleEndian, "CT1", "h").encode() + content)
    with pytest.raises(NotParsable):
        read(path)
    assert not same_header(path, path)


def test_what_the_disk_raises_is_not_the_files_fault(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "gone.dcm")


def test_no_value_is_quoted_to_stderr_or_a_log(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    """pydicom warns of values that break the rules of their VR."""
    before = config.settings.reading_validation_mode
    secrets = {"PatientBirthDate": "9. May 1950", "PatientID": "P" * 80, "StudyDate": "yesterday"}
    ds = slice_of(1)
    with config.disable_value_validation():
        for keyword, value in secrets.items():
            setattr(ds, keyword, value)
        path = spooled(spool, ds)
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        found = read(path)
        assert same_header(path, path)
    assert {keyword: found.header[keyword] for keyword in secrets} == secrets
    assert caught == []
    assert caplog.records == []
    assert config.settings.reading_validation_mode == before


def _where(content: bytes, group: int, element: int) -> int:
    """Offset at which an element of that tag keeps the order; `content` has no sequences."""
    at = 0
    while at < len(content):
        found_group, found_element, vr, length = struct.unpack_from("<HH2sH", content, at)
        if (found_group, found_element) > (group, element):
            return at
        at += 12 + struct.unpack_from("<L", content, at + 8)[0] if vr in (b"OW", b"OB") else 8 + length
    return at


def _assert_fit_for_the_ledger(found: received.Received) -> None:
    assert json.loads(json.dumps(found.header, allow_nan=False)) == found.header
    for value in found.header.values():
        for item in value if isinstance(value, list) else [value]:
            assert item is None or isinstance(item, int | float) or len(item) <= MAX_TEXT
        assert not isinstance(value, list) or len(value) <= MAX_VALUES


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(encode(slice_of(1)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + 1] = data.draw(st.binary(min_size=0, max_size=6))
    content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.mktemp("damaged") / "file.dcm"
    path.write_bytes(FileMeta("1.2", "1.2.3", ExplicitVRLittleEndian, "CT1", "h").encode() + content)
    try:
        _assert_fit_for_the_ledger(read(path))
    except NotParsable as error:
        assert str(error)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a DICOM file"),
        (bytes(128) + b"DICM", "not a DICOM file"),
        (b"hello" * 100, "not a DICOM file"),
        (FileMeta("1", "1", ExplicitVRLittleEndian, "A", "h").encode(), "SOPClassUID is missing"),
        (FileMeta("1", "1", DeflatedExplicitVRLittleEndian, "A", "h").encode() + b"\xff\xff", "not a DICOM file"),
    ],
)
def test_what_is_not_dicom_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "file.dcm"
    path.write_bytes(content)
    with pytest.raises(NotParsable, match=says):
        read(path)


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.2.a", "1" * 65])
def test_malformed_uids_are_refused(spool: Spool, uid: str) -> None:
    ds = slice_of(1)
    meta = FileMeta(ds.SOPClassUID, ds.SOPInstanceUID, ExplicitVRLittleEndian, "CT1", "h")
    ds.SeriesInstanceUID = UID(uid, validation_mode=0)
    with pytest.raises(NotParsable, match="SeriesInstanceUID is not a valid UID"):
        read(spool.write(meta, encode(ds)))


def test_a_bomb_is_not_inflated(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "MAX_INFLATED_BYTES", 1 << 10)
    path = spooled(spool, slice_of(1, ImageComments="x" * 9000), DeflatedExplicitVRLittleEndian)
    with pytest.raises(NotParsable, match="inflates to more than"):
        read(path)
