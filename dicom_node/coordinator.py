"""Moves series on: looks at what is quiet, decides by the rules of `completion` and `selection`, feeds the workers.

`sweep` is one look at everything; it says when the next one is due. The thread sleeps until then or until it is
woken: by filed instances, the end of an association, a finished worker. Nothing is kept here that a restart needs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from dicom_node import completion, selection, unanalysed
from dicom_node.completion import Wait
from dicom_node.config import Config
from dicom_node.dispatch import Dispatcher
from dicom_node.errors import NodeError
from dicom_node.ledger import InstanceRecord, Ledger, SeriesRecord
from dicom_node.statement import Statement
from dicom_node.states import CHOSEN, SeriesState

LOGGER = logging.getLogger(__name__)
TRY_AGAIN_S = 5.0  # after an error of the database


class Sources(Protocol):
    """Who is asked whether a series is whole; see `sources.SourceService`."""

    def has_source(self, series: SeriesRecord) -> bool:
        """Whether there is a source that knows about this series."""

    def statement(self, series: SeriesRecord, now: datetime) -> Statement | None:
        """What it says; None while it has not answered. Returns at once."""

    def forget_others(self, series_uids: Collection[str]) -> None:
        """Only these are still being received."""


class NoSources:
    """Where config.toml has none."""

    def has_source(self, series: SeriesRecord) -> bool:
        """No."""
        return False

    def statement(self, series: SeriesRecord, now: datetime) -> Statement | None:
        """Nothing."""
        return None

    def forget_others(self, series_uids: Collection[str]) -> None:
        """There is nothing to forget."""


@dataclass(frozen=True)
class _Judged:
    """What a series waits for, and on what that was decided."""

    version: int
    statement: Statement | None
    wait: Wait


class Coordinator:
    """The one thread that decides about series and jobs.

    Args:
        config: `completion`, and the longest pause of `delivery`, are used.
        ledger: what is known, and where decisions are written.
        dispatcher: started and stopped by the caller.
        busy_series: SeriesInstanceUIDs of which more may be on its way: open associations, files not yet recorded.
        clock: the present, time zone aware.
        on_results: called when analyses have ended, so that deliveries may begin.
        sources: asked whether a series is whole.
    """

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        dispatcher: Dispatcher,
        busy_series: Callable[[], Collection[str]],
        clock: Callable[[], datetime],
        on_results: Callable[[], None] = lambda: None,
        sources: Sources | None = None,
    ) -> None:
        self._rules = config.completion
        self._longest_pause = timedelta(seconds=config.delivery.backoff_cap_s)
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._busy_series = busy_series
        self._clock = clock
        self._on_results = on_results
        self._sources = sources or NoSources()
        self._judged: dict[str, _Judged] = {}  # by series
        self._hears_since = clock()
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="coordinator")

    @property
    def thread(self) -> threading.Thread:
        """For whoever looks after the threads of the node."""
        return self._thread

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the look that is going on."""
        self._stopped.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Look now. From any thread."""
        self._woken.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._woken.clear()
            self._woken.wait(self._look())

    def _look(self) -> float | None:
        """One sweep; seconds until the next, None until woken."""
        now = self._clock()
        try:
            due = self.sweep(now)
        except NodeError as error:  # a fault of the database; anything else is one of ours and ends the thread
            LOGGER.error("series and jobs wait %g s: %s", TRY_AGAIN_S, error)
            return TRY_AGAIN_S
        return None if due is None else max(0.0, (due - now).total_seconds())

    def sweep(self, now: datetime) -> datetime | None:
        """Decide what can be decided. Returns when there may be more to decide, None where only events bring it.

        Raises:
            TransientError, PermanentError: of the database; the next sweep does what this one did not.
        """
        busy = frozenset(self._busy_series())
        dues = [*self._complete(busy, now), *self._select(busy, now)]
        if self._dispatcher.pump():
            self._on_results()
        return min(dues, default=None)

    def _complete(self, busy: Collection[str], now: datetime) -> Iterator[datetime]:
        """Judge each series that is quiet; yields when to look at the others."""
        if self._ledger.follow_clock(now, self._longest_pause):
            LOGGER.warning("the clock was put back: what was to be looked at later is looked at from now on")
            self._judged.clear()
        self._hears_since = min(self._hears_since, now)  # the clock was put back
        receiving = self._heard(self._ledger.receiving())
        self._judged = {r.series_uid: self._judged[r.series_uid] for r in receiving if r.series_uid in self._judged}
        self._sources.forget_others([series.series_uid for series in receiving])
        for series in receiving:
            wait = completion.quiet(series, series.series_uid in busy, now, self._rules)
            if wait is None:
                wait = self._judge(series, now)
            if wait is not None:
                yield wait.until

    def _heard(self, seen: Sequence[SeriesRecord]) -> list[SeriesRecord]:
        """As if their last instance had come with the start at the earliest: before that nobody could send one."""
        since = self._hears_since
        return [replace(series, last_instance_at=max(series.last_instance_at, since)) for series in seen]

    def _judge(self, series: SeriesRecord, now: datetime) -> Wait | None:
        before = self._judged.get(series.series_uid)
        if before is not None and before.version == series.version and now < before.wait.until:
            if not self._sources.has_source(series):
                return before.wait
            if before.statement is not None and self._sources.statement(series, now) is before.statement:
                return before.wait
        instances = self._ledger.current_instances(series.series_uid)
        statement = None
        if not completion.unfit(instances) and self._sources.has_source(series):
            statement = self._sources.statement(series, now)
            if statement is None:
                return Wait(now + completion.RELEASE_PAUSE)
        decision = completion.judge(series, instances, now, self._rules, statement)
        if isinstance(decision, Wait):
            self._ledger.remark(series, decision.reason, now)
            self._judged[series.series_uid] = _Judged(series.version, statement, decision)
            return decision
        written = self._ledger.settle(
            series, decision.state, decision.reason, now, completeness=decision.completeness
        )
        if not written:
            return Wait(now)
        LOGGER.info("series %s: %s %s", series.series_uid, decision.state, decision.reason or decision.completeness)
        return None

    def _select(self, busy: Collection[str], now: datetime) -> Iterator[datetime]:
        """Choose in each study that is quiet; yields when to look at the others."""
        for study_uid in self._ledger.complete_studies():
            seen = self._ledger.list_series(study_uid=study_uid, limit=None)
            if not any(series.state is SeriesState.COMPLETE for series in seen):
                continue  # it was reopened or left the study since
            quiet_s = max(self._rules.study_quiet_s, self._rules.series_quiet_s)
            due = max(series.last_instance_at for series in self._heard(seen)) + timedelta(seconds=quiet_s)
            if any(series.series_uid in busy for series in seen):
                due = max(due, now + completion.RELEASE_PAUSE)
            if now < due:
                yield due
            elif not self._choose(seen, now):
                yield now

    def _choose(self, seen: list[SeriesRecord], now: datetime) -> bool:
        """False where one of them changed meanwhile."""
        kept = [
            (series, self._ledger.current_instances(series.series_uid))
            for series in seen
            if series.candidate and series.state in selection.LOSING
        ]
        kept = [(series, instances) for series, instances in kept if not _is_lost(series, instances)]
        if not all(completion.slices(instances) for _, instances in kept):
            return False  # all of them were corrected into another series since
        candidates = [selection.candidate(*pair) for pair in kept]
        choice = selection.choose(candidates, seen)
        if choice.chosen is not None and choice.chosen.state not in CHOSEN:  # it will be analysed
            study = {series.series_uid: self._ledger.current_instances(series.series_uid) for series in seen}
            choice = replace(choice, unanalysed=unanalysed.told(choice, candidates, study, self._rules))
        if not self._ledger.select(choice, now):
            return False
        if choice.chosen is not None:
            LOGGER.info("study %s: series %s, %s", choice.chosen.study_uid, choice.chosen.series_uid, choice.why)
        return True


def _is_lost(series: SeriesRecord, instances: Collection[InstanceRecord]) -> bool:
    """Whether it could not be analysed if it were chosen: files were purged while another one of its study was."""
    return series.state is SeriesState.NOT_ANALYSED and any(instance.purged for instance in instances)
