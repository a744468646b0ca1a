"""The look at the head of a data set: right, or refused with a reason; never wrong, never an unplanned error."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.errors import NotParsable
from dicom_node.instance_check import MAX_INFLATED_BYTES, Instance, Mismatch, _inflate, check, identify
from dicom_node.supported import TRANSFER_SYNTAXES
from pipeline.uids import is_uid
from tests.fixtures.reception import ct, encode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # damaged character sets
DEFLATED = UID("1.2.840.10008.1.2.1.99")
EXPECTED = Instance(CTImageStorage, "1.2.840.9", "1.2.840.1", "1.2.840.1.1")


def look(data: bytes, syntax: UID = ExplicitVRLittleEndian) -> Instance:
    return identify(BytesIO(data), syntax)


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda syntax: syntax.name)
def test_reads_the_four_uids_in_every_transfer_syntax(syntax: UID) -> None:
    assert look(encode(ct(SOPInstanceUID="1.2.840.9"), syntax), syntax) == EXPECTED


def test_sequences_and_private_elements_before_the_uids_are_passed_over() -> None:
    ds = ct(SOPInstanceUID="1.2.840.9")
    item = Dataset()
    item.ReferencedSOPClassUID = "1.2.3"
    item.SeriesInstanceUID = "9.9.9"  # of something else
    ds.ReferencedImageSequence = [item, item]
    ds["ReferencedImageSequence"].is_undefined_length = True
    ds.add_new(0x00090010, "LO", "VENDOR")
    ds.add_new(0x00091001, "UN", b"\x01" * 5000)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        assert look(encode(ds, syntax), syntax) == EXPECTED


def test_nothing_after_the_series_is_read() -> None:
    data = encode(ct(SOPInstanceUID="1.2.840.9", Rows=None, PixelData=None))
    end = data.index(b"1.2.840.1.1\x00") + 12
    assert look(data[:end] + b"\xff" * 100) == EXPECTED


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_what_is_missing_or_malformed_is_named(keyword: str) -> None:
    with pytest.raises(NotParsable, match=f"{keyword} is missing"):
        look(encode(ct(**{keyword: None})))
    with pytest.raises(NotParsable, match=f"{keyword} is missing"):
        look(encode(ct(**{keyword: ""})))
    ds = ct()
    ds[keyword].VR = "UN"  # pydicom would not write it as a UI
    ds[keyword]._value = b"1.2./../../etc/passwd "
    with pytest.raises(NotParsable, match=f"{keyword} is not a valid UID"):
        look(encode(ds))


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ("1.2.840.10008.1", True),
        ("1", True),
        ("1.02.3", True),  # against PS3.5 9.1, but written by old devices
        ("1." + "2" * 62, True),
        ("1." + "2" * 63, False),
        ("", False),
        (".1", False),
        ("1.", False),
        ("1..2", False),
        ("1.2\n", False),
        ("../1.2", False),
        ("1.2/3", False),
        ("1.2a", False),
        ("١.٢", False),
    ],
)
def test_uids(value: str, valid: bool) -> None:
    assert is_uid(value) is valid


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_cut_off_anywhere_it_is_refused_or_right(syntax: UID) -> None:
    data = encode(ct(SOPInstanceUID="1.2.840.9", PixelData=None), syntax)
    whole = data.index(b"1.2.840.1.1\x00") + 12
    for length in range(len(data)):
        if length < whole:
            with pytest.raises(NotParsable):
                look(data[:length], syntax)
        else:
            assert look(data[:length], syntax) == EXPECTED


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400), syntax=st.sampled_from(TRANSFER_SYNTAXES))
def test_any_bytes_are_refused_with_a_sentence(data: bytes, syntax: UID) -> None:
    with pytest.raises(NotParsable, match=r"\w+ \w+"):
        look(data, syntax)


@settings(max_examples=300, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8),
    syntax=st.sampled_from(TRANSFER_SYNTAXES),
)
def test_damaged_heads_are_refused_or_give_uids(places: list[tuple[int, int]], syntax: UID) -> None:
    data = bytearray(encode(ct(size=16), syntax))
    for place, value in places:
        data[place % len(data)] = value
    try:
        instance = look(bytes(data), syntax)
    except NotParsable:
        return
    assert all(map(is_uid, (instance.sop_instance_uid, instance.study_uid, instance.series_uid)))


def test_endless_nesting_is_refused() -> None:
    start = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    with pytest.raises(NotParsable):
        look(start * 20_000)


def test_a_deflated_bomb_is_cut_off() -> None:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = deflater.compress(bytes(64 << 20)) + deflater.flush()
    assert len(_inflate(BytesIO(bomb))) == MAX_INFLATED_BYTES
    with pytest.raises(NotParsable):
        look(bomb, DEFLATED)


def test_the_data_set_must_be_what_the_command_announces() -> None:
    check(EXPECTED, CTImageStorage, "1.2.840.9")
    with pytest.raises(Mismatch, match="SOPClassUID"):
        check(EXPECTED, "1.2.840.10008.5.1.4.1.1.4", "1.2.840.9")
    with pytest.raises(Mismatch, match="SOPInstanceUID"):
        check(EXPECTED, CTImageStorage, "1.2.840.10")
