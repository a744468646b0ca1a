"""What the audit trail is told. Rooms report events; who records them, if anybody, is not their business.

Events go through one logger of the `logging` module, whose handlers are audit trails (`audit.AuditTrail`) and which
hands nothing on to the log of the node: they hold patient IDs. Reporting never waits and never fails.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ImplicitVRLittleEndian

from dicom_node.audit_message import NODE_AUTHENTICATION, Node, Reporter, Study
from dicom_node.errors import NodeError
from dicom_node.instance_check import Instance
from dicom_node.malformed import MALFORMED

MAX_TALLIED_STUDIES = 100  # of one association; more are reported before it ends
EVENTS = logging.getLogger("dicomnode-audit")
EVENTS.addHandler(logging.NullHandler())
EVENTS.propagate = False
EVENTS.setLevel(logging.INFO)


class Event(Protocol):
    """Something that the trail is about."""

    def messages(self, reporter: Reporter, now: datetime) -> Iterator[bytes]:
        """In the words of PS3.15 A.5."""


def report(event: Event) -> None:
    """Something has happened."""
    EVENTS.info(event)


@dataclass(frozen=True)
class Received:
    """Instances came from somebody; with a `failure`, they could not be kept. `asked`: because the node asked."""

    sender: Node
    instances: Sequence[Study]
    failure: str = ""
    asked: bool = False

    def messages(self, reporter: Reporter, now: datetime) -> Iterator[bytes]:
        """As `Event`."""
        for study in self.instances:
            yield reporter.transferred(
                now, self.sender, reporter.node, study, created=True, failure=self.failure, asked=self.asked
            )


@dataclass(frozen=True)
class Sending:
    """The node is about to store these somewhere."""

    receiver: Node
    instances: Sequence[Study]

    def messages(self, reporter: Reporter, now: datetime) -> Iterator[bytes]:
        """As `Event`."""
        for study in self.instances:
            yield reporter.begin_transfer(now, reporter.node, self.receiver, study)


@dataclass(frozen=True)
class Sent:
    """Somebody has taken these; with a `failure`, has not."""

    receiver: Node
    instances: Sequence[Study]
    failure: str = ""

    def messages(self, reporter: Reporter, now: datetime) -> Iterator[bytes]:
        """As `Event`."""
        for study in self.instances:
            yield reporter.transferred(
                now, reporter.node, self.receiver, study, created=False, failure=self.failure
            )


@dataclass(frozen=True)
class Asked:
    """The node has sent a C-FIND, C-MOVE or C-GET; with a `failure`, in vain."""

    receiver: Node
    sop_class: str
    identifier: Dataset = field(repr=False)
    failure: str = ""

    def messages(self, reporter: Reporter, now: datetime) -> Iterator[bytes]:
        """As `Event`."""
        encoded = _encoded(self.identifier)
        yield reporter.query(now, self.receiver, self.sop_class, ImplicitVRLittleEndian, encoded, self.failure)


@contextmanager
def asking(receiver: Node, sop_class: str, identifier: Dataset) -> Iterator[None]:
    """Report a query or retrieval when it is over, however it ended."""
    try:
        yield
    except NodeError as error:
        report(Asked(receiver, sop_class, identifier, str(error)))
        raise
    report(Asked(receiver, sop_class, identifier))


@dataclass(frozen=True)
class TurnedAway:
    """Somebody wanted in and was not who he should be."""

    who: Node
    reason: str

    def messages(self, reporter: Reporter, now: datetime) -> Iterator[bytes]:
        """As `Event`."""
        yield reporter.alert(now, NODE_AUTHENTICATION, self.reason, self.who)


@dataclass(frozen=True)
class LoggedIn:
    """A person logged in at the status page; with a `failure`, was not let in."""

    person: Node
    failure: str = ""

    def messages(self, reporter: Reporter, now: datetime) -> Iterator[bytes]:
        """As `Event`."""
        yield reporter.authentication(now, self.person, enters=True, failure=self.failure)


@dataclass(frozen=True)
class LoggedOut:
    """A person logged out."""

    person: Node

    def messages(self, reporter: Reporter, now: datetime) -> Iterator[bytes]:
        """As `Event`."""
        yield reporter.authentication(now, self.person, enters=False)


@dataclass(frozen=True)
class Acted:
    """A person had a series analysed or delivered again, or cancelled; with a `failure`, it was refused."""

    person: Node
    study: Study
    action: str
    failure: str = ""

    def messages(self, reporter: Reporter, now: datetime) -> Iterator[bytes]:
        """As `Event`."""
        yield reporter.procedure_updated(now, self.person, self.study, self.action, self.failure)


def studies(instances: Iterable[Study]) -> list[Study]:
    """Put together by study, patient and accession number, one of each to a message; others are left out."""
    counts: dict[tuple[str, str, str], dict[str, int]] = {}
    for one in instances:
        if not one.uid:
            continue
        of_study = counts.setdefault((one.uid, one.patient_id, one.accession_number), {})
        for sop_class, count in one.instances.items():
            of_study[sop_class] = of_study.get(sop_class, 0) + count
    return [Study(*key, instances=of_study) for key, of_study in counts.items()]


def of(instance: Instance) -> Study:
    """One instance that came by DIMSE."""
    return Study(instance.study_uid, instance.patient_id, instance.accession_number, {instance.sop_class_uid: 1})


def in_file(path: Path) -> Study:
    """The instance in a file; what cannot be read is empty."""
    try:
        tags = ["SOPClassUID", "StudyInstanceUID", "PatientID", "AccessionNumber"]
        ds = dcmread(path, stop_before_pixels=True, specific_tags=[*tags, "SpecificCharacterSet"])
        sop_class, study, patient, accession = (str(ds.get(tag) or "") for tag in tags)
    except (*MALFORMED, OSError):
        return Study("", "")
    return Study(study, patient, accession, {sop_class: 1})


class Stored(Protocol):
    """What became of one file; `scu.StoreResult` is one."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def error(self) -> Exception | None:
        """Why it is not stored."""


