"""The trail: what is reported is recorded in order; nobody waits for a sink; what is lost is counted and said."""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.uid import CTImageStorage

from dicom_node import audit, audit_events
from dicom_node.audit import AuditTrail
from dicom_node.audit_events import Asked, Received, Sending, Sent, TurnedAway, report
from dicom_node.audit_message import Node, Reporter, Study
from dicom_node.config import parse
from dicom_node.errors import TransientError
from dicom_node.scu import StoreResult
from tests.fixtures.audit import Message, read_folder, unframe
from tests.fixtures.part10 import write_object

REPORTER = Reporter(Node("1", "NODE", "host"), "NODE")
CT1 = Node("CT1", "CT1", "10.0.0.7")
STUDY = Study("1.2.3", "P-1", "A-1", {CTImageStorage: 2})
SECONDS = 10.0


class Memory:
    """A sink that keeps what it gets, fails while it is broken, and waits while it is held."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.broken = False
        self.tries = threading.Semaphore(0)
        self.held = threading.Event()
        self.held.set()

    def write(self, frames: Sequence[bytes]) -> None:
        self.tries.release()
        assert self.held.wait(SECONDS)
        if self.broken:
            raise OSError(28, "No space left on device")
        self.frames += frames

    def close(self) -> None:
        pass

    def messages(self) -> list[Message]:
        return [unframe(one) for one in self.frames]


@pytest.fixture
def sink() -> Memory:
    return Memory()


@pytest.fixture
def trail(sink: Memory, monkeypatch: pytest.MonkeyPatch) -> Iterator[AuditTrail]:
    monkeypatch.setattr(audit, "RETRY_S", 0.01)
    running = AuditTrail(REPORTER, {"memory": sink}, queue=100)
    running.start()
    yield running
    sink.held.set()
    running.stop()


def test_everything_that_is_reported_is_recorded_in_order(trail: AuditTrail, sink: Memory) -> None:
    query = Dataset()
    query.PatientID = "P-1"
    report(TurnedAway(CT1, "unknown"))
    report(Received(CT1, [STUDY]))
    report(Sending(CT1, [STUDY]))
    report(Sent(CT1, [STUDY], "refused"))
    report(Asked(CT1, "1.2.840.10008.5.1.4.1.2.2.1", query))
    trail.stop()
    report(Received(CT1, [STUDY]))  # after the end: nobody records it
    messages = sink.messages()
    ids = [(message.id, message.outcome) for message in messages]
    assert ids == [
        ("110100", "0"),
        ("110113", "8"),
        ("110104", "0"),
        ("110102", "0"),
        ("110104", "4"),
        ("110112", "0"),
        ("110100", "0"),
    ]
    assert (messages[0].type, messages[-1].type) == ("110120", "110121")


def test_what_is_asked_can_be_read_from_the_message(trail: AuditTrail, sink: Memory) -> None:
    query = Dataset()
    query.PatientID, query.QueryRetrieveLevel = "P-1", "STUDY"
    report(Asked(CT1, "1.2", query))
    trail.stop()
    (asked,) = [message for message in sink.messages() if message.id == "110112"]
    encoded = base64.b64decode(asked.objects("110181")[0].findtext("ParticipantObjectQuery"))
    assert read_dataset(DicomBytesIO(encoded), True, True) == query


def test_a_sink_that_hangs_keeps_nobody_waiting_and_what_is_lost_is_counted(
    trail: AuditTrail, sink: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    sink.held.clear()
    for number in range(500):  # returns although nothing is taken: 100 wait, the rest is lost
        report(TurnedAway(CT1, f"number {number}"))
    assert caplog.text.count("are being lost") == 1
    sink.held.set()
    trail.stop()
    descriptions = [message.detail("Alert Description") for message in sink.messages() if message.id == "110113"]
    kept = [text for text in descriptions if text.startswith("number")]
    (loss,) = [message for message in sink.messages() if message.type == "110133"]
    count = int(loss.detail("Alert Description").split()[0])
    last = [message for message in sink.messages() if message.type == "110121"]  # may be one of those that are lost
    assert len(kept) + len(last) + count == 501
    assert 95 <= len(kept) <= 101
    assert f"{count} audit messages to memory were lost" in caplog.text


def test_what_a_broken_sink_does_not_take_is_kept_until_it_does(
    trail: AuditTrail, sink: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    sink.broken = True
    report(Received(CT1, [STUDY]))
    for _ in range(3):
        assert sink.tries.acquire(timeout=SECONDS)
    (waiting,) = trail.waiting()
    assert (waiting.sink, waiting.count) in {("memory", 1), ("memory", 2)}  # that it starts may wait too
    sink.broken = False
    trail.stop()
    assert trail.waiting() == []
    assert [message.id for message in sink.messages()].count("110104") == 1
    assert caplog.text.count("have to wait: No space left on device") <= 1  # not once per attempt


def test_two_sinks_do_not_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "STOP_S", 0.2)
    dead, alive = Memory(), Memory()
    dead.broken = True
    trail = AuditTrail(REPORTER, {"dead": dead, "alive": alive})
    trail.start()
    report(Received(CT1, [STUDY]))
    trail.stop()
    assert dead.frames == []
    assert [message.id for message in alive.messages()] == ["110100", "110104", "110100"]


def test_an_event_that_cannot_be_written_stops_nobody(
    trail: AuditTrail, sink: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    report(Received(CT1, [None]))  # type: ignore[list-item]
    report(Received(CT1, [STUDY]))
    trail.stop()
    assert "Received could not be written to the audit trail" in caplog.text
    assert [message.id for message in sink.messages()].count("110104") == 1


def test_nothing_of_it_reaches_the_log_of_the_node(
    trail: AuditTrail, sink: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    report(Received(CT1, [Study("1.2.3", "UNIQUE-ID", "UNIQUE-ACC", {"1.2": 1})]))
    trail.stop()
    assert "UNIQUE-ID" in sink.messages()[1].text
    assert "UNIQUE" not in caplog.text


def test_config_says_where(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    base = {"node": {"state_dir": str(tmp_path / "state")}}
    clock = datetime(2026, 11, 25, 12, tzinfo=UTC)
    trail = AuditTrail.of(parse(base), lambda: clock)
    trail.start()
    trail.stop()
    messages = read_folder(tmp_path / "state" / "audit")
    assert [message.type for message in messages] == ["110120", "110121"]
    assert len(AuditTrail.of(parse({**base, "audit": {"file": False}})).threads) == 0
    both = AuditTrail.of(parse({**base, "audit": {"syslog": "tcp", "host": "127.0.0.1"}}))
    assert [thread.name for thread in both.threads][1] == "audit to syslog at 127.0.0.1:6514"


def test_instances_of_a_study_are_counted_together(tmp_path: Path) -> None:
    paths = [write_object(tmp_path, CTImageStorage, study_uid="1.2.3") for _ in range(3)]
    paths.append(write_object(tmp_path, CTImageStorage, study_uid="1.2.4"))
    broken = tmp_path / "broken"
    broken.write_bytes(b"nothing")
    found = audit_events.studies(map(audit_events.in_file, [*paths, broken, tmp_path / "absent"]))
    assert found == [
        Study("1.2.3", dcmread(paths[0]).PatientID, "", {CTImageStorage: 3}),
        Study("1.2.4", "TRANSPORT", "", {CTImageStorage: 1}),
    ]


def test_a_shipment_is_reported_when_it_begins_and_what_failed_apart(
    trail: AuditTrail, sink: Memory, tmp_path: Path
) -> None:
    paths = [write_object(tmp_path, CTImageStorage, study_uid="1.2.3") for _ in range(3)]
    shipment = audit_events.Shipment(CT1, paths)
    results = [StoreResult(path, "") for path in paths[:2]]
    shipment.close([*results, StoreResult(paths[2], "", TransientError("no place"))])
    trail.stop()
    begun, kept, refused = sink.messages()[1:-1]
    assert (begun.id, kept.id, refused.id) == ("110102", "110104", "110104")
    assert (kept.outcome, refused.outcome) == ("0", "4")
    assert refused.event.findtext("EventOutcomeDescription") == "no place"
    counts = [message.root.xpath("//SOPClass/@NumberOfInstances") for message in (begun, kept, refused)]
    assert counts == [["3"], ["2"], ["1"]]


def test_an_association_with_very_many_studies_is_reported_before_it_ends(sink: Memory) -> None:
    trail = AuditTrail(REPORTER, {"memory": sink})  # its queue holds them all
    trail.start()
    tally = audit_events.Tally(CT1)
    for number in range(150):
        tally.note(Study(f"1.2.{number}", "P", "", {"1.2": 1}), "refused" * (number % 2))
    assert len(tally._kept) + len(tally._refused) == 50
    tally.close()
    tally.close()
    trail.stop()
    moved = [message for message in sink.messages() if message.id == "110104"]
    assert len(moved) == 150
    assert {message.outcome for message in moved} == {"0", "4"}
