"""Audit messages as PS3.15 A.5 defines them: XML by the schema of A.5.1. Pure: no clock, no socket, no file.

They hold patient IDs and queries by their nature. Names of patients are left out.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring


class Code(NamedTuple):
    """A coded value."""

    value: str
    scheme: str
    meaning: str


# CID 400, 401, 402 and 404 (PS3.16)
APPLICATION_ACTIVITY = Code("110100", "DCM", "Application Activity")
BEGIN_TRANSFERRING = Code("110102", "DCM", "Begin Transferring DICOM Instances")
INSTANCES_TRANSFERRED = Code("110104", "DCM", "DICOM Instances Transferred")
QUERY = Code("110112", "DCM", "Query")
PROCEDURE_RECORD = Code("110111", "DCM", "Procedure Record")
SECURITY_ALERT = Code("110113", "DCM", "Security Alert")
USER_AUTHENTICATION = Code("110114", "DCM", "User Authentication")
APPLICATION_START = Code("110120", "DCM", "Application Start")
APPLICATION_STOP = Code("110121", "DCM", "Application Stop")
LOGIN = Code("110122", "DCM", "Login")
LOGOUT = Code("110123", "DCM", "Logout")
NODE_AUTHENTICATION = Code("110126", "DCM", "Node Authentication")
RECORDING_STOPPED = Code("110133", "DCM", "Audit Recording Stopped")
APPLICATION = Code("110150", "DCM", "Application")
DESTINATION = Code("110152", "DCM", "Destination Role ID")
SOURCE = Code("110153", "DCM", "Source Role ID")
STUDY_UID = Code("110180", "DCM", "Study Instance UID")
SOP_CLASS_UID = Code("110181", "DCM", "SOP Class UID")
NODE_ID = Code("110182", "DCM", "Node ID")
PATIENT_NUMBER = Code("2", "RFC-3881", "Patient Number")
URI = Code("12", "RFC-3881", "URI")

SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE = "0", "4", "8"
APPLICATION_SERVER = "4"  # audit source type, A.5.1.2.1
MACHINE_NAME, IP_ADDRESS = "1", "2"  # network access point type
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Node:
    """One side of what happened.

    Attributes:
        user_id: process id where it is ours, else its AE title or address.
        address: host name or IP address; empty where it is not known.
    """

    user_id: str
    ae_title: str = ""
    address: str = ""


@dataclass(frozen=True)
class Study:
    """Instances of one study. Whose they are is not in its `repr`, which may get into a log.

    Attributes:
        instances: how many, by SOP Class UID.
    """

    uid: str
    patient_id: str = field(repr=False)
    accession_number: str = field(default="", repr=False)
    instances: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Reporter:
    """Who writes the messages: a node, and the audit source that it is."""

    node: Node
    source_id: str
    site_id: str = ""

    def activity(self, now: datetime, starts: bool) -> bytes:
        """Application Activity (A.5.3.1)."""
        message = _message(APPLICATION_ACTIVITY, "E", now, kind=APPLICATION_START if starts else APPLICATION_STOP)
        _participant(message, self.node, APPLICATION, requestor=False)
        return self._finish(message)

    def begin_transfer(self, now: datetime, sender: Node, receiver: Node, study: Study) -> bytes:
        """Begin Transferring DICOM Instances (A.5.3.3)."""
        message = _message(BEGIN_TRANSFERRING, "E", now)
        return self._transfer(message, sender, receiver, study)

    def transferred(
        self,
        now: datetime,
        sender: Node,
        receiver: Node,
        study: Study,
        *,
        created: bool,
        failure: str = "",
        asked: bool = False,
    ) -> bytes:
        """DICOM Instances Transferred (A.5.3.7): to us (`created`) or from us; those that failed are another.

        `asked`: the receiver is the requestor, by C-MOVE or C-GET.
        """
        outcome = MINOR_FAILURE if failure else SUCCESS
        message = _message(INSTANCES_TRANSFERRED, "C" if created else "R", now, outcome, failure)
        return self._transfer(message, sender, receiver, study, asked)

    def query(
        self,
        now: datetime,
        receiver: Node,
        sop_class: str,
        transfer_syntax: str,
        identifier: bytes,
        failure: str = "",
    ) -> bytes:
        """Query (A.5.3.10): what we ask (C-FIND) or ask for (C-MOVE, C-GET), with the encoded identifier."""
        message = _message(QUERY, "E", now, MINOR_FAILURE if failure else SUCCESS, failure)
        _participant(message, self.node, SOURCE, requestor=True)
        _participant(message, receiver, DESTINATION, requestor=False)
        self._source(message)
        queried = _object(message, sop_class, SOP_CLASS_UID, kind="2", role="3")
        SubElement(queried, "ParticipantObjectQuery").text = base64.b64encode(identifier).decode("ascii")
        _detail(queried, "TransferSyntax", transfer_syntax)
        return self._document(message)

    def authentication(self, now: datetime, person: Node, *, enters: bool, failure: str = "") -> bytes:
        """User Authentication (A.5.3.12): somebody logs in at us, or out; with a `failure`, was not let in."""
        outcome = MINOR_FAILURE if failure else SUCCESS
        message = _message(USER_AUTHENTICATION, "E", now, outcome, failure, LOGIN if enters else LOGOUT)
        _participant(message, person, None, requestor=True)
        _participant(message, self.node, None, requestor=False)
        return self._finish(message)

    def procedure_updated(self, now: datetime, person: Node, study: Study, action: str, failure: str = "") -> bytes:
        """Procedure Record (CID 400), U: what becomes of the analysis of a study was changed by somebody."""
        message = _message(PROCEDURE_RECORD, "U", now, MINOR_FAILURE if failure else SUCCESS, failure)
        _participant(message, person, None, requestor=True)
        _participant(message, self.node, None, requestor=False)
        self._source(message)
        changed = _object(message, study.uid, STUDY_UID, kind="2", role="3")
        SubElement(changed, "ParticipantObjectName").text = NOT_RECORDED
        _detail(changed, "Action", action)
        _patient(message, study)
        return self._document(message)

    def alert(self, now: datetime, kind: Code, description: str, who: Node | None = None) -> bytes:
        """Security Alert (A.5.3.11), about `who` or about the audit trail itself."""
        message = _message(SECURITY_ALERT, "E", now, SERIOUS_FAILURE, description, kind)
        _participant(message, self.node, APPLICATION, requestor=who is None)
        if who is not None:
            _participant(message, who, None, requestor=True)
        self._source(message)
        subject = who or self.node
        alerted = _object(message, subject.address or subject.user_id, NODE_ID, kind="2", role="13")
        SubElement(alerted, "ParticipantObjectName").text = _clean(subject.ae_title or subject.user_id)
        _detail(alerted, "Alert Description", description)
        return self._document(message)

    def _transfer(self, message: Element, sender: Node, receiver: Node, study: Study, asked: bool = False) -> bytes:
        _participant(message, sender, SOURCE, requestor=not asked)
        _participant(message, receiver, DESTINATION, requestor=asked)
        self._source(message)
        moved = _object(message, study.uid, STUDY_UID, kind="2", role="3")
        SubElement(moved, "ParticipantObjectName").text = NOT_RECORDED
        description = SubElement(moved, "ParticipantObjectDescription")
        if study.accession_number:
            SubElement(description, "Accession", Number=_clean(study.accession_number))
        for sop_class, count in study.instances.items():
            SubElement(description, "SOPClass", UID=sop_class, NumberOfInstances=str(count))
        _patient(message, study)
        return self._document(message)

    def _finish(self, message: Element) -> bytes:
        self._source(message)
        return self._document(message)

    def _source(self, message: Element) -> None:
        """Comes after the participants, before the objects."""
        attributes = {"AuditEnterpriseSiteID": _clean(self.site_id)} if self.site_id else {}
        source = SubElement(message, "AuditSourceIdentification", attributes, AuditSourceID=_clean(self.source_id))
        SubElement(source, "AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})

    def _document(self, message: Element) -> bytes:
        text = tostring(message, encoding="unicode")
        return b'<?xml version="1.0" encoding="UTF-8"?>' + text.encode()


def _message(
    event: Code,
    action: str,
    now: datetime,
    outcome: str = SUCCESS,
    description: str = "",
    kind: Code | None = None,
) -> Element:
    message = Element("AuditMessage")
    identification = SubElement(
        message,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=now.isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=outcome,
    )
    _code(identification, "EventID", event)
    if kind is not None:
        _code(identification, "EventTypeCode", kind)
    if description:
        SubElement(identification, "EventOutcomeDescription").text = _clean(description)
    return message


def _participant(message: Element, node: Node, role: Code | None, requestor: bool) -> None:
    attributes = {"UserID": _clean(node.user_id or NOT_RECORDED)}
    if node.ae_title:
        attributes["AlternativeUserID"] = f"AETITLES={_clean(node.ae_title)}"  # A.5.2.2
    attributes["UserIsRequestor"] = "true" if requestor else "false"
    if node.address:
        attributes["NetworkAccessPointID"] = _clean(node.address)
        is_address = re.fullmatch(r"[0-9.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*", node.address)
        attributes["NetworkAccessPointTypeCode"] = IP_ADDRESS if is_address else MACHINE_NAME
    participant = SubElement(message, "ActiveParticipant", attributes)
    if role is not None:
        _code(participant, "RoleIDCode", role)


def _object(message: Element, identifier: str, meaning: Code, kind: str, role: str) -> Element:
    attributes = {
        "ParticipantObjectID": _clean(identifier),
        "ParticipantObjectTypeCode": kind,
        "ParticipantObjectTypeCodeRole": role,
    }
    found = SubElement(message, "ParticipantObjectIdentification", attributes)
    _code(found, "ParticipantObjectIDTypeCode", meaning)
    return found


def _patient(message: Element, study: Study) -> None:
    patient = _object(message, study.patient_id or NOT_RECORDED, PATIENT_NUMBER, kind="1", role="1")
    SubElement(patient, "ParticipantObjectName").text = NOT_RECORDED


def _detail(found: Element, kind: str, value: str) -> None:
    encoded = base64.b64encode(value.encode(errors="replace")).decode("ascii")
    SubElement(found, "ParticipantObjectDetail", type=kind, value=encoded)


def _code(parent: Element, name: str, code: Code) -> None:
    attributes = {"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning}
    SubElement(parent, name, attributes)


def _clean(text: str) -> str:
    """What XML 1.0 can hold, on one line; peers choose these values."""
    return re.sub(r"[^\x20-\x7e\x80-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)
