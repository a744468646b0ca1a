"""Every kind of message: valid by the schema, and with what PS3.15 A.5.3 wants in it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from lxml import etree

from dicom_node.audit_message import NODE_AUTHENTICATION, RECORDING_STOPPED, Node, Reporter, Study
from tests.fixtures.audit import SCHEMA, Message

NOW = datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=UTC)
REPORTER = Reporter(Node("4711", "DICOMNODE", "node.example.org"), "DICOMNODE", "Hospital")
CT1 = Node("CT1", "CT1", "10.0.0.7")
STUDY = Study("1.2.3", "P-1", "A-1", {"1.2.840.10008.5.1.4.1.1.2": 300, "1.2.840.10008.5.1.4.1.1.2.1": 1})


@pytest.mark.parametrize(("starts", "kind"), [(True, "110120"), (False, "110121")])
def test_application_activity(starts: bool, kind: str) -> None:
    message = Message(REPORTER.activity(NOW, starts))
    assert (message.id, message.type, message.outcome) == ("110100", kind, "0")
    assert message.event.get("EventActionCode") == "E"
    assert message.event.get("EventDateTime") == "2026-11-25T12:00:00.123+00:00"
    application = message.participant("110150")
    assert application["UserID"] == "4711"
    assert application["AlternativeUserID"] == "AETITLES=DICOMNODE"
    assert (application["NetworkAccessPointID"], application["NetworkAccessPointTypeCode"]) == (
        "node.example.org",
        "1",
    )
    source = message.root.find("AuditSourceIdentification")
    assert dict(source.attrib) == {"AuditEnterpriseSiteID": "Hospital", "AuditSourceID": "DICOMNODE"}
    assert source.find("AuditSourceTypeCode").get("csd-code") == "4"


@pytest.mark.parametrize(("enters", "kind"), [(True, "110122"), (False, "110123")])
def test_user_authentication(enters: bool, kind: str) -> None:
    ada = Node("ada", address="10.0.0.9")
    message = Message(REPORTER.authentication(NOW, ada, enters=enters))
    assert (message.id, message.type, message.outcome) == ("110114", kind, "0")
    person, application = message.root.findall("ActiveParticipant")
    assert (person.get("UserID"), person.get("UserIsRequestor")) == ("ada", "true")
    assert (person.get("NetworkAccessPointID"), person.get("NetworkAccessPointTypeCode")) == ("10.0.0.9", "2")
    assert (application.get("UserID"), application.get("UserIsRequestor")) == ("4711", "false")
    refused = Message(REPORTER.authentication(NOW, ada, enters=enters, failure="wrong"))
    assert (refused.outcome, refused.event.findtext("EventOutcomeDescription")) == ("4", "wrong")


def test_somebody_changes_what_becomes_of_a_study() -> None:
    message = Message(REPORTER.procedure_updated(NOW, Node("ada", address="10.0.0.9"), STUDY, "retry"))
    assert (message.id, message.outcome, message.event.get("EventActionCode")) == ("110111", "0", "U")
    assert message.root.find("ActiveParticipant").get("UserID") == "ada"
    (study,) = message.objects("110180")
    assert (study.get("ParticipantObjectID"), message.detail("Action")) == ("1.2.3", "retry")
    (patient,) = message.objects("2")
    assert patient.get("ParticipantObjectID") == "P-1"
    assert Message(REPORTER.procedure_updated(NOW, CT1, STUDY, "retry", "refused")).outcome == "4"


def assert_moved(message: Message) -> None:
    (study,) = message.objects("110180")
    assert (study.get("ParticipantObjectTypeCode"), study.get("ParticipantObjectTypeCodeRole")) == ("2", "3")
    assert study.get("ParticipantObjectID") == "1.2.3"
    assert study.xpath("ParticipantObjectDescription/Accession/@Number") == ["A-1"]
    classes = study.xpath("ParticipantObjectDescription/SOPClass")
    assert {one.get("UID"): int(one.get("NumberOfInstances")) for one in classes} == STUDY.instances
    (patient,) = message.objects("2")
    assert (patient.get("ParticipantObjectTypeCode"), patient.get("ParticipantObjectTypeCodeRole")) == ("1", "1")
    assert patient.get("ParticipantObjectID") == "P-1"
    assert patient.find("ParticipantObjectIDTypeCode").get("codeSystemName") == "RFC-3881"


def test_instances_come() -> None:
    message = Message(REPORTER.transferred(NOW, CT1, REPORTER.node, STUDY, created=True))
    assert (message.id, message.outcome, message.event.get("EventActionCode")) == ("110104", "0", "C")
    source = message.participant("110153")
    assert (source["UserID"], source["NetworkAccessPointID"], source["NetworkAccessPointTypeCode"]) == (
        "CT1",
        "10.0.0.7",
        "2",
    )
    assert source["UserIsRequestor"] == "true"
    assert message.participant("110152")["UserIsRequestor"] == "false"
    assert_moved(message)


def test_instances_that_we_asked_for() -> None:
    message = Message(REPORTER.transferred(NOW, CT1, REPORTER.node, STUDY, created=True, asked=True))
    assert message.participant("110153")["UserIsRequestor"] == "false"
    assert (message.participant("110152")["UserID"], message.participant("110152")["UserIsRequestor"]) == (
        "4711",
        "true",
    )
    assert_moved(message)


def test_instances_go() -> None:
    begin = Message(REPORTER.begin_transfer(NOW, REPORTER.node, CT1, STUDY))
    assert (begin.id, begin.event.get("EventActionCode")) == ("110102", "E")
    failed = Message(REPORTER.transferred(NOW, REPORTER.node, CT1, STUDY, created=False, failure="out of disk"))
    assert (failed.id, failed.outcome, failed.event.get("EventActionCode")) == ("110104", "4", "R")
    assert failed.event.findtext("EventOutcomeDescription") == "out of disk"
    for message in (begin, failed):
        assert message.participant("110153")["UserID"] == "4711"
        assert message.participant("110152")["AlternativeUserID"] == "AETITLES=CT1"
        assert_moved(message)


def test_a_query() -> None:
    syntax = "1.2.840.10008.1.2"
    message = Message(REPORTER.query(NOW, CT1, "1.2.840.10008.5.1.4.1.2.2.1", syntax, b"\0\xff"))
    assert (message.id, message.event.get("EventActionCode")) == ("110112", "E")
    (asked,) = message.objects("110181")
    assert asked.get("ParticipantObjectID") == "1.2.840.10008.5.1.4.1.2.2.1"
    assert base64.b64decode(asked.findtext("ParticipantObjectQuery")) == b"\0\xff"
    assert message.detail("TransferSyntax") == syntax


def test_alerts() -> None:
    message = Message(REPORTER.alert(NOW, NODE_AUTHENTICATION, "no certificate", Node("EVIL", "EVIL", "fe80::1")))
    assert (message.id, message.type, message.outcome) == ("110113", "110126", "8")
    (subject,) = message.objects("110182")
    assert subject.get("ParticipantObjectID") == "fe80::1"
    assert message.detail("Alert Description") == "no certificate"
    assert message.root.xpath("ActiveParticipant[@UserID='EVIL']/@NetworkAccessPointTypeCode") == ["2"]
    lost = Message(REPORTER.alert(NOW, RECORDING_STOPPED, "7 lost"))
    assert (lost.id, lost.type) == ("110113", "110133")


@pytest.mark.parametrize(
    "value", ["", "\x00\x1b[31m", "<&\"'>]]>", "a\nb\tc", "\ud800", "환자^Ärzte", "x" * 10_000]
)
def test_whatever_peers_call_themselves_a_message_is_valid_and_one_line(value: str) -> None:
    study = Study("1.2.3", value, value, {"1.2": 1})
    for xml in (
        REPORTER.transferred(NOW, Node(value, value, value), REPORTER.node, study, created=True, failure=value),
        REPORTER.alert(NOW, NODE_AUTHENTICATION, value or "?", Node(value or "?", value, value)),
        Reporter(Node(value, value, value), value, value).activity(NOW, starts=True),
    ):
        message = Message(xml)
        assert b"\n" not in xml and b"\x1b" not in xml
        for patient in message.objects("2"):
            kept = patient.get("ParticipantObjectID")
            assert kept == (value if value.isprintable() and value else kept)


def test_the_schema_refuses_what_is_wrong() -> None:
    good = REPORTER.activity(NOW, starts=True)
    for old, new in (
        (b'EventOutcomeIndicator="0"', b'EventOutcomeIndicator="1"'),
        (b'EventActionCode="E"', b'EventActionCode="X"'),
        (b"csd-code=", b"code="),
        (b'UserIsRequestor="false"', b""),
        (b"<AuditSourceIdentification", b"<Else/><AuditSourceIdentification"),
    ):
        assert old in good
        assert not SCHEMA.validate(etree.fromstring(good.replace(old, new, 1))), old
