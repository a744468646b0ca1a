"""Who reports to the audit trail: everything that comes in, goes out, is asked, or is turned away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.presentation import build_context

from dicom_node import query, retrieve, scu
from dicom_node.archive import Address, Archive
from dicom_node.association_server import Answer
from dicom_node.audit_events import EVENTS, Asked, Event, Received, Sending, Sent, TurnedAway
from dicom_node.audit_message import Node, Reporter, Study
from dicom_node.config import Destination
from dicom_node.errors import PermanentError
from dicom_node.upper_layer import InstanceMemory
from tests.fixtures.audit import Message
from tests.fixtures.part10 import write_object
from tests.fixtures.reception import AE_TITLE, SECONDS, calling, ct, receiving, rejection, store_dataset
from tests.fixtures.retrieving import GET, MOVE, RetrievingArchive

LOOPBACK = "127.0.0.1"


class Recorder(logging.Handler):
    """Keeps the events, which must all be good for messages."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.came = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        event: Event = record.msg  # type: ignore[assignment]
        for xml in event.messages(Reporter(Node("1"), "x"), datetime.now(UTC)):
            Message(xml)
        with self.came:
            self.events.append(event)
            self.came.notify()

    def wait_for(self, count: int) -> list[Event]:
        with self.came:
            assert self.came.wait_for(lambda: len(self.events) >= count, SECONDS), self.events
            return self.events


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    handler = Recorder()
    EVENTS.addHandler(handler)
    yield handler
    EVENTS.removeHandler(handler)


def pacs(port: int, ae_title: str = "ARCHIVE") -> Destination:
    return Destination(name="pacs", ae_title=ae_title, host=LOOPBACK, port=port, timeout_s=5)


PACS = Node("ARCHIVE", "ARCHIVE", LOOPBACK)


def test_what_goes_out(recorder: Recorder, tmp_path: Path) -> None:
    paths = [write_object(tmp_path / "out", study_uid="1.2.3") for _ in range(2)]
    study = Study("1.2.3", "TRANSPORT", "", {"1.2.840.10008.5.1.4.1.1.7": 2})
    archive = Archive(tmp_path / "archive")
    port = archive.start()
    try:
        scu.store(pacs(port), paths, "NODE")
        scu.store(pacs(port, "WRONG"), paths, "NODE")
    finally:
        archive.stop()
    assert recorder.events[:3] == [Sending(PACS, [study]), Sent(PACS, [study]), Sent(PACS, [], "")]
    assert recorder.events[3] == Sending(Node("WRONG", "WRONG", LOOPBACK), [study])
    failed = recorder.events[5]
    assert isinstance(failed, Sent) and failed.instances == [study]
    assert "does not go by the AE title WRONG" in failed.failure


