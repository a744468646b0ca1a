"""Waiting jobs → workers, and what their end means. The ledger is the truth, the executor is only muscle.

Everything that touches the ledger happens in `pump`, on one thread; workers only leave their finished futures. So a
database that is away for a while delays outcomes and loses none.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from dicom_node import completion, worker
from dicom_node.config import Config
from dicom_node.errors import NodeError, PermanentError, TransientError
from dicom_node.ledger import CurrentCt, JobRecord, Ledger, PriorRules, SeriesRecord
from dicom_node.spool import results_folder
from dicom_node.states import JobState
from dicom_node.worker_pool import WorkerPool
from pipeline import priors
from pipeline.errors import ModelError, ResultError, SeriesRejected
from pipeline.priors import Priors
from pipeline.types import AnalysisOutcome, AnalysisRequest

log = logging.getLogger(__name__)

Analyse = Callable[[AnalysisRequest], AnalysisOutcome]


class Dispatcher:
    """Hands jobs to an executor and writes down what came of them.

    Args:
        config: `analysis`, `destinations`, `profiles` and the pipeline's settings are used.
        ledger: where jobs come from and outcomes go.
        archive_dir: the folder that instance paths are relative to.
        results_dir: the folder that results are written below.
        clock: the present, time zone aware.
        on_finished: called on a foreign thread when a worker is done: `pump` has something to do.
        executor: makes the executor; None for a `WorkerPool` of `analysis.workers` processes.
        analyse: the picklable function that the executor runs.
        keep: called with the error of a result object that failed its checks: keeps it aside, gives the reason.
        has_room: whether results can be written; while they cannot, jobs wait and no attempt is spent.
    """

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        archive_dir: Path,
        results_dir: Path,
        clock: Callable[[], datetime],
        on_finished: Callable[[], None] = lambda: None,
        executor: Callable[[], Executor] | None = None,
        analyse: Analyse = worker.analyse,
        keep: Callable[[ResultError], str] = str,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._archive_dir = archive_dir
        self._results_dir = results_dir
        self._clock = clock
        self._on_finished = on_finished
        self._make_executor = executor or self._worker_pool
        self._keep = keep
        self._has_room = has_room
        self._analyse = analyse
        self._profiles = {destination.name: destination.profile for destination in config.destinations}
        self._executor: Executor | None = None
        self._claimed: tuple[JobRecord, SeriesRecord] | None = None  # RUNNING in the ledger, not yet handed out
        self._running: dict[Future[AnalysisOutcome], JobRecord] = {}
        self._finished: queue.SimpleQueue[Future[AnalysisOutcome]] = queue.SimpleQueue()

    def start(self) -> None:
        """Return the jobs that an earlier run left RUNNING to the queue; start the workers."""
        interrupted = self._ledger.recover_jobs(self._clock(), self._config.analysis.max_attempts)
        if interrupted:
            log.warning("%d analysis job(s) were interrupted by the last stop", interrupted)
        self._executor = self._make_executor()

    @property
    def threads(self) -> list[threading.Thread]:
        """For whoever looks after the threads of the node."""
        return self._executor.threads if isinstance(self._executor, WorkerPool) else []

    @property
    def fault(self) -> str:
        """What keeps analyses from being carried out; empty where nothing does, or another executor is used."""
        executor = self._executor
        if executor is None:
            return "the workers are stopped"
        if not isinstance(executor, WorkerPool):
            return ""
        return "" if executor.pids else executor.fault or "no worker process lives"

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that live; none where the executor is not our own pool."""
        return self._executor.pids if isinstance(self._executor, WorkerPool) else []

    def stop(self) -> None:
        """End the workers; what they had not finished waits for the next start."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
        try:
            self._settle_finished(stopping=True)
            if self._claimed is not None:
                self._ledger.job_returned(self._claimed[0], self._clock())
        except (TransientError, PermanentError) as error:  # the next start finds them RUNNING
            log.error("analyses that were stopped could not be returned to the queue: %s", error)

    def pump(self) -> int:
        """Write down what is finished and hand out what waits. Returns how many jobs were finished.

        Raises:
            TransientError, PermanentError: of the database; nothing is lost then.
        """
        settled = self._settle_finished()
        self._end_cancelled()
        while self._executor is not None and len(self._running) < self._config.analysis.workers:
            if not self._has_room():
                break
            self._claimed = self._claimed or self._ledger.claim_job(self._clock(), bool(self._config.prior_sources))
            if self._claimed is None:
                break
            self._submit(self._executor, *self._claimed)
            self._claimed = None
        return settled

    def _worker_pool(self) -> Executor:
        analysis = self._config.analysis
        warm_up = partial(worker.warm_up, share_devices=analysis.device == "auto")
        return WorkerPool(analysis.workers, analysis.deadline_s, warm_up, insists=True)

    def _end_cancelled(self) -> None:
        """What runs for a revision that is superseded, or against a person's wish, is stopped where it can be."""
        for future, job in self._running.items():
            if not future.done() and self._ledger.job(job.id).state is not JobState.RUNNING:
                future.cancel()

    def _submit(self, executor: Executor, job: JobRecord, series: SeriesRecord) -> None:
        try:
            request = self.request(job, series)
        except NodeError:
            raise
        except Exception as error:
            # The border to what came from the wire: a header that nobody thought of ends one series, not the node.
            log.exception("series %s: unexpected error", job.series_uid)
            reason = f"the analysis could not be asked for: {type(error).__name__}: {error}"
            self._ledger.job_interrupted(job, reason, self._clock(), self._config.analysis.max_attempts)
            return
        log.info("series %s revision %d: analysis begins, attempt %d", job.series_uid, job.revision, job.attempts)
        try:
            future = executor.submit(self._analyse, request)
        except BrokenExecutor:  # a pool of the standard library is lost as a whole with one of its processes
            log.error("the executor is broken and is made anew")
            executor.shutdown(wait=False, cancel_futures=True)
            self._executor = self._make_executor()
            future = self._executor.submit(self._analyse, request)
        self._running[future] = job
        future.add_done_callback(self._note_finished)

    def _note_finished(self, future: Future[AnalysisOutcome]) -> None:
        self._finished.put(future)
        self._on_finished()

    def request(self, job: JobRecord, series: SeriesRecord) -> AnalysisRequest:
        """What the worker is asked to do."""
        slices = completion.slices(self._ledger.current_instances(series.series_uid))
        headers = [instance.header for instance in slices]
        return AnalysisRequest(
            files=tuple(self._archive_dir / instance.path for instance in slices),
            out_dir=self._results_dir / revision_folder(job),
            settings=self._config.pipeline_settings,
            profiles=self._config.used_profiles,
            created=job.created_at.astimezone(),  # DICOM times are local (PS3.3 C.12.1.1.8)
            revision=job.revision,
            completeness=series.completeness,
            predecessors=self._ledger.predecessors(job.id, self._profiles),
            superseded=self._ledger.superseded(job.id, self._profiles),
            priors=self._priors(job, headers),
            others=job.others,
        )

    def _priors(self, job: JobRecord, headers: Sequence[Mapping[str, Any]]) -> Priors | None:
        """Earlier results of the patient, the same with every attempt."""
        section = self._config.priors
        if not section.enabled:
            return None
        birth_date = str(headers[0].get("PatientBirthDate") or "") if headers else ""
        current = CurrentCt(priors.first_acquired(headers), birth_date)
        return self._ledger.fix_priors(
            job, current, PriorRules(section.max_count, section.max_age_days), self._clock()
        )

    def _settle_finished(self, stopping: bool = False) -> int:
        settled = 0
        while not self._finished.empty():
            future = self._finished.get()
            try:
                self._settle(self._running[future], future, stopping)
            except BaseException:
                self._finished.put(future)  # the ledger could not be written: again with the next pump
                raise
            del self._running[future]
            settled += 1
        return settled

    def _settle(self, job: JobRecord, future: Future[AnalysisOutcome], stopping: bool) -> None:
        """Write down how one job ended. Raises what the ledger raises."""
        now, attempts = self._clock(), self._config.analysis.max_attempts
        try:
            outcome = future.result()
        except SeriesRejected as error:
            self._tell(job, f"not analysed: {error}", self._ledger.job_rejected(job, str(error), now))
        except (ModelError, ResultError) as error:
            reason = self._keep(error) if isinstance(error, ResultError) else str(error)
            self._tell(job, f"failed: {reason}", self._ledger.job_failed(job, reason, now))
        except (TransientError, CancelledError, BrokenExecutor) as error:
            if stopping:
                self._ledger.job_returned(job, now)
            else:
                self._tell(job, str(error), self._ledger.job_interrupted(job, str(error), now, attempts))
        except Exception as error:
            # The border to everything that the pipeline calls: whatever it raises ends as this series' reason.
            log.error("series %s: unexpected error", job.series_uid, exc_info=error)
            reason = f"unexpected error in the analysis: {type(error).__name__}: {error}"
            self._ledger.job_interrupted(job, reason, now, attempts)
        else:
            kinds = {destination.name: destination.kinds for destination in self._config.destinations}
            try:
                kept = self._ledger.job_done(job, outcome, self._results_dir, self._profiles, now, kinds)
            except (PermanentError, ValueError) as error:  # a result that the ledger refuses will be refused again
                self._ledger.job_failed(job, f"the results could not be recorded: {error}", now)
            else:
                self._tell(job, f"analysed, {len(outcome.objects)} result objects", kept)

    def _tell(self, job: JobRecord, what: str, counts: bool) -> None:
        unless = "" if counts else " (does not count: the series changed or was cancelled meanwhile)"
        log.info("series %s revision %d: %s%s", job.series_uid, job.revision, what, unless)


def revision_folder(job: JobRecord) -> Path:
    """Folder of a job's results."""
    return Path(results_folder(job.series_uid)) / f"{job.revision:04d}"
