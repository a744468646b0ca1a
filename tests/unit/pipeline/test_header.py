"""Headers as hospitals send them: absent, empty, invalid, in any alphabet."""

from __future__ import annotations

import io
import struct
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from pipeline import checks, header, sr
from pipeline.errors import ResultError
from pipeline.types import Profile, ResultKind
from tests.fixtures.results import build_set, make_analysis, make_context, through_bytes


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """One element in Explicit VR Little Endian, whatever the value is."""
    value += b" " * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def source(*elements: tuple[int, bytes, bytes]) -> Dataset:
    """A header with the UIDs and these elements, read from bytes as the pipeline reads it."""
    uids = [
        (0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
        (0x00080018, b"UI", b"1.2.3.4\0"),
        (0x0020000D, b"UI", b"1.2.3\0"),
        (0x0020000E, b"UI", b"1.2.3.5\0"),
        (0x00200052, b"UI", b"1.2.3.6\0"),
    ]
    given = {tag: (tag, vr, value) for tag, vr, value in (*uids, *elements)}
    encoded = b"".join(element(*given[tag]) for tag in sorted(given))
    return read_dataset(io.BytesIO(encoded), is_implicit_VR=False, is_little_endian=True)


def encode(ds: Dataset) -> bytes:
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, ds, "")
    return file.getvalue()


def test_absent_attributes_of_type_2_become_empty_and_are_no_fault() -> None:
    normalised = header.normalise(source())
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate"):
        assert normalised.ds[keyword].is_empty
    assert normalised.notes == ()


