"""Asks one source how many instances it has of a series, and which of them have not come.

Nothing here is needed after a restart: the source is asked again. A source that does not answer holds up nobody:
after a failure it counts as away for a while, and until then every question is answered with that at once.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from dicom_node import query
from dicom_node.config import Source
from dicom_node.errors import PermanentError, TransientError
from dicom_node.ledger import Ledger, SeriesRecord, Wanted
from dicom_node.retrieve import SERVICES
from dicom_node.retry import Pause, RetryPolicy
from dicom_node.statement import Missing, Statement
from dicom_node.states import RetrievalState
from dicom_node.supported import KEPT_SOP_CLASSES

LOGGER = logging.getLogger(__name__)
ANSWERS = 4  # answers of the source that one question may need: connection, series, instances, release


def policy(source: Source) -> RetryPolicy:
    """When a source is tried again."""
    return RetryPolicy(source.backoff_s, source.backoff_cap_s, source.give_up_after_h * 3600)


@dataclass(frozen=True)
class _Said:
    """A statement about one version of a series: from when on, and how often that version was asked about."""

    at: datetime
    version: int
    statement: Statement
    asked: int


class Inquirer:
    """Questions about series to one source, and what it said.

    Args:
        source: who is asked.
        calling_ae: our AE title.
        ledger: what is here.
        clock: the present, time zone aware.
        on_answer: called when something new is known.
        on_wanted: called when a retrieval was written down.
    """

    def __init__(
        self,
        source: Source,
        calling_ae: str,
        ledger: Ledger,
        clock: Callable[[], datetime],
        on_answer: Callable[[], None] = lambda: None,
        on_wanted: Callable[[], None] = lambda: None,
    ) -> None:
        self.source = source
        self._calling_ae = calling_ae
        self._ledger = ledger
        self._clock = clock
        self._on_answer = on_answer
        self._on_wanted = on_wanted
        self._policy = policy(source)
        self._patience_s = ANSWERS * source.timeout_s
        self._lock = threading.Lock()
        self._open: dict[str, tuple[SeriesRecord, datetime]] = {}  # questions, and since when
        self._said: dict[str, _Said] = {}
        self._failures = 0
        self._away: Pause | None = None
        self._away_because = ""

    def statement(self, series: SeriesRecord, now: datetime) -> Statement | None:
        """What the source says about this version of a series; None while it has not answered yet.

        Returns at once. Where nothing is known, or it may have changed since, the question is put.
        """
        uid = series.series_uid
        with self._lock:
            said = self._said.get(uid)
            statement = said.statement if said is not None and said.version == series.version else None
            if said is not None and statement is not None and Pause(said.at, statement.again_at).lasts(now):
                return statement
            _, since = self._open.setdefault(uid, (series, now))
            if statement is None and not Pause.of(since, self._patience_s).lasts(now):
                return self._unknown(now, f"it did not answer within {self._patience_s:g} s")
            return statement

    def has_questions(self) -> bool:
        """Whether `run_once` has something to do."""
        with self._lock:
            return bool(self._open)

    def changed(self, series_uid: str) -> None:
        """A retrieval of it has ended or was postponed: what was said is to be asked again."""
        with self._lock:
            self._said.pop(series_uid, None)

    def forget_others(self, series_uids: Collection[str]) -> None:
        """Of all other series nobody will ask again soon."""
        with self._lock:
            for kept in (self._said, self._open):
                for uid in kept.keys() - set(series_uids):
                    del kept[uid]

    def run_once(self) -> None:
        """Put every question.

        Raises:
            NodeError: of the ledger; the question stays.
        """
        while (series := self._next()) is not None:
            statement = self._ask(series)
            uid = series.series_uid
            with self._lock:
                before = self._said.get(uid)
                asked = 1 + (before.asked if before is not None and before.version == series.version else 0)
                self._said[uid] = _Said(self._clock(), series.version, statement, asked)
                self._open.pop(uid, None)
            self._on_answer()

    def _next(self) -> SeriesRecord | None:
        with self._lock:
            return next((series for series, _ in self._open.values()), None)

    def _ask(self, series: SeriesRecord) -> Statement:
        if self._away is not None and self._away.lasts(self._clock()):
            return self._unknown(self._away.until, self._away_because)
        current = self._ledger.current_instances(series.series_uid)
        here = {record.sop_instance_uid for record in current if not record.purged}
        try:
            number = self._number(series)
            images = None if number == len(here) else self._images(series)
        except (TransientError, PermanentError) as error:
            return self._is_away(error)
        self._failures = 0
        if images is None:
            return self._answer(series, len(here), len(here), [], by_number=True)
        kept = present(self._ledger, [missing.sop_instance_uid for missing in images])
        lacking = [missing for missing in images if missing.sop_instance_uid not in kept]
        return self._answer(series, len(here), len(images), lacking, by_number=False)

    def _number(self, series: SeriesRecord) -> int | None:
        """NumberOfSeriesRelatedInstances; None where the source does not give it, or lists the series in parts."""
        keys = {"StudyInstanceUID": series.study_uid, "SeriesInstanceUID": series.series_uid}
        matches = query.find_series(self.source, keys, self._calling_ae)
        return query.number(matches[0], "NumberOfSeriesRelatedInstances") if len(matches) == 1 else None

    def _images(self, series: SeriesRecord) -> list[Missing]:
        return listed_instances(
            query.find_images(self.source, series.study_uid, series.series_uid, self._calling_ae)
        )

    def _answer(
        self, series: SeriesRecord, received: int, listed: int, lacking: Sequence[Missing], by_number: bool
    ) -> Statement:
        pending, remark = self._want(series, lacking) if lacking else (False, "")
        retrievals = self._ledger.retrievals_of(series.series_uid)
        return Statement(
            source=self.source.name,
            again_at=self._again_at(series),
            received=received,
            listed=listed,
            missing=tuple(lacking),
            pending=pending,
            fetched=sum(item.fetched for item in retrievals if item.source == self.source.name),
            service=SERVICES[self.source.retrieve],
            remark=remark,
            by_number=by_number,
        )

    def _want(self, series: SeriesRecord, lacking: Sequence[Missing]) -> tuple[bool, str]:
        """Have what is lacking fetched, once for each change of the series. Whether it is pending, or why not."""
        last = max(self._ledger.retrievals_of(series.series_uid), key=lambda item: item.id, default=None)
        if last is not None and last.state is RetrievalState.WAITING and last.attempts:
            return False, last.reason
        failed_since = last is not None and last.finished_at is not None and last.finished_at >= series.changed_at
        if last is not None and last.state is RetrievalState.FAILED and failed_since:
            return False, f"they could not be fetched: {last.reason}"
        if last is None or last.state is not RetrievalState.WAITING:
            why = f"{len(lacking)} instances were missing after the quiet time"
            wanted = [Wanted(series.study_uid, series.series_uid)]
            self._ledger.request_retrievals(self.source.name, wanted, why, self._clock())
            self._on_wanted()
        return True, ""

    def _again_at(self, series: SeriesRecord) -> datetime:
        """Later each time: what a person corrects in the archive, or what still comes there, is seen then."""
        with self._lock:
            said = self._said.get(series.series_uid)
            asked = said.asked if said is not None and said.version == series.version else 0
        return self._clock() + timedelta(seconds=self._policy.pause_s(asked + 1, random.random()))  # noqa: S311

    def _is_away(self, error: Exception) -> Statement:
        self._failures += 1
        pause_s = self._policy.pause_s(self._failures, random.random())  # noqa: S311
        self._away = Pause.of(self._clock(), pause_s)
        self._away_because = str(error)
        LOGGER.warning("%s is not asked for %.0f s: %s", self.source.name, pause_s, error)
        return self._unknown(self._away.until, self._away_because)

    def _unknown(self, again_at: datetime, remark: str) -> Statement:
        return Statement(self.source.name, again_at, remark=remark, service=SERVICES[self.source.retrieve])


def present(ledger: Ledger, sop_instance_uids: Collection[str]) -> set[str]:
    """Which of these instances are here; those that were purged are not."""
    kept = ledger.kept_instances(sop_instance_uids)
    return {uid for uid, versions in kept.items() if not all(version.purged for version in versions)}


def listed_instances(matches: Sequence[Dataset]) -> list[Missing]:
    """Of the answers to a query at IMAGE level those that the receiver takes; all where no SOP class is told."""
    kept = [match for match in matches if query.text(match, "SOPClassUID") in ("", *KEPT_SOP_CLASSES)]
    unique = {query.text(match, "SOPInstanceUID"): query.number(match, "InstanceNumber") for match in kept}
    return [Missing(uid, number) for uid, number in unique.items()]
