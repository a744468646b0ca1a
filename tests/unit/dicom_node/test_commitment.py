"""Event Information of Storage Commitment, read from bytes as it comes off the wire."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode, encode

from dicom_node.commitment import CommitmentReport, describe, parse
from dicom_node.errors import NotParsable


def _item(uid: str | None, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    if uid is not None:
        item.ReferencedSOPInstanceUID = uid
    if reason is not None:
        item.FailureReason = reason
    return item


def _from_wire(committed: list[Dataset], failed: list[Dataset], transaction: str | None = "1.2.3") -> Dataset:
    ds = Dataset()
    if transaction is not None:
        ds.TransactionUID = transaction
    if committed:
        ds.ReferencedSOPSequence = committed
    if failed:
        ds.FailedSOPSequence = failed
    encoded = encode(ds, is_implicit_vr=False, is_little_endian=True)
    assert encoded is not None
    return decode(BytesIO(encoded), is_implicit_vr=False, is_little_endian=True)


def test_all_committed() -> None:
    report = parse(_from_wire([_item("1.2.3.4"), _item("1.2.3.5")], []))
    assert report == CommitmentReport("1.2.3", ("1.2.3.4", "1.2.3.5"), ())


def test_some_failed_with_their_reasons() -> None:
    report = parse(_from_wire([_item("1.2.3.4")], [_item("1.2.3.5", 0x0112), _item("1.2.3.6")]))
    assert report.committed == ("1.2.3.4",)
    assert report.failed == (("1.2.3.5", 0x0112), ("1.2.3.6", 0x0110))


@pytest.mark.parametrize(
    ("ds", "words"),
    [
        (_from_wire([_item("1.2.3.4")], [], transaction=None), "TransactionUID"),
        (_from_wire([_item(None)], []), "ReferencedSOPInstanceUID"),
        (_from_wire([], [_item(None, 0x0112)]), "ReferencedSOPInstanceUID"),
    ],
)
def test_what_is_missing_is_named(ds: Dataset, words: str) -> None:
    with pytest.raises(NotParsable, match=words):
        parse(ds)


def test_a_sequence_that_is_none_is_refused() -> None:
    ds = Dataset()
    ds.TransactionUID = "1.2.3"
    ds.add_new("ReferencedSOPSequence", "LO", "not a sequence")
    with pytest.raises(NotParsable, match="cannot be read"):
        parse(ds)


def test_a_sequence_that_breaks_off_is_refused() -> None:
    """Found by damaging reports at random: pydicom raises OSError, and only when the sequence is looked at."""
    encoded = encode(_from_wire([_item("1.2.3.4")], []), is_implicit_vr=True, is_little_endian=True)
    assert encoded is not None
    at = encoded.index(b"\xfe\xff\x00\xe0")  # of the first item: a sequence of two bytes
    broken = encoded[: at - 4] + (2).to_bytes(4, "little") + encoded[at : at + 2]
    ds = decode(BytesIO(broken), is_implicit_vr=True, is_little_endian=True)
    with pytest.raises(NotParsable, match="cannot be read"):
        parse(ds)


def test_reasons_in_words() -> None:
    assert describe(0x0112) == "no such object instance (0x0112)"
    assert "0xC123" in describe(0xC123)
