"""Jobs to workers and back: real spawned processes with quick functions in the place of the pipeline."""

from __future__ import annotations

import errno
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from dicom_node import config as configuration
from dicom_node import spool as spool_module
from dicom_node import worker
from dicom_node.config import Config
from dicom_node.dispatch import Dispatcher, revision_folder
from dicom_node.errors import TransientError
from dicom_node.ledger import JobRecord, Ledger, SeriesDetails, SeriesRecord
from dicom_node.spool import Spool
from dicom_node.states import JobState, SeriesState
from dicom_node.worker_pool import WorkerPool
from pipeline.errors import ModelError, ResultError, SeriesRejected
from pipeline.types import AnalysisOutcome, AnalysisRequest, ObjectReference, ResultKind, ResultObject
from tests.fixtures.inline import Inline
from tests.fixtures.samples import SERIES, START, complete, filing, receive
from tests.fixtures.samples import queue as choose

S, J = SeriesState, JobState
WAIT_S = 60.0
OTHER = "1.2.3.2"

# --- what the workers do ---


def succeed(request: AnalysisRequest) -> AnalysisOutcome:
    """One SR per profile; the folder is made as the pipeline does."""
    objects = []
    for profile in request.profiles:
        folder = request.out_dir / profile.name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "sr.dcm"
        path.write_bytes(repr(request).encode())
        uid = f"9.{int(sha256(str(path).encode()).hexdigest()[:12], 16)}"
        reference = ObjectReference("1.2.3", "9.1", "1.2.840", uid)
        objects.append(ResultObject(ResultKind.SR, profile.name, path, reference, "f" * 64))
    return AnalysisOutcome({"files": [path.name for path in request.files]}, tuple(objects))


def reject(_request: AnalysisRequest) -> AnalysisOutcome:
    raise SeriesRejected("no lungs found")


def lack_model(_request: AnalysisRequest) -> AnalysisOutcome:
    raise ModelError("weights do not match; install the package again")


def build_badly(request: AnalysisRequest) -> AnalysisOutcome:
    error = ResultError("the SEG failed its checks")
    error.rejected = request.out_dir / "rejected-1.2.3.dcm"
    raise error


def stumble(_request: AnalysisRequest) -> AnalysisOutcome:
    raise ZeroDivisionError("division by zero")


def die(_request: AnalysisRequest) -> AnalysisOutcome:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hang(request: AnalysisRequest) -> AnalysisOutcome:
    request.out_dir.mkdir(parents=True, exist_ok=True)
    (request.out_dir / "started").touch()
    threading.Event().wait()
    raise AssertionError


def die_for(series_folder: str, request: AnalysisRequest) -> AnalysisOutcome:
    return die(request) if series_folder in str(request.out_dir) else succeed(request)


def never_ready(_number: int, *, share_devices: bool) -> None:
    raise ImportError("a library is missing")


# --- the bench ---


class Bench:
    """A ledger, a dispatcher and a clock that goes on by a second with each look."""

    def __init__(self, ledger: Ledger, folder: Path, **analysis: Any) -> None:
        self.ledger, self.folder = ledger, folder
        self.config: Config = configuration.parse(
            {
                "node": {"state_dir": str(folder)},
                "analysis": {"max_attempts": 3, "deadline_s": WAIT_S, **analysis},
                "destinations": [
                    {"name": "pacs", "ae_title": "PACS", "host": "h", "port": 1},
                    {"name": "viewer", "ae_title": "VIEW", "host": "h", "port": 1, "profile": "labelmap"},
                ],
                "profiles": {"labelmap": {"seg": "LABELMAP"}},
            }
        )
        self.seconds = 0
        self.finished: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.dispatchers: list[Dispatcher] = []

    def clock(self) -> datetime:
        self.seconds += 1
        return START + timedelta(seconds=self.seconds)

    def keep(self, error: ResultError) -> str:
        """As the node does; over the border of the process the error still says where the object lies."""
        assert error.rejected is not None
        return f"{error}; kept as {error.rejected.name}"

    def dispatcher(
        self, analyse: Callable[[AnalysisRequest], AnalysisOutcome], executor: Callable[[], Executor] | None = None
    ) -> Dispatcher:
        made = Dispatcher(
            self.config,
            self.ledger,
            self.folder / "archive",
            self.folder / "results",
            self.clock,
            lambda: self.finished.put(None),
            executor or partial(WorkerPool, self.config.analysis.workers, self.config.analysis.deadline_s),
            analyse,
            self.keep,
        )
        self.dispatchers.append(made)
        made.start()
        return made

    def run_one(self, dispatcher: Dispatcher) -> None:
        """Hand out, wait for the end, write it down (and hand out again)."""
        dispatcher.pump()
        while True:
            self.finished.get(timeout=WAIT_S)  # may be left from a dispatcher that was stopped
            if dispatcher.pump():
                return

    def details(self, series_uid: str = SERIES) -> SeriesDetails:
        return self.ledger.details(series_uid)


