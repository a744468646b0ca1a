"""Delivery over real associations and a real ledger, with a clock that only the tests move."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
)

from dicom_node.archive import CONTEXTS
from dicom_node.commitment import CommitmentReport
from dicom_node.errors import TransientError
from dicom_node.ledger_status import AT_ONCE
from dicom_node.states import SeriesState
from pipeline.types import ResultKind
from tests.fixtures import wire
from tests.fixtures.outbox import Outbox
from tests.fixtures.part10 import data_set_bytes
from tests.fixtures.samples import SERIES, filing

TIMEOUT_S = 600.0  # commitment_timeout_s of the defaults
BACKOFF_S = 30.0


@pytest.fixture()
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with ExitStack() as stack:
        yield Outbox(tmp_path, stack)


class Stores:
    """Counts C-STOREs by SOP class, in order, and the associations they came on."""

    def __init__(self, status: int = 0x0000) -> None:
        self.status = status
        self.classes: list[str] = []
        self.associations: set[object] = set()

    def __call__(self, event: evt.Event) -> int:
        self.classes.append(str(event.request.AffectedSOPClassUID))  # type: ignore[union-attr]
        self.associations.add(event.assoc)
        return self.status

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.classes)


def silence(report: CommitmentReport) -> None:
    return None


class Awaited:
    """Answers no commitment request, but lets the test wait for one."""

    def __init__(self) -> None:
        self.requests: queue.SimpleQueue[CommitmentReport] = queue.SimpleQueue()

    def __call__(self, report: CommitmentReport) -> None:
        self.requests.put(report)


def without(*sop_classes: str) -> list[object]:
    return [context for context in CONTEXTS if context.abstract_syntax not in sop_classes]


def events_of(outbox: Outbox) -> str:
    return "\n".join(event.reason for event in outbox.ledger.details(SERIES).events)


# --- the normal way -----------------------------------------------------------------------------------------


def test_stored_in_order_on_one_association_and_committed(outbox: Outbox) -> None:
    stores = Stores()
    archive, port = outbox.archive(answer_store=stores, same_association=True)
    paths = outbox.fill()
    assert outbox.courier(port).run_once() is None
    assert stores.classes == [SegmentationStorage, SecondaryCaptureImageStorage, Comprehensive3DSRStorage]
    assert len(stores.associations) == 1
    assert outbox.states() == {"committed"}
    assert outbox.ledger.series(SERIES).state is SeriesState.DELIVERED
    for path in paths.values():
        kept = next(kept for kept in archive.instances.values() if kept.path.name == path.name)
        assert data_set_bytes(kept.path.read_bytes()) == data_set_bytes(path.read_bytes())


def test_the_log_says_what_of_which_series_arrived_where_waits_or_failed(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="dicom_node.courier")
    archive, port = outbox.archive()
    archive.stop()
    outbox.fill()
    outbox.courier(port).run_once()
    assert f"series {SERIES} revision 1: sr to pacs, attempt 1, again at " in caplog.text
    (held_up,) = outbox.ledger.held_up([outbox.series().id]).values()
    assert "pacs: ARCHIVE at 127.0.0.1" in held_up  # as `dicomnode status` shows it
    assert set(outbox.ledger.held_up(range(AT_ONCE + 1))) == {outbox.series().id}
    outbox.clock.advance(BACKOFF_S)
    outbox.archive(port, same_association=True)
    outbox.courier(port).run_once()
    assert f"series {SERIES} revision 1: sr to pacs arrived" in caplog.text
    assert outbox.ledger.held_up([outbox.series().id]) == {}
    assert outbox.ledger.held_up(range(260_000)) == {}  # SQLite takes no such number of parameters
    outbox.fill(series_uid=f"{SERIES}.1", kinds=[ResultKind.SR])
    outbox.courier(port, ae_title="OTHER").run_once()
    assert (
        f"series {SERIES}.1 revision 1: sr to pacs failed, `dicomnode retry` when it is put right: " in caplog.text
    )


def test_committed_by_a_report_that_comes_later(outbox: Outbox) -> None:
    awaited = Awaited()
    _, port = outbox.archive(answer_commitment=awaited)
    outbox.fill()
    service = outbox.service(port, stay_s=0.0)
    report = awaited.requests.get(timeout=10)
    service.on_event_report(report)
    assert outbox.states() == {"committed"}
    service.on_event_report(report)  # once more does no harm
    assert outbox.ledger.series(SERIES).state is SeriesState.DELIVERED


def _uids(outbox: Outbox) -> tuple[str, ...]:
    return tuple(delivery.sop_instance_uid for delivery in outbox.deliveries().values())


def test_the_transaction_is_persisted_before_the_request(outbox: Outbox) -> None:
    known: list[bool] = []

    def look(report: CommitmentReport) -> CommitmentReport:
        known.append(len(outbox.ledger.deliveries_of_transaction(report.transaction_uid)) == 3)
        return report

    _, port = outbox.archive(answer_commitment=look, same_association=True)
    outbox.fill()
    outbox.courier(port).run_once()
    assert known == [True]


def test_warnings_count_as_stored_and_are_shown(outbox: Outbox) -> None:
    _, port = outbox.archive(answer_store=Stores(0xB000), same_association=True)
    outbox.fill()
    outbox.courier(port).run_once()
    assert outbox.states() == {"committed"}
    assert {"0xB000" in delivery.warning for delivery in outbox.deliveries().values()} == {True}


# --- transient errors ---------------------------------------------------------------------------------------


def test_down_then_up(outbox: Outbox) -> None:
    archive, port = outbox.archive(same_association=True)
    archive.stop()
    outbox.fill()
    courier = outbox.courier(port)
    start = outbox.clock()
    pauses = []
    for _ in range(4):
        again = courier.run_once()
        assert again is not None
        pauses.append((again - outbox.clock()).total_seconds())
        assert courier.run_once() == again  # nothing is due before
        outbox.clock.now = again
    assert pauses == [30, 60, 120, 240]
    (attempts,) = {delivery.attempts for delivery in outbox.deliveries().values()}
    assert attempts == 4
    assert all("nothing listens there" in delivery.reason for delivery in outbox.deliveries().values())
    assert outbox.clock() - start == timedelta(seconds=450)
    outbox.archive(port=port, same_association=True)
    assert courier.run_once() is None
    assert outbox.states() == {"committed"}


def test_given_up_after_the_set_time(outbox: Outbox) -> None:
    archive, port = outbox.archive()
    archive.stop()
    outbox.fill()
    courier = outbox.courier(port)
    outbox.clock.advance(71 * 3600)
    assert courier.run_once() is not None
    outbox.clock.advance(1800)
    assert courier.run_once() is not None
    outbox.clock.advance(1800)
    assert courier.run_once() is None
    assert outbox.states() == {"failed"}
    assert outbox.series().state is SeriesState.FAILED
    assert "Given up after 3 attempts" in outbox.series().reason
    assert "nothing listens there" in outbox.series().reason


@pytest.mark.parametrize("tried", [0, 4])
def test_a_node_that_was_off_for_longer_than_that_waits_for_an_archive_that_starts_after_it(
    outbox: Outbox, tried: int
) -> None:
    archive, port = outbox.archive(same_association=True)
    archive.stop()
    outbox.fill()
    courier = outbox.courier(port)
    for _ in range(tried):
        outbox.clock.now = courier.run_once()
    outbox.clock.advance(80 * 3600)
    courier, up = outbox.courier(port), outbox.clock() + timedelta(minutes=20)
    while outbox.clock() < up:
        again = courier.run_once()
        assert again is not None
        assert outbox.states() == {"pending"}
        outbox.clock.now = again
    outbox.archive(port=port, same_association=True)
    assert courier.run_once() is None
    assert outbox.states() == {"committed"}


def test_a_silent_peer_is_postponed(outbox: Outbox) -> None:
    outbox.fill()
    with wire.peer(wire.silent) as port:
        again = outbox.courier(port, timeout_s=0.2).run_once()
    assert again == outbox.clock() + timedelta(seconds=BACKOFF_S)
    assert outbox.states() == {"pending"}


def test_out_of_resources_for_a_while(outbox: Outbox) -> None:
    stores = Stores(0xA700)
    _, port = outbox.archive(answer_store=stores, same_association=True)
    outbox.fill()
    courier = outbox.courier(port)
    courier.run_once()
    assert outbox.states() == {"pending"}
    stores.status = 0x0000
    outbox.clock.advance(BACKOFF_S)
    courier.run_once()
    assert outbox.states() == {"committed"}
    assert set(stores.counts.values()) == {2}


def test_what_was_stored_before_the_connection_broke_is_not_sent_again(outbox: Outbox) -> None:
    stores = Stores()

    def abort_once(event: evt.Event) -> int:
        stores(event)
        if len(stores.classes) == 2:
            event.assoc.abort(block=False)
        return 0x0000

    _, port = outbox.archive(answer_store=abort_once, same_association=True)
    outbox.fill()
    courier = outbox.courier(port)
    courier.run_once()
    outbox.clock.advance(BACKOFF_S)
    courier.run_once()
    assert outbox.states() == {"committed"}
    assert stores.counts[SegmentationStorage] == 1
    assert stores.counts[Comprehensive3DSRStorage] == 1


# --- permanent errors ---------------------------------------------------------------------------------------


def test_an_unknown_calling_title_stops_and_says_so(outbox: Outbox) -> None:
    _, port = outbox.archive(calling_ae_titles=("SOMEBODY",))
    outbox.fill()
    assert outbox.courier(port).run_once() is None
    assert outbox.states() == {"failed"}
    assert outbox.series().state is SeriesState.FAILED
    assert "ask the PACS administrator to register NODE" in outbox.series().reason


def test_one_refused_class_fails_the_series_the_rest_arrives(outbox: Outbox) -> None:
    archive, port = outbox.archive(contexts=without(SegmentationStorage), same_association=True)
    outbox.fill()
    assert outbox.courier(port).run_once() is None
    states = {kind: str(delivery.state) for kind, delivery in outbox.deliveries().items()}
    assert states == {ResultKind.LESIONS: "failed", ResultKind.PICTURE: "committed", ResultKind.SR: "committed"}
    assert len(archive.instances) == 2
    assert "does not take Segmentation Storage" in outbox.series().reason


def test_a_failed_delivery_goes_out_when_a_person_retries(outbox: Outbox) -> None:
    stores = Stores(0xC000)
    _, port = outbox.archive(answer_store=stores, same_association=True)
    outbox.fill()
    courier = outbox.courier(port)
    courier.run_once()
    assert outbox.states() == {"failed"}
    stores.status = 0x0000
    outbox.ledger.retry(SERIES, outbox.clock())
    courier.run_once()
    assert outbox.states() == {"committed"}
    assert outbox.ledger.series(SERIES).state is SeriesState.DELIVERED


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x07"), "is not what the analysis wrote"),
        (lambda path: path.unlink(), "cannot be read (No such file or directory)"),
    ],
    ids=["altered", "gone"],
)
def test_only_the_bytes_of_the_analysis_are_sent(outbox: Outbox, harm: Callable[[Path], object], says: str) -> None:
    archive, port = outbox.archive(same_association=True)
    harm(outbox.fill()[ResultKind.LESIONS])
    outbox.courier(port).run_once()
    deliveries = outbox.deliveries()
    assert str(deliveries[ResultKind.LESIONS].state) == "failed"
    assert says in deliveries[ResultKind.LESIONS].reason
    assert len(archive.instances) == 2


# --- commitment that does not go as it should ---------------------------------------------------------------


def fail_first(reason: int) -> Callable[[CommitmentReport], CommitmentReport]:
    """Report everything as failed the first time, then honestly."""
    requests: list[CommitmentReport] = []

    def answer(report: CommitmentReport) -> CommitmentReport:
        requests.append(report)
        if len(requests) > 1:
            return report
        return CommitmentReport(report.transaction_uid, (), tuple((uid, reason) for uid in report.committed))

    return answer


def test_an_absent_object_is_sent_again_at_once(outbox: Outbox) -> None:
    stores = Stores()
    archive, port = outbox.archive(answer_store=stores, answer_commitment=fail_first(0x0112), same_association=True)
    outbox.fill()
    courier = outbox.courier(port)
    assert courier.run_once() == outbox.clock()
    assert outbox.states() == {"pending"}
    assert all("no such object instance (0x0112)" in row.reason for row in outbox.deliveries().values())
    assert courier.run_once() is None
    assert outbox.states() == {"committed"}
    assert set(stores.counts.values()) == {2}
    assert archive.conflicts == []  # the same bytes


def test_an_object_that_stays_absent_is_sent_with_growing_pauses_and_given_up(outbox: Outbox) -> None:
    def never(report: CommitmentReport) -> CommitmentReport:
        return CommitmentReport(report.transaction_uid, (), tuple((uid, 0x0112) for uid in report.committed))

    _, port = outbox.archive(answer_commitment=never, same_association=True)
    outbox.fill(kinds=[ResultKind.SR])
    courier = outbox.courier(port)
    pauses = []
    for _ in range(8):
        again = courier.run_once()
        assert again is not None
        pauses.append((again - outbox.clock()).total_seconds())
        outbox.clock.now = again
    assert pauses[0] == 0
    assert pauses[1:] == sorted(pauses[1:])
    assert pauses[-1] == 3600
    outbox.clock.advance(72 * 3600)
    assert courier.run_once() is None
    assert outbox.states() == {"failed"}
    assert "did not commit the object: no such object instance" in outbox.series().reason


@pytest.mark.parametrize("reason", [0x0110, 0x0213, 0x0131])
def test_asked_again_without_sending_again(outbox: Outbox, reason: int) -> None:
    stores = Stores()
    _, port = outbox.archive(answer_store=stores, answer_commitment=fail_first(reason), same_association=True)
    outbox.fill()
    courier = outbox.courier(port)
    again = courier.run_once()
    assert outbox.states() == {"sent"}
    assert again is not None
    assert outbox.clock() < again
    outbox.clock.now = again
    assert courier.run_once() is None
    assert outbox.states() == {"committed"}
    assert set(stores.counts.values()) == {1}


@pytest.mark.parametrize(("reason", "says"), [(0x0119, "class and instance conflict"), (0x0122, "not supported")])
def test_hopeless_reasons_fail(outbox: Outbox, reason: int, says: str) -> None:
    _, port = outbox.archive(answer_commitment=fail_first(reason), same_association=True)
    outbox.fill()
    assert outbox.courier(port).run_once() is None
    assert outbox.states() == {"failed"}
    assert says in outbox.series().reason


def test_no_report_at_all_is_settled_by_a_query(outbox: Outbox) -> None:
    stores = Stores()
    _, port = outbox.archive(answer_store=stores, answer_commitment=silence)
    outbox.fill()
    courier = outbox.courier(port, stay_s=0.0)
    assert courier.run_once() == outbox.clock() + timedelta(seconds=TIMEOUT_S)
    outbox.clock.advance(TIMEOUT_S - 1)
    courier.run_once()
    assert outbox.states() == {"sent"}
    outbox.clock.advance(1)
    assert courier.run_once() is None
    assert outbox.states() == {"committed"}
    assert "found by C-FIND, which counts as committed: no commitment report came" in events_of(outbox)
    assert set(stores.counts.values()) == {1}


def test_a_question_does_not_wait_for_a_clock_that_was_put_back(outbox: Outbox) -> None:
    _, port = outbox.archive(answer_commitment=silence)
    outbox.clock.advance(86_400)
    outbox.fill()
    courier = outbox.courier(port, stay_s=0.0)
    courier.run_once()
    assert outbox.states() == {"sent"}
    outbox.clock.advance(-86_400)
    outbox.ledger.follow_clock(outbox.clock(), timedelta(hours=1))  # as the coordinator does
    courier.run_once()  # asks at once for commitment again
    outbox.clock.advance(TIMEOUT_S)
    courier.run_once()
    assert outbox.states() == {"committed"}, "found by a query, after the usual time"


def test_a_clock_that_was_ahead_while_nothing_came_in_holds_no_delivery_up(outbox: Outbox) -> None:
    """As at boot before the time server answers, with the network down: no series tells, but the events do."""
    outbox.fill()
    outbox.clock.advance(86_400)
    (first, *_) = outbox.ledger.due_deliveries("pacs", outbox.clock())
    later = outbox.clock() + timedelta(hours=1)
    outbox.ledger.delivery_postponed(first.id, later, outbox.clock(), "the PACS is away")
    outbox.clock.advance(-86_000)
    assert outbox.ledger.follow_clock(outbox.clock(), timedelta(hours=2))
    assert first.id in {delivery.id for delivery in outbox.ledger.due_deliveries("pacs", outbox.clock())}
    assert not outbox.ledger.follow_clock(outbox.clock(), timedelta(hours=2)), "said once"


def test_what_is_superseded_while_an_association_sends_is_not_sent(outbox: Outbox) -> None:
    """A late slice comes while the first object is on the wire: the others stay here."""
    stores = Stores()

    def late_slice(event: evt.Event) -> int:
        if not stores.classes:
            outbox.ledger.file_instances([filing(9, study_uid=f"{SERIES}.0")], outbox.clock())
        return stores(event)

    archive, port = outbox.archive(answer_store=late_slice, same_association=True)
    outbox.fill()
    courier = outbox.courier(port)
    courier.run_once()
    assert len(archive.instances) == 1
    assert sorted(str(row.state) for row in outbox.deliveries().values()) == ["cancelled", "cancelled", "committed"]


def test_no_report_and_not_found_is_sent_again(outbox: Outbox) -> None:
    stores = Stores()
    archive, port = outbox.archive(answer_store=stores, answer_commitment=silence)
    outbox.fill()
    courier = outbox.courier(port, stay_s=0.0)
    courier.run_once()
    lost = outbox.deliveries()[ResultKind.LESIONS].sop_instance_uid
    del archive.instances[lost]
    outbox.clock.advance(TIMEOUT_S)
    courier.run_once()
    states = {kind: str(delivery.state) for kind, delivery in outbox.deliveries().items()}
    assert states == {ResultKind.LESIONS: "pending", ResultKind.PICTURE: "committed", ResultKind.SR: "committed"}
    courier.run_once()
    assert lost in archive.instances
    assert stores.counts == {
        SegmentationStorage: 2,
        SecondaryCaptureImageStorage: 1,
        Comprehensive3DSRStorage: 1,
    }


def test_a_report_about_some_leaves_the_others_to_a_query(outbox: Outbox) -> None:
    def forget_one(report: CommitmentReport) -> CommitmentReport:
        return replace(report, committed=report.committed[:-1])

    _, port = outbox.archive(answer_commitment=forget_one, same_association=True)
    outbox.fill()
    courier = outbox.courier(port)
    courier.run_once()
    assert Counter(str(delivery.state) for delivery in outbox.deliveries().values()) == {"committed": 2, "sent": 1}
    outbox.clock.advance(TIMEOUT_S)
    courier.run_once()
    assert outbox.states() == {"committed"}


def test_a_peer_without_commitment_is_queried(outbox: Outbox) -> None:
    _, port = outbox.archive(contexts=without(StorageCommitmentPushModel))
    outbox.fill()
    assert outbox.courier(port).run_once() is None
    assert outbox.states() == {"committed"}
    assert "has no Storage Commitment" in events_of(outbox)


def test_a_peer_with_neither_fails_with_what_to_do(outbox: Outbox) -> None:
    _, port = outbox.archive(
        contexts=without(StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind)
    )
    outbox.fill()
    assert outbox.courier(port).run_once() is None
    assert outbox.states() == {"failed"}
    assert "has no Storage Commitment" in outbox.series().reason
    assert "does not answer queries" in outbox.series().reason
    assert 'set verify = "none"' in outbox.series().reason


def test_a_request_that_fails_is_made_again_later(outbox: Outbox) -> None:
    stores = Stores()
    requests: list[CommitmentReport] = []

    def stumble(report: CommitmentReport) -> CommitmentReport:
        requests.append(report)
        if len(requests) == 1:
            raise RuntimeError("a fault of the archive, which pynetdicom answers with 0x0110")
        return report

    _, port = outbox.archive(answer_store=stores, answer_commitment=stumble, same_association=True)
    outbox.fill()
    courier = outbox.courier(port)
    assert courier.run_once() == outbox.clock() + timedelta(seconds=BACKOFF_S)
    outbox.clock.advance(BACKOFF_S)
    assert courier.run_once() is None
    assert outbox.states() == {"committed"}
    assert requests[0].transaction_uid != requests[1].transaction_uid
    assert set(stores.counts.values()) == {1}


def test_requests_that_always_fail_give_way_to_a_query(outbox: Outbox) -> None:
    """An archive that knows storage, but breaks off when this node asks it for commitment, as Orthanc does."""

    def refuse(report: CommitmentReport) -> None:
        raise RuntimeError("answered with 0x0110 by pynetdicom")

    stores = Stores()
    _, port = outbox.archive(answer_store=stores, answer_commitment=refuse)
    outbox.fill()
    courier = outbox.courier(port)
    start = outbox.clock()
    while (again := courier.run_once()) is not None:
        assert outbox.states() == {"sent"}
        outbox.clock.now = again
    assert outbox.states() == {"committed"}
    assert timedelta(seconds=TIMEOUT_S) <= outbox.clock() - start <= timedelta(seconds=4 * TIMEOUT_S)
    assert "found by C-FIND, which counts as committed" in events_of(outbox)
    assert "processing failure" in events_of(outbox)
    assert set(stores.counts.values()) == {1}


def test_a_peer_that_always_answers_ask_again_is_given_up(outbox: Outbox) -> None:
    def busy(report: CommitmentReport) -> CommitmentReport:
        return CommitmentReport(report.transaction_uid, (), tuple((uid, 0x0213) for uid in report.committed))

    _, port = outbox.archive(answer_commitment=busy, same_association=True)
    outbox.fill()
    courier = outbox.courier(port)
    courier.run_once()
    outbox.clock.advance(80 * 3600)
    for _ in range(4):
        courier.run_once()
        outbox.clock.advance(7200)
    assert outbox.states() == {"failed"}


def test_unconfirmed_for_too_long_is_given_up(outbox: Outbox) -> None:
    archive, port = outbox.archive(answer_commitment=silence)
    outbox.fill()
    courier = outbox.courier(port, stay_s=0.0)
    courier.run_once()
    archive.stop()
    outbox.clock.advance(73 * 3600)
    for _ in range(2):
        assert courier.run_once() is not None
        outbox.clock.advance(600)
    assert courier.run_once() is None
    assert outbox.states() == {"failed"}
    assert "Stored, but it could not be confirmed" in outbox.series().reason
    assert "verify" not in outbox.series().reason, "a PACS that is down may well offer it"


def test_a_report_that_comes_after_giving_up_counts(outbox: Outbox) -> None:
    archive, port = outbox.archive(answer_commitment=silence)
    outbox.fill()
    outbox.courier(port).run_once()
    sent = list(outbox.ledger.details(SERIES).deliveries)
    for delivery in sent:
        outbox.ledger.delivery_failed(delivery.id, outbox.clock(), "given up")
    report = CommitmentReport("1.2.3", tuple(delivery.sop_instance_uid for delivery in sent), ())
    outbox.courier(port).take_report(report, sent)
    assert outbox.states() == {"committed"}
    assert outbox.ledger.series(SERIES).state is SeriesState.DELIVERED


def test_what_is_for_a_destination_that_is_gone_fails_with_what_to_do(outbox: Outbox) -> None:
    outbox.fill()
    assert outbox.ledger.abandon_unknown(["another"], outbox.clock()) == 3
    assert outbox.states() == {"failed"}
    assert "has no destination" in outbox.ledger.series(SERIES).reason
    assert outbox.ledger.abandon_unknown(["another"], outbox.clock()) == 0


def test_reports_about_nothing_known_are_ignored(outbox: Outbox) -> None:
    awaited = Awaited()
    _, port = outbox.archive(answer_commitment=awaited)
    outbox.fill()
    service = outbox.service(port, stay_s=0.0)
    awaited.requests.get(timeout=10)
    service.on_event_report(CommitmentReport(generate_uid(), _uids(outbox), ()))
    assert outbox.states() == {"sent"}


# --- the other ways to make sure ----------------------------------------------------------------------------


def test_verified_by_query(outbox: Outbox) -> None:
    requests: list[CommitmentReport] = []
    _, port = outbox.archive(answer_commitment=requests.append)
    outbox.fill()
    assert outbox.courier(port, verify="find").run_once() is None
    assert outbox.states() == {"committed"}
    assert requests == []


def test_not_listed_is_looked_for_again_and_then_sent_again(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = Stores()
    _, port = outbox.archive(answer_store=stores)
    outbox.fill()
    courier = outbox.courier(port, verify="find")
    listed: set[str] = set()
    monkeypatch.setattr("dicom_node.query.find_instances", lambda peer, references, calling_ae: listed)
    pauses = []
    for _ in range(6):
        again = courier.run_once()
        assert again is not None
        pauses.append((again - outbox.clock()).total_seconds())
        outbox.clock.now = again
    assert pauses == [30, 60, 120, 240, 480, 0]  # found wanting after 930 s, more than 600 s after it was sent
    assert outbox.states() == {"pending"}
    assert set(stores.counts.values()) == {1}
    listed.update(_uids(outbox))
    assert courier.run_once() is None
    assert outbox.states() == {"committed"}
    assert set(stores.counts.values()) == {2}


def test_not_verified_at_all(outbox: Outbox) -> None:
    _, port = outbox.archive(contexts=without(StorageCommitmentPushModel))
    outbox.fill()
    assert outbox.courier(port, verify="none").run_once() is None
    assert outbox.states() == {"committed"}
    assert "C-FIND" not in events_of(outbox)


# --- restarts: a new courier on the same ledger, after each step --------------------------------------------


class Crash(BaseException):
    """The process dies here."""


def test_restart_after_each_store(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the peer's answer and the ledger: that one object is sent again, with the same bytes."""
    stores = Stores()
    archive, port = outbox.archive(answer_store=stores, same_association=True)
    outbox.fill()
    real = outbox.ledger.delivery_sent
    monkeypatch.setattr(outbox.ledger, "delivery_sent", _crash)
    with pytest.raises(Crash):
        outbox.courier(port).run_once()
    monkeypatch.setattr(outbox.ledger, "delivery_sent", real)
    assert outbox.states() == {"pending"}
    assert outbox.courier(port).run_once() is None
    assert outbox.states() == {"committed"}
    assert stores.counts == {
        SegmentationStorage: 2,
        SecondaryCaptureImageStorage: 1,
        Comprehensive3DSRStorage: 1,
    }
    assert archive.conflicts == []


