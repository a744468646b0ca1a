"""The message for a RIS: read by another library, with the numbers of the SR, whatever the patient's name holds."""

from __future__ import annotations

import copy
from typing import Any

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread

from dicom_node import config, hl7_message
from dicom_node.hl7_text import NotHl7, acknowledgement, escape
from pipeline import RESEARCH_USE_ONLY
from pipeline.checks_sr import numbers, walk
from tests.fixtures.ris import ack, read

HOSTILE = "Mü|ller & Söhne~x\\y\rPID|2||EVIL\x0b\x1c\nend"


@pytest.fixture(scope="module")
def report(result_sr: Any) -> Dataset:
    return dcmread(result_sr)


def address(**changes: Any) -> config.Hl7Destination:
    ris = {"name": "ris", "protocol": "hl7", "host": "ris", "port": 2575, **changes}
    (parsed,) = config.parse({"destinations": [ris]}).destinations
    assert isinstance(parsed, config.Hl7Destination)
    return parsed


def text(ds: Dataset, **changes: Any) -> str:
    return hl7_message.build(ds, address(**changes)).data.decode("utf-8")


def changed(ds: Dataset, **attributes: Any) -> Dataset:
    result = copy.deepcopy(ds)
    for keyword, value in attributes.items():
        setattr(result, keyword, value)
    return result


def test_a_report_is_a_valid_message_with_every_figure_of_the_sr(report: Dataset) -> None:
    message = read(text(report, receiving_application="RIS", assigning_authority="HOSPITAL"))
    assert message.msh.msh_9.value == "ORU^R01^ORU_R01"
    assert message.msh.msh_18.value == "UNICODE UTF-8"
    result = message.oru_r01_patient_result
    pid = result.oru_r01_patient.pid
    assert (pid.pid_3.cx_1.value, pid.pid_3.cx_4.value) == (report.PatientID, "HOSPITAL")
    order = result.oru_r01_order_observation
    assert order.obr.obr_18.value == report.AccessionNumber
    assert order.obr.obr_25.value == "F"
    assert order.nte.nte_3.value == RESEARCH_USE_ONLY
    figures, others = {}, {}
    for group in order.oru_r01_observation:
        obx = group.obx
        assert obx.obx_11.value == "F"
        if obx.obx_2.value == "NM":
            figures[obx.obx_3.ce_1.value, obx.obx_4.value] = (float(obx.obx_5.value), obx.obx_6.ce_1.value)
        else:
            others.setdefault(obx.obx_3.ce_1.value, []).append(obx.obx_5.value)
    summary = next(
        item for item in walk(report) if item.get("ContentTemplateSequence") and item.ValueType == "CONTAINER"
    )
    assert len(figures) == len(list(numbers(summary))) == 27
    for number in numbers(summary):
        if number.name in {"SEVERITY", "CONSOLIDATION", "LUNG_VOLUME"}:
            assert number.region is not None
            assert figures[number.name, hl7_message.REGIONS[number.region]] == (number.value, number.unit)
    assert figures["OPACITY_VOLUME", "both lungs"][1] == "ml"
    assert others["SEVERITY_CLASS"][0].startswith("CLASS_")
    assert RESEARCH_USE_ONLY in others["INTENDED_USE"][0]
    assert others["SR_UID"] == [report.SOPInstanceUID]
    assert others["110180"] == [report.StudyInstanceUID]


def test_hostile_values_stay_text(report: Dataset) -> None:
    ds = changed(report, PatientName=HOSTILE, PatientID="1|2^3", AccessionNumber="A&B~\\", IssuerOfPatientID="X^Y")
    ds.ReferencedRequestSequence = []
    said = text(ds)
    assert "\x0b" not in said and "\x1c" not in said and "\n" not in said
    parsed = hl7.parse(said)
    assert len(parsed.segments("PID")) == 1
    assert [str(part[0]) for part in parsed][:4] == ["MSH", "PID", "OBR", "NTE"]
    for field, expected in (("PID.F5.R1.C1", HOSTILE), ("PID.F3.R1.C1", "1|2^3"), ("OBR.F18", "A&B~\\")):
        assert parsed[field] == expected, field  # the library undoes the escapes
    read(said)