@pytest.mark.parametrize(
    ("keyword", "tag", "vr", "value"),
    [
        ("PatientSex", 0x00100040, b"CS", b"U"),
        ("PatientSex", 0x00100040, b"CS", b"male"),
        ("PatientBirthDate", 0x00100030, b"DA", b"unknown"),
        ("PatientBirthDate", 0x00100030, b"DA", b"1960.01.01"),
        ("PatientBirthDate", 0x00100030, b"DA", b"19601301"),
        ("StudyDate", 0x00080020, b"DA", b"2020"),
        ("StudyTime", 0x00080030, b"TM", b"25:99"),
        ("StudyTime", 0x00080030, b"TM", b"256101"),
        ("PatientAge", 0x00101010, b"AS", b"58"),
        ("PatientWeight", 0x00101030, b"DS", b"70 kg"),
        ("SeriesNumber", 0x00200011, b"IS", b"2.5"),
        ("StudyDescription", 0x00081030, b"LO", b"x" * 70),
        ("StudyDescription", 0x00081030, b"LO", b"Chest\\Abdomen"),
        ("StudyDate", 0x00080020, b"DA", b"20200315\\20200316"),
        ("PatientBirthDate", 0x00100030, b"DA", b"19600101\\19600102"),
        ("SliceThickness", 0x00180050, b"DS", b"5.0\\5.0"),
        ("SliceThickness", 0x00180050, b"DS", b"inf"),
        ("SliceThickness", 0x00180050, b"DS", b"nan"),
        ("ReferringPhysicianName", 0x00080090, b"PN", b"x" * 70),
        ("TimezoneOffsetFromUTC", 0x00080201, b"SH", b"CET"),
        ("TimezoneOffsetFromUTC", 0x00080201, b"SH", b"+09:00"),
        ("TimezoneOffsetFromUTC", 0x00080201, b"SH", b"+2600"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_invalid_values_become_blank_with_a_note(keyword: str, tag: int, vr: bytes, value: bytes) -> None:
    normalised = header.normalise(source((tag, vr, value)))
    assert not normalised.ds.get(keyword)
    assert len(normalised.notes) == 1
    assert keyword in normalised.notes[0]
    assert normalised.notes[0].isascii()


@pytest.mark.parametrize(
    ("keyword", "tag", "vr", "value", "kept"),
    [
        ("PatientSex", 0x00100040, b"CS", b"F", "F"),
        ("PatientBirthDate", 0x00100030, b"DA", b"19600101", "19600101"),
        ("StudyTime", 0x00080030, b"TM", b"101500.25", "101500.25"),
        ("StudyTime", 0x00080030, b"TM", b"10", "10"),
        ("PatientAge", 0x00101010, b"AS", b"058Y", "058Y"),
        ("SeriesNumber", 0x00200011, b"IS", b"12", "12"),
        ("SliceThickness", 0x00180050, b"DS", b"5.00", "5.00"),
        ("SoftwareVersions", 0x00181020, b"LO", b"A\\B", "['A', 'B']"),
        ("TimezoneOffsetFromUTC", 0x00080201, b"SH", b"-0330", "-0330"),
        (
            "FrameOfReferenceUID",
            0x00200052,
            b"UI",
            b"1.2.03",
            "1.2.03",
        ),  # invalid; its images have it
    ],
)
def test_valid_values_are_kept(keyword: str, tag: int, vr: bytes, value: bytes, kept: str) -> None:
    normalised = header.normalise(source((tag, vr, value)))
    assert str(normalised.ds[keyword].value) == kept
    assert normalised.notes == ()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_decimal_strings_that_are_too_long_are_shortened() -> None:
    """PS3.5 6.2: at most 16 characters. Computed values are often written with all their digits."""
    received = {0x00101030: b"71.123456789012345678", 0x00282112: b"12.5\\7.3333333333333333333"}
    normalised = header.normalise(source(*((tag, b"DS", value) for tag, value in received.items())))
    assert normalised.notes == ()
    again = read_dataset(io.BytesIO(encode(normalised.ds)), is_implicit_VR=False, is_little_endian=True)
    assert float(again.PatientWeight) == pytest.approx(71.123456789012345678, abs=1e-12)
    assert [float(value) for value in again.LossyImageCompressionRatio] == pytest.approx([12.5, 22 / 3])
    for keyword in ("PatientWeight", "LossyImageCompressionRatio"):
        texts = str(again[keyword].value).strip("[]").split(", ")
        assert max(map(len, texts)) <= 16


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_results_of_a_source_with_several_values_for_one_pass_the_checks() -> None:
    several = {"StudyDate": ["20200315", "20200316"], "SliceThickness": ["5", "5"], "Manufacturer": ["A", "B"]}
    analysis = make_analysis(attributes=several | {"PatientBirthDate": ["19600101", "19600102"]})
    for ds in build_set(analysis, make_context(profile=Profile(lungs_seg=True, pdf=True))).values():
        assert not ds.StudyDate
        assert not ds.PatientBirthDate
        assert list(checks.complaints(ds, analysis)) == []


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_results_of_slices_of_which_some_were_compressed_with_loss_say_so() -> None:
    """The first slice as the scanner sent it, one that was late from an archive that compresses."""

    def compress(number: int, ds: Dataset) -> None:
        if number == 5:
            ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", "9.5"
            ds.LossyImageCompressionMethod = "ISO_15444_1"

    profile = Profile(lungs_seg=True, slice_pictures=True)
    built = build_set(make_analysis(edit=compress), make_context(profile=profile))
    for kind in (ResultKind.LESIONS, ResultKind.LUNGS, ResultKind.PICTURE, ResultKind.SLICES):
        ds = built[kind]
        assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 9.5), kind
        assert ds.LossyImageCompressionMethod == "ISO_15444_1", kind


def test_every_object_says_of_which_issuer_the_patient_id_is_and_that_dates_were_shifted() -> None:
    qualifiers = Dataset()
    qualifiers.UniversalEntityID, qualifiers.UniversalEntityIDType = "1.2.276.0.76", "ISO"
    attributes = {
        "IssuerOfPatientID": "HOSPITAL B",
        "IssuerOfPatientIDQualifiersSequence": [qualifiers],
        "LongitudinalTemporalInformationModified": "MODIFIED",
    }
    profile = Profile(lungs_seg=True, slice_pictures=True, pdf=True)
    analysis = make_analysis(attributes=attributes)
    for kind, ds in build_set(analysis, make_context(profile=profile)).items():
        assert ds.IssuerOfPatientID == "HOSPITAL B", kind
        assert ds.IssuerOfPatientIDQualifiersSequence == [qualifiers], kind
        assert ds.LongitudinalTemporalInformationModified == "MODIFIED", kind


def test_identity_is_kept_even_where_it_is_not_valid() -> None:
    long_id = b"PATIENT-" * 10  # more than the 64 characters of LO
    normalised = header.normalise(source((0x00100020, b"LO", long_id), (0x00080050, b"SH", b"A" * 20)))
    assert normalised.ds.PatientID == long_id.decode()
    assert normalised.ds.AccessionNumber == "A" * 20


def test_the_source_is_not_changed() -> None:
    original = source((0x00100040, b"CS", b"U"), (0x00100010, b"PN", b"A^B"))
    before = encode(original)
    header.normalise(original).ds.PatientName = "Other"
    assert encode(original) == before
    analysis = make_analysis()
    headers = [encode(each) for each in analysis.volume.headers]
    build_set(analysis, make_context(profile=Profile(lungs_seg=True, key_slices=True)))
    assert [encode(each) for each in analysis.volume.headers] == headers


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"])
def test_without_its_uids_a_source_has_no_result(keyword: str) -> None:
    nameless = source()
    delattr(nameless, keyword)
    with pytest.raises(ResultError, match=keyword):
        header.normalise(nameless)


def test_a_missing_frame_of_reference_is_derived_from_the_series() -> None:
    without = source()
    del without.FrameOfReferenceUID
    first, second = header.normalise(without), header.normalise(without)
    assert first.ds.FrameOfReferenceUID == second.ds.FrameOfReferenceUID
    assert "FrameOfReferenceUID" in first.notes[0]


COMPLETE = {"CodeValue": "THX", "CodingSchemeDesignator": "99HOSP", "CodeMeaning": "Thorax"}
INCOMPLETE: dict[str, dict[str, object]] = {
    "empty item": {},
    **{f"no {keyword}": {k: v for k, v in COMPLETE.items() if k != keyword} for keyword in COMPLETE},
    **{f"empty {keyword}": {**COMPLETE, keyword: ""} for keyword in COMPLETE},
    **{f"blank {keyword}": {**COMPLETE, keyword: " "} for keyword in COMPLETE},
    "two values": {**COMPLETE, "CodeValue": ["THX", "ABD"]},
    "only a long code": {**{k: v for k, v in COMPLETE.items() if k != "CodeValue"}, "LongCodeValue": "THX" * 10},
}


def item(attributes: dict[str, Any]) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize("attributes", INCOMPLETE.values(), ids=INCOMPLETE)
@pytest.mark.parametrize("within_request", [False, True])
def test_incomplete_codes_are_left_out_with_a_note(attributes: dict[str, Any], within_request: bool) -> None:
    """Also behind a complete one; the report then names CT of chest."""
    keyword, original = "ProcedureCodeSequence", [item(COMPLETE), item(attributes)]
    if within_request:
        keyword, original = "RequestAttributesSequence", [item({"RequestedProcedureCodeSequence": original})]
    analysis = make_analysis(attributes={keyword: original})
    normalised = header.normalise(analysis.volume.headers[0])
    assert keyword not in normalised.ds
    assert keyword in normalised.notes[0]
    report = through_bytes(sr.build(analysis, make_context()))
    assert report.PerformedProcedureCodeSequence[0].CodeValue == "169069000"
    assert any("incomplete code" in text or "has 2 values" in text for text in sr_texts(report))


def test_complete_codes_are_kept() -> None:
    request = item({"RequestedProcedureID": "RP1", "RequestedProcedureCodeSequence": [item(COMPLETE)]})
    attributes = {"ProcedureCodeSequence": [item(COMPLETE)], "RequestAttributesSequence": [request]}
    analysis = make_analysis(attributes=attributes)
    assert header.normalise(analysis.volume.headers[0]).notes == ()
    report = through_bytes(sr.build(analysis, make_context()))
    assert report.PerformedProcedureCodeSequence[0].CodeValue == "THX"
    assert report.ReferencedRequestSequence[0].RequestedProcedureCodeSequence[0].CodeMeaning == "Thorax"


NAMES: dict[str, tuple[str | list[str], bytes, str]] = {
    "Korean": (
        ["", "ISO 2022 IR 149"],
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    "Arabic": ("ISO_IR 127", b"\xe2\xc8\xc7\xe6\xea^\xe4\xe6\xd2\xc7\xd1", "قباني^لنزار"),
    "Latin-1": ("ISO_IR 100", b"M\xfcller^Zo\xeb", "Müller^Zoë"),
    "UTF-8": ("ISO_IR 192", "Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong=王^小東"),
    "Japanese": (
        ["", "ISO 2022 IR 87"],
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    "none": ("", b"Smith^Jane", "Smith^Jane"),
}


@pytest.mark.parametrize("alphabet", NAMES)
def test_names_survive_byte_for_byte(alphabet: str) -> None:
    """PS3.5 H.3 (Japanese) and I.2 (Korean) give two of the encodings."""
    terms, encoded, name = NAMES[alphabet]
    term = terms if isinstance(terms, str) else "\\".join(terms)
    original = source((0x00080005, b"CS", term.encode()), (0x00100010, b"PN", encoded))
    normalised = header.normalise(original)
    assert str(normalised.ds.PatientName) == name
    assert normalised.notes == ()

    analysis = make_analysis()
    for each in analysis.volume.headers:
        each.SpecificCharacterSet = terms
        each.PatientName = original.PatientName
    report = through_bytes(sr.build(analysis, make_context()))
    assert str(report.PatientName) == name
    assert report.get("SpecificCharacterSet", "") == terms
    assert report.PatientName.original_string.rstrip(b" ") == encoded
    assert "".join(sr_texts(report)).isascii()


def sr_texts(item: Dataset) -> list[str]:
    own = [str(item.TextValue)] if "TextValue" in item else []
    return own + [text for child in item.get("ContentSequence", ()) for text in sr_texts(child)]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("received", "written"),
    [
        ("ISO-IR 100", "ISO_IR 100"),
        ("NOT A SET", "ISO_IR 100"),
        ("WINDOWS-1252", "ISO_IR 192"),
        ("ISO IR 192", "ISO_IR 192"),
    ],
)
def test_undefined_character_sets_are_replaced_and_the_name_is_kept(received: str, written: str) -> None:
    name = "Müller^Zoë".encode("utf-8" if received == "ISO IR 192" else "latin-1")
    normalised = header.normalise(source((0x00080005, b"CS", received.encode()), (0x00100010, b"PN", name)))
    assert normalised.ds.SpecificCharacterSet == written
    assert "SpecificCharacterSet" in normalised.notes[0]
    again = read_dataset(io.BytesIO(encode(normalised.ds)), is_implicit_VR=False, is_little_endian=True)
    assert str(again.PatientName) == "Müller^Zoë"


@pytest.mark.parametrize(
    ("term", "encoding", "name"),
    [
        ("SHIFT_JIS", "shift_jis", "山田^太郎"),
        ("WINDOWS-1251", "cp1251", "Иванов"),
        ("CP1252", "cp1252", "Šimon^Œ"),
    ],
)
def test_names_in_an_encoding_that_dicom_does_not_define_are_written_as_unicode(
    term: str, encoding: str, name: str
) -> None:
    original = source((0x00080005, b"CS", term.encode()), (0x00100010, b"PN", name.encode(encoding)))
    analysis = make_analysis()
    for each in analysis.volume.headers:
        each.SpecificCharacterSet, each.PatientName = term, original.PatientName
    report = through_bytes(sr.build(analysis, make_context()))
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert str(report.PatientName) == name
    assert list(checks.complaints(report, analysis)) == []


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("term", ["zlib", "rot13", "hex", "idna", "punycode", "undefined", "utf_16", "\\zlib"])
def test_codecs_that_are_for_no_text_of_dicom_are_unknown_encodings(term: str) -> None:
    name, description = "Müller^Zoë", "Schädel"
    normalised = header.normalise(
        source(
            (0x00080005, b"CS", term.encode()),
            (0x00081030, b"LO", description.encode("latin-1")),
            (0x00100010, b"PN", name.encode("latin-1")),
        )
    )
    assert normalised.ds.SpecificCharacterSet in ("ISO_IR 100", ["ISO_IR 100"] * 2)
    assert "SpecificCharacterSet" in normalised.notes[0]
    again = read_dataset(io.BytesIO(encode(normalised.ds)), is_implicit_VR=False, is_little_endian=True)
    assert (str(again.PatientName), again.StudyDescription) == (name, description)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_item_in_such_an_encoding_is_left_out() -> None:
    item = element(0x00080005, b"CS", b"ZLIB") + element(0x00321032, b"PN", b"Doe^John")
    whole = struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item
    sequence = struct.pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, len(whole)) + whole
    original = source()
    original.update(read_dataset(io.BytesIO(sequence), is_implicit_VR=False, is_little_endian=True))
    normalised = header.normalise(original)
    assert "RequestAttributesSequence" not in normalised.ds
    assert "RequestAttributesSequence cannot be read (LookupError); left blank" in normalised.notes


@pytest.mark.filterwarnings("error::UserWarning")
def test_unusual_names_are_kept_and_not_printed() -> None:
    analysis = make_analysis(attributes={"PatientName": "ANON-0001"})
    for ds in build_set(analysis, make_context(profile=Profile(lungs_seg=True))).values():
        assert ds.PatientName == "ANON-0001"


def test_notes_reach_the_report() -> None:
    analysis = make_analysis()
    analysis.volume.headers[0].PatientSex = "U"
    assert any("PatientSex has the invalid value" in text for text in sr_texts(sr.build(analysis, make_context())))


@pytest.mark.parametrize("number", [b"99999999999", b"-99999999999", b"1\\2", b"1e9", b"2147483647"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_absurd_series_numbers_are_none(number: bytes) -> None:
    assert header.series_number(header.normalise(source((0x00200011, b"IS", number))).ds) == 0


@pytest.mark.parametrize(("number", "expected"), [(None, 0), (7, 7), (-3, 0), (2_000_000, 0)])
def test_series_number(number: Any, expected: int) -> None:
    ds = pydicom.Dataset()
    if number is not None:
        ds.SeriesNumber = number
    assert header.series_number(ds) == expected


def test_evidence_names_each_slice() -> None:
    headers = make_analysis().volume.headers
    named = header.evidence(headers)
    assert [ds.SOPInstanceUID for ds in named] == [ds.SOPInstanceUID for ds in headers]
    assert {len(ds) for ds in named} == {4}