class Shipment:
    """Files that are stored somewhere: reported when that begins, and when it is over."""

    def __init__(self, receiver: Node, files: Iterable[Path]) -> None:
        self._receiver = receiver
        self._instances = {path: in_file(path) for path in files}
        report(Sending(receiver, studies(self._instances.values())))

    def close(self, results: Sequence[Stored]) -> None:
        """Those that are stored, and those that are not, with all reasons."""
        kept = [result for result in results if result.error is None]
        refused = [result for result in results if result.error is not None]
        why = "; ".join(dict.fromkeys(str(result.error) for result in refused))
        report(Sent(self._receiver, studies(self._instances[result.path] for result in kept)))
        report(Sent(self._receiver, studies(self._instances[result.path] for result in refused), why))


def _encoded(identifier: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian = buffer.is_implicit_VR = True
    write_dataset(buffer, identifier)
    return buffer.getvalue()


class Tally:
    """What one association brings, until it ends. For the thread of that association.

    Args:
        sender: who sends.
        asked: because the node has asked for it.
    """

    def __init__(self, sender: Node, asked: bool = False) -> None:
        self._sender, self._asked = sender, asked
        self._kept: list[Study] = []
        self._refused: list[Study] = []
        self._why = ""

    def note(self, study: Study, failure: str = "") -> None:
        """One more instance; with a `failure` it was not kept."""
        if failure:
            self._refused = studies([*self._refused, study])
            self._why = failure
        else:
            self._kept = studies([*self._kept, study])
        if len(self._kept) + len(self._refused) >= MAX_TALLIED_STUDIES:
            self.close()

    def close(self) -> None:
        """Report it."""
        if self._kept:
            report(Received(self._sender, self._kept, asked=self._asked))
        if self._refused:
            report(Received(self._sender, self._refused, self._why, self._asked))
        self._kept, self._refused = [], []
