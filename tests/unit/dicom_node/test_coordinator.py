"""From instances to results: when the coordinator looks, what it decides, and that any story ends well."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node import config as configuration
from dicom_node import coordinator as coordinator_module
from dicom_node.completion import RELEASE_PAUSE
from dicom_node.config import Config
from dicom_node.coordinator import Coordinator
from dicom_node.dispatch import Dispatcher
from dicom_node.errors import IllegalTransition, NotFound, TransientError
from dicom_node.ingest import Ingest
from dicom_node.intake import Intake
from dicom_node.ledger import Ledger, SeriesRecord, Wanted
from dicom_node.sources import SourceService
from dicom_node.spool import Spool
from dicom_node.states import DeliveryState, InstanceState, JobState, SeriesState
from pipeline.errors import SeriesRejected
from pipeline.others import OtherSeries
from pipeline.types import AnalysisOutcome, AnalysisRequest, ObjectReference, ResultKind, ResultObject
from tests.fixtures.ct import slice_of, spooled
from tests.fixtures.inline import Inline
from tests.fixtures.paper_archive import ENTRY, PaperArchive
from tests.fixtures.postgres import Warm
from tests.fixtures.samples import START, deliver

S, D = SeriesState, DeliveryState
SOFT, SHARP = "1.2.3.1", "1.2.3.2"
KERNELS = {SOFT: "B40f", SHARP: "B70f"}
WAIT_S = 30.0


def _config(folder: Path, destinations: bool = True, sources: Sequence[Mapping[str, Any]] = ()) -> Config:
    where = [{"name": "pacs", "ae_title": "PACS", "host": "h", "port": 1}] if destinations else []
    rules = {"series_quiet_s": 10, "study_quiet_s": 20, "incomplete_after_s": 100, "min_slices": 3}
    return configuration.parse(
        {"node": {"state_dir": str(folder)}, "completion": rules, "destinations": where, "sources": list(sources)}
    )


def ct(series_uid: str, number: int, pid: str = "P1", pixels: int = 0, **attributes: Any) -> Dataset:
    """A slice of one of the two series."""
    kernel = KERNELS[series_uid]
    return slice_of(number, series_uid, pixels=pixels, PatientID=pid, ConvolutionKernel=kernel, **attributes)


class Bench:
    """A node without network and processes: spool, ingest, ledger, coordinator and an executor of this thread."""

    def __init__(self, ledger: Ledger, folder: Path, *sources: Mapping[str, Any]) -> None:
        self.ledger, self.config, self.spool = ledger, _config(folder, sources=sources), Spool(folder)
        self.now = START
        self.busy: set[str] = set()
        self.no_lungs: set[str] = set()
        self.results_told = 0
        self.restart()

    def restart(self) -> None:
        """All objects anew, as after the process was killed."""
        self.ingest = Ingest(self.spool, self.ledger, self.clock)
        self.ingest.process(self.spool.pending())
        archive, results = self.spool.archive, self.spool.results
        self.dispatcher = Dispatcher(
            self.config, self.ledger, archive, results, self.clock, executor=Inline, analyse=self.analyse
        )
        self.dispatcher.start()
        keep = Intake(self.spool, lambda path: None).keep
        self.sources = SourceService(self.config, self.ledger, self.clock, keep, self._file, lambda: None)
        self.coordinator = Coordinator(
            self.config, self.ledger, self.dispatcher, lambda: self.busy, self.clock, self._tell, self.sources
        )

    def clock(self) -> datetime:
        return self.now

    def _file(self) -> bool:
        self.ingest.process(self.spool.pending())
        return True

    def _tell(self) -> None:
        self.results_told += 1

    def analyse(self, request: AnalysisRequest) -> AnalysisOutcome:
        """Names whom and what it saw."""
        headers = [dcmread(path) for path in request.files]
        series_uid = str(headers[0].SeriesInstanceUID)
        if series_uid in self.no_lungs:
            raise SeriesRejected("no lungs found")
        seen = {
            "series_uid": series_uid,
            "patients": sorted({str(ds.PatientID) for ds in headers}),
            "slices": sorted(int(ds.InstanceNumber) for ds in headers),
            "pixels": sha256(b"".join(sorted(ds.PixelData for ds in headers))).hexdigest(),
        }
        uid = f"9.{int(sha256(repr((request.revision, seen)).encode()).hexdigest()[:16], 16)}"
        reference = ObjectReference(str(headers[0].StudyInstanceUID), "9.1", "1.2.840", uid)
        path = request.out_dir / "sr.dcm"
        return AnalysisOutcome(seen, (ResultObject(ResultKind.SR, "default", path, reference, "f" * 64),))

    def send(self, series_uid: str, number: int, pid: str = "P1", pixels: int = 0, **attributes: Any) -> None:
        """One instance arrives and is filed."""
        ds = ct(series_uid, number, pid, pixels, **attributes)
        self.ingest.process([spooled(self.spool, ds)])

    def send_all(self, series_uid: str = SOFT, count: int = 5, **options: Any) -> None:
        for number in range(1, count + 1):
            self.send(series_uid, number, **options)

    def after(self, seconds: float) -> datetime | None:
        """Time goes on, then one look, or more where a source has answered; what it says about the next."""
        self.now += timedelta(seconds=seconds)
        due = self.coordinator.sweep(self.now)
        for inquirer, fetcher in zip(
            self.sources._inquirers.values(), self.sources._fetchers.values(), strict=True
        ):
            for _ in range(3):
                inquirer.run_once()
                fetcher.run_once()
                due = self.coordinator.sweep(self.now)
        return due

    def state(self, series_uid: str = SOFT) -> SeriesState:
        return self.ledger.series(series_uid).state

    def settle(self) -> None:
        """Until nothing moves any more."""
        for _ in range(8):
            self.after(200)
            deliver(self.ledger, now=self.now)


@pytest.fixture
def bench(book: Ledger, tmp_path: Path) -> Bench:
    return Bench(book, tmp_path / "state")


def test_each_look_says_when_the_next_is_due(bench: Bench) -> None:
    assert bench.after(0) is None
    bench.send_all()
    arrived = bench.now
    assert bench.after(3) == arrived + timedelta(seconds=10)
    assert bench.state() is S.RECEIVING
    assert bench.after(7) == arrived + timedelta(seconds=20)
    assert bench.state() is S.COMPLETE
    assert bench.after(10) is None, "inline, the analysis is over already: its end wakes the next look"
    assert bench.state() is S.QUEUED
    assert bench.after(0) is None
    assert bench.state() is S.ANALYSED
    assert bench.results_told == 1


def test_a_clock_that_is_put_back_holds_nothing_up(bench: Bench) -> None:
    """As after a start with a wrong clock, before the time server has answered."""
    bench.now += timedelta(days=30)
    bench.send_all()
    bench.now -= timedelta(days=30)
    bench.after(1)
    for _ in range(3):
        bench.after(100)
    assert bench.state() is S.ANALYSED
    assert [event.reason for event in bench.ledger.recent_events()].count("the clock was put back") == 1


def test_a_series_that_waits_for_slices_counts_from_the_clock_that_was_put_back(bench: Bench) -> None:
    bench.now += timedelta(days=365)
    for number in (1, 2, 3, 5, 6):
        bench.send(SOFT, number)
    bench.after(20)
    assert bench.state() is S.RECEIVING
    bench.now -= timedelta(days=365)
    bench.after(1)
    bench.after(150)
    assert bench.state() is S.INCOMPLETE


def test_nor_do_retrievals(bench: Bench) -> None:
    bench.send(SOFT, 1)
    bench.now += timedelta(days=365)
    (asked,) = bench.ledger.request_retrievals("archive", [Wanted("1.2.3", SOFT)], "missing", bench.now)
    bench.ledger.retrieval_postponed(asked.id, bench.now + timedelta(hours=1), bench.now, "busy")
    bench.now -= timedelta(days=365)
    bench.after(1)
    assert [one.id for one in bench.ledger.due_retrievals("archive", bench.now)] == [asked.id]


@pytest.mark.parametrize("keyword", ["AcquisitionDate", "StudyDate", "AcquisitionDateTime", "StudyTime"])
def test_a_date_with_two_values_does_not_stop_the_node(bench: Bench, keyword: str) -> None:
    for number in range(1, 6):
        bench.send(SOFT, number, **{keyword: "20260101\\20260102"})
    bench.settle()
    assert bench.state() is S.DELIVERED


def test_deliveries_do_not_wait_for_a_clock_that_was_put_back(bench: Bench) -> None:
    bench.send_all()
    for _ in range(4):
        bench.after(100)
    (first, *_) = bench.ledger.due_deliveries("pacs", bench.now)
    later = bench.now + timedelta(days=2)
    bench.ledger.delivery_postponed(first.id, later, later, "busy")
    bench.send(SHARP, 1)
    bench.now -= timedelta(days=1)
    bench.after(1)
    assert first.id in {delivery.id for delivery in bench.ledger.due_deliveries("pacs", bench.now)}


def test_an_open_association_holds_back_completion_and_selection(bench: Bench) -> None:
    bench.send_all()
    bench.busy = {SOFT}
    assert bench.after(50) == bench.now + RELEASE_PAUSE
    assert bench.state() is S.RECEIVING
    bench.busy = set()
    bench.after(0)
    assert bench.state() is S.QUEUED
    bench.send_all(SHARP)
    bench.after(10)
    bench.busy = {SHARP}
    assert bench.after(50) == bench.now + RELEASE_PAUSE
    assert bench.state(SHARP) is S.COMPLETE


@pytest.mark.parametrize("numbers", [(1, 2, 3, 4), (1, 2, 4, 5)])
def test_a_sender_that_a_restart_has_cut_off_has_the_quiet_time_anew(bench: Bench, numbers: Sequence[int]) -> None:
    """While the node was off nobody could send what is lacking."""
    for number in numbers:
        bench.send(SOFT, number)
    bench.now += timedelta(hours=2)
    bench.restart()
    assert bench.after(0) == bench.now + timedelta(seconds=10)
    bench.after(9)
    assert bench.state() is S.RECEIVING
    for number in {1, 2, 3, 4, 5, 6}.difference(numbers):
        bench.send(SOFT, number)
    bench.after(10)
    bench.after(10)
    bench.after(0)
    (result,) = _current(bench.ledger)
    assert (result["slices"], bench.ledger.series(SOFT).revision) == ([1, 2, 3, 4, 5, 6], 1)


def test_a_study_has_its_quiet_time_anew_too_and_missing_slices_are_waited_for(bench: Bench) -> None:
    bench.send_all(SOFT)
    bench.after(10)
    for number in (1, 2, 4, 5):
        bench.send(SHARP, number)
    bench.now += timedelta(hours=2)
    bench.restart()
    assert bench.after(0) == bench.now + timedelta(seconds=10)
    bench.after(19)
    assert (bench.state(SOFT), bench.state(SHARP)) == (S.COMPLETE, S.RECEIVING)
    bench.after(1)
    assert bench.state(SOFT) is S.QUEUED
    bench.after(80)
    assert bench.state(SHARP) is S.INCOMPLETE


def test_missing_slices_are_waited_for_and_it_shows(bench: Bench) -> None:
    for number in (1, 2, 3, 5, 6):
        bench.send(SOFT, number)
    arrived = bench.now
    assert bench.after(10) == arrived + timedelta(seconds=100)
    assert "1 slices are missing" in bench.ledger.series(SOFT).reason
    events = len(bench.ledger.details(SOFT).events)
    assert bench.after(5) == arrived + timedelta(seconds=100)
    assert len(bench.ledger.details(SOFT).events) == events, "it is told once"
    bench.send(SOFT, 4)
    assert bench.ledger.series(SOFT).reason == ""
    bench.after(10)
    assert bench.state() is S.COMPLETE


def test_an_incomplete_series_does_not_hold_up_its_study(bench: Bench) -> None:
    for number in (1, 2, 4, 5):
        bench.send(SHARP, number)
    bench.send_all()
    bench.after(20)
    assert bench.state() is S.QUEUED
    assert bench.state(SHARP) is S.RECEIVING
    bench.after(100)
    assert bench.state(SHARP) is S.INCOMPLETE


def test_the_soft_kernel_is_chosen_and_the_other_told_why(bench: Bench) -> None:
    bench.send_all(SHARP)
    bench.send_all(SOFT)
    bench.settle()
    assert bench.state() is S.DELIVERED
    lost = bench.ledger.series(SHARP)
    assert lost.state is S.NOT_ANALYSED
    assert "kernel B40f (soft) comes before B70f (sharp)" in lost.reason


def test_the_result_is_given_what_else_the_study_holds_and_the_same_after_a_restart(bench: Bench) -> None:
    """A localizer and a series that lost; none of another patient, none that came later."""
    bench.send_all(SHARP, SeriesNumber=4)
    bench.send_all(SOFT, SeriesNumber=2)
    for number, others in enumerate(({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, {"PatientID": "P2"})):
        ds = slice_of(1, f"1.2.3.{number + 5}", SeriesNumber=number + 5, **others)
        bench.ingest.process([spooled(bench.spool, ds)])
    asked: list[AnalysisRequest] = []

    def die(request: AnalysisRequest) -> AnalysisOutcome:
        asked.append(request)
        raise TransientError("killed")

    bench.dispatcher._analyse = die
    bench.after(200)
    bench.after(200)
    bench.ingest.process([spooled(bench.spool, slice_of(1, "1.2.3.9", SeriesNumber=9))])
    bench.restart()
    bench.dispatcher._analyse = die
    bench.after(5)
    assert len(asked) > 1
    assert {request.files for request in asked} == {asked[0].files}
    expected = (OtherSeries(4, "sharp kernel B70f, another was chosen"), OtherSeries(5, "localizer"))
    assert {request.others for request in asked} == {expected}


def test_a_better_series_that_comes_later_takes_over(bench: Bench) -> None:
    bench.send_all(SHARP)
    bench.settle()
    assert bench.state(SHARP) is S.DELIVERED
    bench.send_all(SOFT)
    bench.settle()
    assert (bench.state(SHARP), bench.state(SOFT)) == (S.NOT_ANALYSED, S.DELIVERED)
    (current,) = _current(bench.ledger)
    assert current["series_uid"] == SOFT


def test_where_no_lungs_are_found_the_next_best_is_taken(bench: Bench) -> None:
    bench.no_lungs = {SOFT}
    bench.send_all(SOFT)
    bench.send_all(SHARP)
    bench.settle()
    assert (bench.state(SOFT), bench.ledger.series(SOFT).reason) == (S.NOT_ANALYSED, "no lungs found")
    assert bench.state(SHARP) is S.DELIVERED


def test_where_the_chosen_series_is_spoilt_the_next_best_is_taken(bench: Bench) -> None:
    bench.send_all(SHARP)
    bench.send_all(SOFT)
    bench.settle()
    bench.send(SOFT, 3, pixels=7)
    bench.settle()
    assert bench.ledger.series(SOFT).reason.startswith("conflicting instance")
    assert bench.state(SHARP) is S.DELIVERED


def test_a_failed_delivery_is_not_doubled_by_another_series(bench: Bench) -> None:
    bench.send_all(SOFT)
    for _ in range(4):
        bench.after(200)
    for delivery in bench.ledger.due_deliveries("pacs", bench.now):
        bench.ledger.delivery_failed(delivery.id, bench.now, "AE not recognised")
    assert bench.state() is S.FAILED
    bench.send_all(SHARP)
    bench.settle()
    assert (bench.state(SOFT), bench.state(SHARP)) == (S.FAILED, S.NOT_ANALYSED)
    assert [result["series_uid"] for result in _current(bench.ledger)] == [SOFT]
    bench.ledger.retry(SOFT, bench.now)
    bench.settle()
    assert bench.state() is S.DELIVERED


def test_cancel_retry_the_other_retry_the_first_leaves_one_result(bench: Bench) -> None:
    bench.send_all(SHARP)
    bench.send_all(SOFT)
    for _ in range(4):
        bench.after(200)
    assert bench.state() is S.ANALYSED
    bench.ledger.cancel(SOFT, bench.now)
    bench.settle()
    assert (bench.state(SOFT), bench.state(SHARP)) == (S.CANCELLED, S.DELIVERED)
    bench.ledger.retry(SHARP, bench.now)
    bench.settle()
    bench.ledger.retry(SOFT, bench.now)
    bench.settle()
    assert (bench.state(SOFT), bench.state(SHARP)) == (S.DELIVERED, S.NOT_ANALYSED)
    assert [result["series_uid"] for result in _current(bench.ledger)] == [SOFT]


def test_a_study_may_have_any_number_of_series(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int | None] = []
    original = bench.ledger.list_series

    def list_series(**query: Any) -> list[SeriesRecord]:
        limits.append(query["limit"])
        return original(**query)

    monkeypatch.setattr(bench.ledger, "list_series", list_series)
    bench.send_all()
    bench.after(20)
    assert bench.state() is S.QUEUED
    assert limits == [None]


@pytest.mark.parametrize("left", ["nothing", "one that is reopened"])
def test_a_study_that_changes_while_it_is_looked_at_is_left_for_the_next_look(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    bench.send_all()
    bench.after(10)
    study = bench.ledger.complete_studies()
    if left == "nothing":
        study = ["7.7"]
    else:
        bench.send(SOFT, 6)
    monkeypatch.setattr(bench.ledger, "complete_studies", lambda: study)
    bench.after(0)
    assert bench.state() is (S.COMPLETE if left == "nothing" else S.RECEIVING)


def test_a_person_may_prefer_the_other_series(bench: Bench) -> None:
    bench.send_all(SHARP)
    bench.send_all(SOFT)
    bench.settle()
    bench.ledger.retry(SHARP, bench.now)
    bench.settle()
    assert (bench.state(SHARP), bench.state(SOFT)) == (S.DELIVERED, S.NOT_ANALYSED)
    assert bench.ledger.series(SOFT).reason.endswith("a person asked for it")


def test_an_identity_corrected_in_the_pacs_reissues_the_result_for_the_right_patient(bench: Bench) -> None:
    bench.send_all(pid="WRONG")
    bench.settle()
    assert [result["patients"] for result in _current(bench.ledger)] == [["WRONG"]]
    for number in (1, 2):
        bench.send(SOFT, number, pid="RIGHT")
    bench.after(50)
    assert bench.state() is S.RECEIVING
    assert _current(bench.ledger) == []
    for number in (3, 4, 5):
        bench.send(SOFT, number, pid="RIGHT")
    bench.settle()
    assert [result["patients"] for result in _current(bench.ledger)] == [["RIGHT"]]
    assert bench.ledger.series(SOFT).revision == 2


def test_a_wrong_correction_that_is_taken_back_ends_with_the_right_patient(bench: Bench) -> None:
    for pid in ("RIGHT", "WRONG", "RIGHT"):
        bench.send_all(pid=pid)
        bench.settle()
        assert [result["patients"] for result in _current(bench.ledger)] == [[pid]]
    assert bench.ledger.series(SOFT).revision == 3


def test_a_conflict_ends_the_series_until_a_person_decides(bench: Bench) -> None:
    bench.send_all()
    bench.settle()
    bench.send(SOFT, 3, pixels=7)
    bench.settle()
    assert bench.state() is S.NOT_ANALYSED
    assert bench.ledger.series(SOFT).reason.startswith(f"conflicting instance {SOFT}.3")
    assert _current(bench.ledger) == []
    bench.ledger.retry(SOFT, bench.now)
    bench.settle()
    assert bench.state() is S.DELIVERED


def _current(ledger: Ledger) -> list[dict[str, Any]]:
    """The reports of the results that count, over all series."""
    found = []
    for series in ledger.list_series():
        details = ledger.details(series.series_uid)
        reports = {job.id: job.report for job in details.jobs}
        found += [dict(reports[result.job_id] or {}) for result in details.results if result.current]
    return found


# --- the thread ---


def test_the_thread_looks_when_woken_and_when_due(book: Ledger, tmp_path: Path) -> None:
    bench = Bench(book, tmp_path / "state")
    bench.send_all()
    bench.now += timedelta(seconds=9.7)  # due in 0.3 s, by a clock that stands still until then
    looks: list[datetime] = []
    decided = threading.Event()
    original = bench.coordinator.sweep

    def sweep(now: datetime) -> datetime | None:
        looks.append(now)
        due = original(now)
        if book.series(SOFT).state is not S.RECEIVING:
            decided.set()
        bench.now += timedelta(seconds=0.3)
        return due

    bench.coordinator.sweep = sweep  # type: ignore[method-assign]
    bench.coordinator.start()
    assert decided.wait(WAIT_S)
    bench.coordinator.stop()
    assert not bench.coordinator.thread.is_alive()
    assert len(looks) >= 2


def test_the_thread_survives_a_database_that_is_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_module, "TRY_AGAIN_S", 0.0)
    again = threading.Event()
    answers: Iterator[Any] = iter([TransientError("gone")])

    def receiving() -> list[SeriesRecord]:
        for error in answers:
            raise error
        again.set()
        return []

    monkeypatch.setattr(bench.ledger, "receiving", receiving)
    bench.coordinator.start()
    assert again.wait(WAIT_S)
    bench.coordinator.stop()


def test_an_error_of_ours_ends_the_thread_so_that_the_node_notices(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[SeriesRecord]:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.ledger, "receiving", broken)
    monkeypatch.setattr(threading, "excepthook", lambda _args: None)
    bench.coordinator.start()
    bench.coordinator.thread.join(WAIT_S)
    assert not bench.coordinator.thread.is_alive()


# --- any story ---


class Story(RuleBasedStateMachine):
    """Arrivals, re-sends, corrections, conflicts, late slices, slices that are fetched from the source, failed
    deliveries, restarts, people, in any order.

    The model knows for each SOP instance which version counts: the last one received of equal pixels; once a person
    has asked, the last one received. Slice 2 may come under a new SOP Instance UID: the one received last counts.
    """

    warm: Warm
    folder: Path
    pacs: PaperArchive
    number = 0

    @initialize(no_lungs=st.sets(st.sampled_from([SOFT, SHARP]), max_size=1))
    def begin(self, no_lungs: set[str]) -> None:
        type(self).number += 1
        self.bench = Bench(self.warm.emptied(), self.folder / str(self.number), ENTRY)
        self.bench.no_lungs = no_lungs
        self.pacs.held.clear()
        self.pacs.error, self.pacs.on_sent = None, self._fetched
        self.replacing: dict[str, tuple[str, datetime]] = {}  # PatientID of the new slice 2, and when it came
        self.original_at: dict[str, datetime] = {}  # when the version of the old one that counts came
        self.current: dict[str, dict[int, tuple[str, int]]] = {SOFT: {}, SHARP: {}}
        self.last: dict[str, dict[int, tuple[str, int]]] = {SOFT: {}, SHARP: {}}
        self.conflicts: dict[str, dict[int, set[tuple[str, int]]]] = {SOFT: {}, SHARP: {}}
        self.cancelled: set[str] = set()

    series = st.sampled_from([SOFT, SHARP])
    numbers = st.integers(1, 6)

    def _send(self, series_uid: str, number: int, pid: str, pixels: int) -> None:
        self.bench.now += timedelta(milliseconds=1)  # no two at the same moment
        self.bench.send(series_uid, number, pid, pixels)
        self._received(series_uid, number, pid, pixels)

    def _fetched(self, ds: Dataset) -> None:
        self._received(str(ds.SeriesInstanceUID), int(ds.InstanceNumber), str(ds.PatientID), 0)

    def _received(self, series_uid: str, number: int, pid: str, pixels: int) -> None:
        version, counts = (pid, pixels), self.current[series_uid].get(number)
        self.last[series_uid][number] = version
        if counts is None or counts[1] == pixels:
            self.current[series_uid][number] = version
            changed = counts not in (None, version)
        else:
            conflicting = self.conflicts[series_uid].setdefault(number, set())
            changed = version not in conflicting
            conflicting.add(version)
        if number == 2 and (changed or counts is None or self.conflicts[series_uid].get(2)):
            self.original_at[series_uid] = self.bench.now
        if changed:  # may concern what was sent before it was cancelled
            self.cancelled.discard(series_uid)

    @rule(uid=series, pid=st.sampled_from(["P1", "P2"]))
    def a_whole_series(self, uid: str, pid: str) -> None:
        for number in range(1, 5):
            self._send(uid, number, pid, 0)

    @rule(uid=series, number=numbers, pid=st.sampled_from(["P1", "P2", "P3"]))
    def one_instance(self, uid: str, number: int, pid: str) -> None:
        self._send(uid, number, pid, 0)

    @rule(uid=series, number=numbers, pid=st.sampled_from(["P1", "P2"]))
    def other_pixels(self, uid: str, number: int, pid: str) -> None:
        self._send(uid, number, pid, 7)

    @rule(uid=series, pid=st.sampled_from(["P1", "P2"]))
    def slice_2_under_a_new_uid(self, uid: str, pid: str) -> None:
        self.bench.now += timedelta(milliseconds=1)
        self.bench.send(uid, 2, pid, 9, SOPInstanceUID=f"{uid}.102")
        if self.replacing.get(uid, ("",))[0] != pid:
            self.cancelled -= {uid} if uid in self.replacing else set()
            self.replacing[uid] = pid, self.bench.now

    @rule(uid=series, number=numbers, pid=st.sampled_from(["P1", "P2"]))
    def the_source_has(self, uid: str, number: int, pid: str) -> None:
        self.pacs.hold(ct(uid, number, pid))

    @rule()
    def the_source_goes_away(self) -> None:
        self.pacs.go_away()

    @rule()
    def the_source_comes_back(self) -> None:
        self.pacs.error = None

    @rule(seconds=st.sampled_from([0, 5, 10, 20, 120]))
    def time_goes_on(self, seconds: float) -> None:
        self.bench.after(seconds)

    @rule()
    def results_are_delivered(self) -> None:
        deliver(self.bench.ledger, now=self.bench.now)

    @rule()
    def deliveries_fail(self) -> None:
        for delivery in self.bench.ledger.due_deliveries("pacs", self.bench.now):
            self.bench.ledger.delivery_failed(delivery.id, self.bench.now, "AE not recognised")

    @rule()
    def the_node_restarts(self) -> None:
        self.bench.restart()

    @precondition(lambda self: any(self.current.values()))
    @rule(uid=series)
    def a_person_asks_again(self, uid: str) -> None:
        if not self.current[uid]:
            return
        details = self.bench.ledger.details(uid)
        unsent = [d for d in details.deliveries if d.current and d.state is not D.COMMITTED]
        try:
            self.bench.ledger.retry(uid, self.bench.now)
        except IllegalTransition:
            return
        self.cancelled.discard(uid)
        if not unsent:
            self.current[uid] |= {number: self.last[uid][number] for number in self.conflicts[uid]}
            self.conflicts[uid] = {}

    @rule(uid=series)
    def a_person_cancels(self, uid: str) -> None:
        try:
            self.bench.ledger.cancel(uid, self.bench.now)
        except (IllegalTransition, NotFound):
            return
        self.cancelled.add(uid)

    @invariant()
    def never_two_results_in_one_study(self) -> None:
        if not hasattr(self, "bench"):
            return
        current = _current(self.bench.ledger)
        assert len(current) <= 1
        assert all(len(result["patients"]) == 1 for result in current)

    @invariant()
    def what_is_superseded_is_not_sent(self) -> None:
        if not hasattr(self, "bench"):
            return
        assert all(delivery.current for delivery in self.bench.ledger.due_deliveries("pacs", self.bench.now))

    def _settle(self) -> None:
        """To the end; a person asks for each delivery that failed."""
        self.bench.settle()
        for record in self.bench.ledger.list_series(states=[S.FAILED]):
            self.bench.ledger.retry(record.series_uid, self.bench.now)
        self.bench.settle()

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        self._settle()
        ledger = self.bench.ledger
        assert list(self.bench.spool.quarantine.iterdir()) == []
        fit = {uid for uid in self.current if self._is_fit(uid, self._counting(uid))}
        current = _current(ledger)
        assert bool(current) == bool(fit - self.bench.no_lungs - self.cancelled)
        for result in current:
            uid = result["series_uid"]
            kept = self._counting(uid)
            assert uid in fit
            assert result["slices"] == sorted(kept)
            assert result["patients"] == sorted({pid for pid, _ in kept.values()})
            assert ledger.series(uid).identity.patient_id == result["patients"][0]
            assert ledger.series(uid).state is S.DELIVERED
        for record in ledger.list_series():
            details = ledger.details(record.series_uid)
            instances = len(self.current[record.series_uid]) + (record.series_uid in self.replacing)
            assert details.instances[InstanceState.CURRENT] == instances
            assert (record.state is S.CANCELLED) == (record.series_uid in self.cancelled)
            assert record.state in (S.DELIVERED, S.NOT_ANALYSED, S.INCOMPLETE, S.CANCELLED)
            assert record.state is S.DELIVERED or record.reason, "no series ends silently"
            assert all(job.state not in (JobState.WAITING, JobState.RUNNING) for job in details.jobs)
            assert {d.state for d in details.deliveries} <= {D.COMMITTED, D.CANCELLED, D.FAILED}
            assert {d.state for d in details.deliveries if d.current} <= {D.COMMITTED}

    def _counting(self, uid: str) -> dict[int, tuple[str, int]]:
        """Slices that count: of the two of the same place and number, the one received last."""
        kept = dict(self.current[uid])
        if uid in self.replacing:
            pid, came = self.replacing[uid]
            if 2 not in kept or self.original_at[uid] < came:
                kept[2] = pid, 9
        return kept

    def _is_fit(self, uid: str, kept: dict[int, tuple[str, int]]) -> bool:
        # Every second slice is a regular series, too: nothing can tell.
        whole = len(kept) >= 3 and len({after - before for before, after in pairwise(sorted(kept))}) == 1
        return whole and not self.conflicts[uid] and len({pid for pid, _ in kept.values()}) == 1


def test_any_story_ends_with_one_current_result(
    warm_sqlite: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _fd: None)  # no power cut here
    source = PaperArchive()
    source.patch(monkeypatch)

    class Run(Story):
        warm, folder, pacs = warm_sqlite, tmp_path, source

    run_state_machine_as_test(
        Run,
        settings=settings(
            max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