@pytest.fixture
def bench(book: Ledger, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(book, tmp_path)
    yield made
    for dispatcher in made.dispatchers:
        dispatcher.stop()


def _queued(ledger: Ledger, series_uid: str = SERIES, study_uid: str = "1.2.3") -> None:
    receive(ledger, series_uid, study_uid=study_uid)
    complete(ledger, series_uid)
    choose(ledger, series_uid)


def test_series_wait_while_no_worker_gets_ready(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the pool of the node itself: a broken library must not fail all of a night's series."""
    _queued(bench.ledger)
    monkeypatch.setattr(worker, "warm_up", never_ready)
    made = Dispatcher(bench.config, bench.ledger, bench.folder, bench.folder, bench.clock, analyse=succeed)
    bench.dispatchers.append(made)
    made.start()
    made.pump()
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if "before it was ready" in made.fault:
            break
        pause.wait(0.01)
    assert "before it was ready" in made.fault
    assert made.worker_pids == []
    assert made.pump() == 0
    made.stop()
    (job,) = bench.details().jobs
    assert (job.state, job.attempts) == (JobState.WAITING, 0)


def test_a_job_becomes_results_and_deliveries(bench: Bench) -> None:
    _queued(bench.ledger)
    bench.run_one(bench.dispatcher(succeed))
    details = bench.details()
    assert (details.series.state, details.jobs[0].state) == (S.ANALYSED, J.DONE)
    assert [(item.destination, item.profile) for item in details.deliveries] == [
        ("pacs", "default"),
        ("viewer", "labelmap"),
    ]
    for result in details.results:
        assert (bench.folder / "results" / result.path).is_file()
        assert SERIES not in result.path


def test_the_request_says_all_that_the_pipeline_needs(bench: Bench) -> None:
    _queued(bench.ledger)
    dispatcher = bench.dispatcher(succeed)
    claimed = bench.ledger.claim_job(START)
    assert claimed is not None
    job, series = claimed
    request = dispatcher.request(job, series)
    assert sorted(path.name for path in request.files) == [f"{SERIES}.{n}.dcm" for n in (1, 2, 3)]
    assert {path.parent for path in request.files} == {bench.folder / "archive"}
    assert request.out_dir == bench.folder / "results" / revision_folder(job)
    assert (request.created, request.revision) == (job.created_at, 1)
    assert request.completeness == "whole: a test says so"
    assert [profile.name for profile in request.profiles] == ["default", "labelmap"]
    assert request.settings == bench.config.pipeline_settings
    assert request.predecessors == {}


def test_what_cannot_even_be_asked_for_ends_one_series_and_not_the_node(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _queued(bench.ledger)
    _queued(bench.ledger, OTHER, "1.2.9")
    dispatcher = bench.dispatcher(succeed)
    real = dispatcher.request

    def request(job: JobRecord, series: SeriesRecord) -> AnalysisRequest:
        if series.series_uid == SERIES:
            raise TypeError("unsupported format string passed to list.__format__")
        return real(job, series)

    monkeypatch.setattr(dispatcher, "request", request)
    bench.run_one(dispatcher)
    spoilt = bench.details()
    assert (spoilt.series.state, spoilt.jobs[0].attempts) == (S.FAILED, 3)
    assert "could not be asked for: TypeError" in spoilt.series.reason
    assert bench.details(OTHER).series.state is S.ANALYSED


def test_a_disk_that_does_not_answer_lets_jobs_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _queued(bench.ledger)
    spool = Spool(bench.folder)
    dispatcher = Dispatcher(
        bench.config,
        bench.ledger,
        spool.archive,
        spool.results,
        bench.clock,
        executor=Inline,
        analyse=succeed,
        has_room=spool.has_room,
    )
    dispatcher.start()

    def stale(_: Path) -> int:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(spool_module, "free_bytes", stale)
        assert dispatcher.pump() == 0
        assert bench.details().jobs[0].state is J.WAITING
        assert spool.shortage() == "the disk does not answer: Stale file handle"
    dispatcher.pump()
    dispatcher.pump()
    dispatcher.stop()
    assert bench.details().series.state is S.ANALYSED


def test_a_second_revision_names_the_sr_that_was_sent(bench: Bench) -> None:
    _queued(bench.ledger)
    dispatcher = bench.dispatcher(succeed)
    bench.run_one(dispatcher)
    for delivery in bench.ledger.due_deliveries("pacs", bench.clock()):
        bench.ledger.delivery_sent(delivery.id, START)
    first = next(result for result in bench.details().results if result.profile == "default")
    bench.ledger.file_instances([filing(4)], bench.clock())
    complete(bench.ledger)
    choose(bench.ledger)
    claimed = bench.ledger.claim_job(bench.clock())
    assert claimed is not None
    request = dispatcher.request(*claimed)
    assert (request.revision, request.out_dir.name) == (2, "0002")
    assert set(request.predecessors) == {"default"}, "the other destination was sent nothing"
    assert request.predecessors["default"].sop_instance_uid == first.sop_instance_uid
    changed = tuple(each.model_copy(update={"profile": "labelmap"}) for each in bench.config.destinations)
    bench.config = bench.config.model_copy(update={"destinations": changed})
    request = bench.dispatcher(succeed).request(*claimed)
    assert request.predecessors["labelmap"].sop_instance_uid == first.sop_instance_uid
    assert first.sop_instance_uid in {each.sop_instance_uid for each in request.superseded["labelmap"]}


ENDINGS: dict[str, tuple[Callable[[AnalysisRequest], AnalysisOutcome], SeriesState, JobState, str]] = {
    "rejected": (reject, S.NOT_ANALYSED, J.REJECTED, "no lungs found"),
    "model": (lack_model, S.FAILED, J.FAILED, "install the package again"),
    "result": (build_badly, S.FAILED, J.FAILED, "failed its checks"),
}


@pytest.mark.parametrize(("analyse", "series", "job", "says"), ENDINGS.values(), ids=ENDINGS)
def test_what_will_not_pass_by_itself_ends_at_once(
    bench: Bench,
    analyse: Callable[[AnalysisRequest], AnalysisOutcome],
    series: SeriesState,
    job: JobState,
    says: str,
) -> None:
    _queued(bench.ledger)
    bench.run_one(bench.dispatcher(analyse))
    details = bench.details()
    assert (details.series.state, details.jobs[0].state, details.jobs[0].attempts) == (series, job, 1)
    assert says in details.series.reason


POISON: dict[str, tuple[Callable[[AnalysisRequest], AnalysisOutcome], dict[str, Any], str]] = {
    "kills its worker": (die, {}, "the worker process died (signal SIGKILL)"),
    "hangs": (hang, {"deadline_s": 0.2}, "took longer than 0.2 s and was stopped"),
    "stumbles": (stumble, {}, "unexpected error in the analysis: ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize(("analyse", "settings", "says"), POISON.values(), ids=POISON)
def test_a_poison_series_is_given_up_and_the_next_one_is_analysed(
    book: Ledger, tmp_path: Path, analyse: Callable[[AnalysisRequest], AnalysisOutcome], settings: Any, says: str
) -> None:
    bench = Bench(book, tmp_path, **settings)
    _queued(book)
    dispatcher = bench.dispatcher(analyse)
    dispatcher.pump()
    for _ in range(3):
        bench.finished.get(timeout=WAIT_S)
        dispatcher.pump()
    dispatcher.stop()
    details = bench.details()
    assert (details.series.state, details.jobs[0].state, details.jobs[0].attempts) == (S.FAILED, J.FAILED, 3)
    assert (
        details.series.reason
        == f"given up after 3 attempt(s), the last: {details.series.reason.split('last: ')[1]}"
    )
    assert says in details.series.reason
    _queued(book, OTHER, "7.7")
    bench = Bench(book, tmp_path)
    healthy = bench.dispatcher(succeed)
    bench.run_one(healthy)
    healthy.stop()
    assert book.series(OTHER).state is S.ANALYSED


def test_attempts_are_counted_over_restarts_of_the_node(bench: Bench) -> None:
    """Each time the whole node dies while it runs: the claim alone has counted the attempt."""
    _queued(bench.ledger)
    for attempt in range(1, 4):
        claimed = bench.ledger.claim_job(bench.clock())
        assert claimed is not None
        assert claimed[0].attempts == attempt
        bench.dispatcher(succeed).stop()  # a start, as after kill -9
    details = bench.details()
    assert details.series.state is S.FAILED
    assert "the node stopped while it ran" in details.series.reason


def test_a_stop_returns_what_runs_and_does_not_count_it(bench: Bench) -> None:
    _queued(bench.ledger)
    dispatcher = bench.dispatcher(hang)
    dispatcher.pump()
    _await_started(bench)
    dispatcher.stop()
    (job,) = bench.details().jobs
    assert (job.state, job.attempts) == (J.WAITING, 0)
    bench.run_one(bench.dispatcher(succeed))
    assert bench.details().series.state is S.ANALYSED


def _await_started(bench: Bench) -> None:
    pause = threading.Event()
    while not list((bench.folder / "results").rglob("started")):
        pause.wait(0.01)


@pytest.mark.parametrize("why", ["late instance", "cancelled"])
def test_a_superseded_analysis_is_stopped_and_its_end_does_not_count(bench: Bench, why: str) -> None:
    _queued(bench.ledger)
    dispatcher = bench.dispatcher(hang)
    dispatcher.pump()
    _await_started(bench)
    if why == "cancelled":
        bench.ledger.cancel(SERIES, bench.clock())
    else:
        bench.ledger.file_instances([filing(4)], bench.clock())
    before = bench.details()
    dispatcher.pump()
    bench.finished.get(timeout=WAIT_S)
    dispatcher.pump()
    assert bench.details() == before
    assert before.jobs[0].state is J.CANCELLED


def test_while_the_disk_is_low_jobs_wait_and_spend_no_attempt(book: Ledger, tmp_path: Path) -> None:
    bench = Bench(book, tmp_path)
    receive(book)
    complete(book)
    choose(book)
    room = False
    dispatcher = Dispatcher(
        bench.config, book, tmp_path, tmp_path, bench.clock, executor=Inline, has_room=lambda: room
    )
    dispatcher.start()
    assert dispatcher.pump() == 0
    (job,) = bench.details().jobs
    assert (job.state, job.attempts) == (J.WAITING, 0)
    room = True
    dispatcher.pump()
    assert bench.details().jobs[0].attempts == 1
    dispatcher.stop()


def test_no_more_jobs_run_than_there_are_workers(book: Ledger, tmp_path: Path) -> None:
    bench = Bench(book, tmp_path, workers=2)
    for number in range(3):
        _queued(book, f"5.{number}", f"6.{number}")
    dispatcher = bench.dispatcher(hang)
    dispatcher.pump()
    states = [book.details(f"5.{number}").jobs[0].state for number in range(3)]
    dispatcher.stop()
    assert states == [J.RUNNING, J.RUNNING, J.WAITING]


def test_a_poison_series_beside_a_healthy_one(book: Ledger, tmp_path: Path) -> None:
    bench = Bench(book, tmp_path, workers=2, max_attempts=1)
    _queued(book, "5.1", "6.1")
    _queued(book, "5.2", "6.2")
    dispatcher = bench.dispatcher(partial(die_for, sha256(b"5.1").hexdigest()[:32]))
    dispatcher.pump()
    for _ in range(2):
        bench.finished.get(timeout=WAIT_S)
        dispatcher.pump()
    dispatcher.stop()
    assert (book.series("5.1").state, book.series("5.2").state) == (S.FAILED, S.ANALYSED)


@pytest.mark.parametrize("method", ["current_instances", "job_done", "claim_job"])
def test_a_database_that_is_away_delays_and_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    _queued(bench.ledger)
    dispatcher = bench.dispatcher(succeed, Inline)

    def away(*_args: Any) -> Any:
        raise TransientError("the database does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(bench.ledger, method, away)
        for _ in range(3):
            with pytest.raises(TransientError):
                dispatcher.pump()
                dispatcher.pump()
    dispatcher.pump()
    dispatcher.pump()
    details = bench.details()
    assert (details.series.state, details.jobs[0].attempts) == (S.ANALYSED, 1)


def test_results_that_the_ledger_refuses_end_the_series(bench: Bench) -> None:
    """Here: an object outside the results folder, a fault that no retry heals."""
    _queued(bench.ledger)

    def elsewhere(request: AnalysisRequest) -> AnalysisOutcome:
        outcome = succeed(request)
        moved = [ResultObject(o.kind, o.profile, Path("/tmp/x"), o.reference, o.sha256) for o in outcome.objects]
        return AnalysisOutcome(outcome.report, tuple(moved))

    dispatcher = bench.dispatcher(elsewhere, Inline)
    assert [dispatcher.pump(), dispatcher.pump()] == [0, 1]
    assert bench.details().series.state is S.FAILED
    assert "could not be recorded" in bench.details().series.reason


def test_a_broken_pool_of_the_standard_library_is_rebuilt(bench: Bench) -> None:
    """Any executor will do; this one is lost as a whole with one of its processes."""
    _queued(bench.ledger, "5.1", "6.1")
    pools: list[ProcessPoolExecutor] = []

    def make() -> Executor:
        pools.append(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        return pools[-1]

    dispatcher = bench.dispatcher(partial(die_for, sha256(b"5.1").hexdigest()[:32]), make)
    dispatcher.pump()
    for _ in range(3):
        bench.finished.get(timeout=WAIT_S)
        dispatcher.pump()
    assert bench.ledger.series("5.1").state is S.FAILED
    _queued(bench.ledger, "5.2", "6.2")
    bench.run_one(dispatcher)
    assert bench.ledger.series("5.2").state is S.ANALYSED
    assert len(pools) == 4