def test_names_change_their_order_and_keep_their_scripts(report: Dataset) -> None:
    said = text(changed(report, PatientName="Hong^Gildong^M^Dr^Jr=洪^吉洞=홍^길동"))
    (pid,) = (line for line in said.split("\r") if line.startswith("PID"))
    assert pid.split("|")[5] == "Hong^Gildong^M^Jr^Dr^^^A~洪^吉洞^^^^^^I~홍^길동^^^^^^P"


def test_a_corrected_report_says_so_under_the_same_filler_number(report: Dataset) -> None:
    first = read(text(report))
    ds = changed(report, SOPInstanceUID="1.2.3", PredecessorDocumentsSequence=[Dataset()])
    second = read(text(ds, result_status="P"))
    orders = [each.oru_r01_patient_result.oru_r01_order_observation for each in (first, second)]
    assert orders[1].obr.obr_25.value == orders[1].oru_r01_observation[0].obx.obx_11.value == "C"
    assert orders[0].obr.obr_3.value == orders[1].obr.obr_3.value
    assert report.AccessionNumber not in orders[0].obr.obr_3.value  # never taken for the radiologist's report
    assert first.msh.msh_10.value != second.msh.msh_10.value
    assert text(report) == text(report)


@pytest.mark.parametrize(
    ("stored", "sent"), [("1.4e-05", "0.000014"), ("1.23457e+06", "1234570"), ("0", "0"), ("12.5", "12.5")]
)
def test_numbers_have_no_exponent_which_nm_does_not_know(report: Dataset, stored: str, sent: str) -> None:
    """A voxel of opacity in a lung is 0.000014 % of it."""
    small = copy.deepcopy(report)
    for item in walk(small):
        if item.ValueType == "NUM":
            item.MeasuredValueSequence[0].NumericValue = stored
    fields = [line.split("|") for line in text(small).split("\r") if line.startswith("OBX")]
    assert {of[5] for of in fields if of[2] == "NM"} == {sent}


def test_a_report_without_patient_or_figures_makes_no_message(report: Dataset) -> None:
    with pytest.raises(hl7_message.Incomplete, match="PatientID"):
        text(changed(report, PatientID=" "))
    with pytest.raises(hl7_message.Incomplete, match="no figures"):
        text(changed(report, ContentSequence=[]))


@given(st.text())
def test_escaped_text_has_no_separators_and_comes_back(value: str) -> None:
    said = escape(value)
    assert not set(said) & set("|^~&\r\n\x0b\x1c")
    said.encode("utf-8")
    back = hl7.parse("MSH|^~\\&|A\r").unescape(said)
    if not any(0x7F <= ord(c) <= 0x9F or c in "\u2028\u2029" or 0xD800 <= ord(c) <= 0xDFFF for c in value):
        assert back == value


def test_acknowledgements() -> None:
    said = acknowledgement(ack("ID1", "AE", "no such\npatient", "204^Unknown key identifier^HL70357").encode())
    assert (said.code, said.control_id, said.condition) == ("AE", "ID1", "204")
    assert "no such" in said.text
    assert acknowledgement(ack("ID1").encode()).text == ""
    for nonsense in (b"", b"GET / HTTP/1.1", b"MSH|^~\\&|A", b"\xff\xfe\x00", ack("1").encode()[:40]):
        with pytest.raises(NotHl7):
            acknowledgement(nonsense)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_acknowledgement_in_lines(end: str) -> None:
    said = acknowledgement(ack("ID1", "AE", "no such patient", "204^Unknown key").replace("\r", end).encode())
    assert (said.code, said.control_id, said.condition) == ("AE", "ID1", "204")
    assert said.text == "no such patient; 204 Unknown key"


@given(st.binary())
def test_whatever_comes_is_an_acknowledgement_or_none(block: bytes) -> None:
    try:
        acknowledgement(b"MSH|^~\\&|" + block)
    except NotHl7:
        return