def test_what_is_asked(recorder: Recorder, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    port = archive.start()
    try:
        query.find_studies(pacs(port), {"PatientID": "P-1"}, "NODE")
    finally:
        archive.stop()
    (asked,) = recorder.events
    assert isinstance(asked, Asked) and asked.failure == ""
    assert (asked.receiver, asked.identifier.PatientID) == (PACS, "P-1")


def test_what_comes_by_c_store(recorder: Recorder, tmp_path: Path) -> None:
    whose = {"PatientID": "P-1", "AccessionNumber": "A-1", "StudyInstanceUID": "1.2.3"}
    with receiving(tmp_path / "state") as node:
        with calling(node) as assoc:
            for _ in range(3):
                store_dataset(assoc, ct(**whose))
            store_dataset(assoc, ct(**{**whose, "PatientID": "Ä-2"}))
            node.spool.partial.rmdir()  # from here on nothing can be written
            store_dataset(assoc, ct(**whose))
        node.ended.get(timeout=SECONDS)
        node.spool.partial.mkdir()
        kept, refused = recorder.wait_for(2)
    sender = Node("MODALITY", "MODALITY", LOOPBACK)
    assert kept == Received(
        sender,
        [Study("1.2.3", "P-1", "A-1", {CTImageStorage: 3}), Study("1.2.3", "Ä-2", "A-1", {CTImageStorage: 1})],
    )
    assert isinstance(refused, Received) and refused.sender == sender
    assert refused.instances == [Study("1.2.3", "P-1", "A-1", {CTImageStorage: 1})]
    assert refused.failure.startswith("cannot be stored")


def test_what_comes_by_c_get(recorder: Recorder, tmp_path: Path) -> None:
    paths = [write_object(tmp_path, CTImageStorage, study_uid="1.2.3", series_uid="1.2.4") for _ in range(2)]
    archive = RetrievingArchive(tmp_path / "archive")
    archive.keep(*paths)
    port = archive.start()
    answers = [Answer(0xA700, "no place")]
    try:
        retrieve.get(
            pacs(port),
            retrieve.identifiers("1.2.3", "1.2.4"),
            "NODE",
            [build_context(CTImageStorage, ExplicitVRLittleEndian)],
            lambda *_: answers.pop() if answers else Answer(0x0000),
            InstanceMemory(1 << 20, 1 << 20),
            5.0,
        )
    finally:
        archive.stop()
    study = Study("1.2.3", "TRANSPORT", "", {CTImageStorage: 1})
    asked, *came = recorder.events
    assert isinstance(asked, Asked) and (asked.receiver, asked.failure) == (PACS, "")
    assert (asked.sop_class, asked.identifier.SeriesInstanceUID) == (GET, "1.2.4")
    assert came == [Received(PACS, [study], asked=True), Received(PACS, [study], "no place", asked=True)]


def test_a_c_move_that_is_asked_for(recorder: Recorder, tmp_path: Path) -> None:
    archive = RetrievingArchive(tmp_path / "archive")
    port = archive.start()
    requests = retrieve.identifiers("1.2.3", "1.2.4")
    archive.peers[AE_TITLE] = Address(LOOPBACK, port)
    try:
        retrieve.move(pacs(port), requests, AE_TITLE, AE_TITLE, 5.0)
        with pytest.raises(PermanentError):
            retrieve.move(pacs(port), requests, AE_TITLE, "STRANGER", 5.0)
    finally:
        archive.stop()
    asked, refused = [event for event in recorder.events if isinstance(event, Asked)]
    assert (asked.sop_class, asked.receiver, asked.failure) == (MOVE, PACS, "")
    assert asked.identifier.SeriesInstanceUID == "1.2.4"
    assert refused.sop_class == MOVE and "knows no address of STRANGER" in refused.failure


@pytest.mark.parametrize(("originator", "asked"), [(AE_TITLE, True), ("OTHER", False), (None, False)])
def test_what_comes_after_a_c_move(recorder: Recorder, tmp_path: Path, originator: str | None, asked: bool) -> None:
    """The archive says who asked for it: Move Originator Application Entity Title (PS3.7 9.1.1.1.6)."""
    with receiving(tmp_path / "state") as node, calling(node) as assoc:
        ds = ct(PatientID="P-1", StudyInstanceUID="1.2.3")
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        assert assoc.send_c_store(ds, originator_aet=originator, originator_id=1).Status == 0x0000
        assoc.release()
        (received,) = recorder.wait_for(1)
    study = Study("1.2.3", "P-1", "", {CTImageStorage: 1})
    assert received == Received(Node("MODALITY", "MODALITY", LOOPBACK), [study], asked=asked)


def test_who_is_turned_away(recorder: Recorder, tmp_path: Path) -> None:
    with ExitStack() as stack:
        node = stack.enter_context(receiving(tmp_path / "a", calling_ae_titles=["CT1"]))
        assert rejection(node, calling_ae="EVIL") == (1, 1, 3)
        assert rejection(node, calling_ae="CT1", called_ae="OTHER") == (1, 1, 7)
        elsewhere = stack.enter_context(receiving(tmp_path / "b", networks=["10.0.0.0/8"]))
        with pytest.raises(PermanentError), calling(elsewhere) as assoc:
            raise PermanentError(f"established: {assoc.is_established}")
        evil, wrong, stranger = recorder.wait_for(3)[:3]
    assert evil == TurnedAway(Node("EVIL", "EVIL", LOOPBACK), "calling AE title not in reception.calling_ae_titles")
    assert wrong == TurnedAway(Node("CT1", "CT1", LOOPBACK), "called as 'OTHER', node.ae_title is DICOMNODE")
    assert stranger == TurnedAway(Node(LOOPBACK, "", LOOPBACK), "the address is not in reception.networks")


def test_a_place_that_is_missing_alarms_nobody(recorder: Recorder, tmp_path: Path) -> None:
    with receiving(tmp_path / "state", max_associations=1) as node, calling(node):
        assert rejection(node) == (2, 3, 2)
    assert recorder.events == []