def _crash(*_: object, **__: object) -> None:
    raise Crash


@pytest.mark.parametrize("step", ["open_transaction", "delivery_committed"])
def test_restart_after_sending(outbox: Outbox, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Killed before the transaction is persisted, or before its outcome is: asked again, not sent again."""
    stores = Stores()
    _, port = outbox.archive(answer_store=stores, same_association=True)
    outbox.fill()
    courier = outbox.courier(port, stay_s=0.5)
    real = getattr(outbox.ledger, step)
    monkeypatch.setattr(outbox.ledger, step, _crash)
    if step == "open_transaction":
        with pytest.raises(Crash):
            courier.run_once()
    else:
        monkeypatch.setattr(courier, "take_report", lambda *_: None)  # dies with the thread that serves the report
        courier.run_once()
    monkeypatch.setattr(outbox.ledger, step, real)
    assert outbox.states() == {"sent"}
    assert outbox.courier(port).run_once() is None
    assert outbox.states() == {"committed"}
    assert set(stores.counts.values()) == {1}


def test_restart_while_a_report_is_awaited(outbox: Outbox) -> None:
    stores = Stores()
    archive, port = outbox.archive(answer_store=stores, answer_commitment=silence, same_association=True)
    outbox.fill()
    outbox.courier(port, stay_s=0.0).run_once()
    first = outbox.deliveries()[ResultKind.SR].transaction_uid
    archive.answer_commitment = lambda report: report
    assert outbox.courier(port).run_once() is None
    assert outbox.states() == {"committed"}
    assert outbox.deliveries()[ResultKind.SR].transaction_uid != first
    assert set(stores.counts.values()) == {1}


def test_restart_when_verification_is_off(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = Stores()
    _, port = outbox.archive(answer_store=stores)
    outbox.fill()
    real = outbox.ledger.delivery_committed
    monkeypatch.setattr(outbox.ledger, "delivery_committed", _crash)
    with pytest.raises(Crash):
        outbox.courier(port, verify="none").run_once()
    monkeypatch.setattr(outbox.ledger, "delivery_committed", real)
    outbox.courier(port, verify="none").run_once()
    assert outbox.states() == {"committed"}
    assert set(stores.counts.values()) == {1}


# --- threads ------------------------------------------------------------------------------------------------


def test_a_dead_destination_does_not_delay_another(outbox: Outbox) -> None:
    delivered = threading.Event()

    def note(report: CommitmentReport) -> CommitmentReport:
        delivered.set()
        return report

    archive, port = outbox.archive(answer_commitment=note, same_association=True)
    with wire.peer(wire.silent) as dead:
        outbox.fill(destinations=["pacs", "pacs2"])
        outbox.service(dead, port, timeout_s=60.0)
        assert delivered.wait(10)
        assert outbox.states("pacs") == {"pending"}
    assert len(archive.instances) == 3


def test_woken_for_new_results(outbox: Outbox) -> None:
    delivered = threading.Event()

    def note(report: CommitmentReport) -> CommitmentReport:
        delivered.set()
        return report

    archive, port = outbox.archive(answer_commitment=note, same_association=True)
    service = outbox.service(port)
    outbox.fill()
    service.wake()
    assert delivered.wait(10)
    assert archive.wait_for(lambda: len(archive.instances) == 3, 10)
    assert service.dead_threads() == []


def test_a_database_that_is_away_for_a_moment(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    real = outbox.ledger.due_deliveries

    def away(*args: object, **options: object) -> list[object]:
        asked.set()
        raise TransientError("the database does not answer: database is locked")

    archive, port = outbox.archive(same_association=True)
    monkeypatch.setattr(outbox.ledger, "due_deliveries", away)
    service = outbox.service(port)
    assert asked.wait(10)
    monkeypatch.setattr(outbox.ledger, "due_deliveries", real)
    outbox.fill()
    service.wake()
    assert archive.wait_for(lambda: len(archive.instances) == 3, 10)
    assert service.dead_threads() == []


def test_stop_does_not_wait_for_a_report(outbox: Outbox) -> None:
    awaited = Awaited()
    _, port = outbox.archive(answer_commitment=awaited)
    outbox.fill()
    service = outbox.service(port, stay_s=3600.0)
    awaited.requests.get(timeout=10)
    service.stop()
    assert service.dead_threads() == ["delivery to pacs"]
