"""How things stand, for notifications: each kind as counts and sentences that name no patient, unless asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

from dicom_node import certificates
from dicom_node.alarms import Found, Notice
from dicom_node.audit import Waiting
from dicom_node.config import Config
from dicom_node.config_notify import Channel
from dicom_node.failure_classes import classify
from dicom_node.ledger import Ledger
from dicom_node.ledger_metrics import Change
from dicom_node.pacing import Window
from dicom_node.retention import Disk
from dicom_node.spool import REASON_SUFFIX
from dicom_node.states import DeliveryState, JobState, SeriesState
from pipeline.codes import SEVERITY_CLASSES
from pipeline.types import severity_class

AT_ONCE = 5000
MOST_LINES = 20
A_DAY = timedelta(days=1)
CLASSES = tuple(SEVERITY_CLASSES)  # in rising order


class Lookout:
    """Looks for one channel.

    Args:
        config: all of config.toml.
        channel: whose thresholds count.
        ledger: what has happened.
        audit: audit messages that wait.
        disk: the disk at present.
    """

    def __init__(
        self,
        config: Config,
        channel: Channel,
        ledger: Ledger,
        audit: Callable[[], Sequence[Waiting]] = lambda: (),
        disk: Callable[[Config], Disk] = Disk.of,
    ) -> None:
        self._config = config
        self._channel = channel
        self._ledger = ledger
        self._audit = audit
        self._disk = disk

    def look(self, notice: Notice, now: datetime) -> Found:
        """How the kind of a notice stands. Raises NodeError of the database, OSError of the disk."""
        looks: dict[str, Callable[[Notice, datetime], Found]] = {
            "failures": self._failures,
            "backlog": self._backlog,
            "disk": self._disk_room,
            "certificates": self._certificates,
            "crash": self._crashes,
            "clinical": self._clinical,
        }
        return looks[notice.kind](notice, now)

    def _failures(self, notice: Notice, now: datetime) -> Found:
        changes = list(self._changes(notice.mark))
        classes = Counter(
            (change.subject, name)
            for change in changes
            if change.state == "failed" and (name := classify(change.subject, change.state, change.reason))
        )
        failed = self._ledger.counts()[SeriesState.FAILED]
        set_aside = sum(1 for _ in (self._config.node.state_dir / "quarantine").glob(f"*{REASON_SUFFIX}"))
        lines = [f"{number} {_PLURALS[subject]} failed: {name}" for (subject, name), number in classes.items()]
        lines += [f"{failed} series are in state FAILED"] if failed else []
        lines += [f"{set_aside} files lie in quarantine"] if set_aside else []
        return Found(failed + set_aside, sum(classes.values()), tuple(lines[:MOST_LINES]), _last(changes, notice))

    def _backlog(self, notice: Notice, now: datetime) -> Found:
        limit = timedelta(hours=self._channel.backlog_h)
        lines = []
        for state, at in self._ledger.oldest_waiting().items():
            if state in (SeriesState.COMPLETE, SeriesState.QUEUED) and now - at >= limit:
                number = self._ledger.counts()[state]
                lines.append(f"{number} series are in state {state.upper()}, the oldest since {_since(now - at)}")
        opening = {destination.name: destination.opening for destination in self._config.destinations}
        for name, unsent in self._ledger.unsent(list(opening)).items():
            allowed = limit if opening[name] is None else limit + _closed(opening[name])
            if unsent.oldest_at is not None and now - unsent.oldest_at >= allowed:
                number = unsent.counts[DeliveryState.PENDING] + unsent.counts[DeliveryState.SENT]
                lines.append(f"{number} objects wait for {name}, the oldest since {_since(now - unsent.oldest_at)}")
        for waiting in self._audit():
            if now - waiting.since >= limit:
                idle = _since(now - waiting.since)
                lines.append(f"{waiting.count} audit messages wait for {waiting.sink}, none taken since {idle}")
        # how much of it there is grows by itself, and is no news; another place where it waits is
        return Found(len(lines), 0, tuple(lines[:MOST_LINES]), notice.mark)

    def _disk_room(self, notice: Notice, now: datetime) -> Found:
        disk = self._disk(self._config)
        # Low is more than short: the second message, that nothing is received any more, has a number of its own.
        text = f"{disk}: nothing is received" if disk.low else f"{disk}: soon nothing will be received"
        return Found(disk.short + disk.low, 0, (text,) if disk.short else (), notice.mark)

    def _certificates(self, notice: Notice, now: datetime) -> Found:
        lines = tuple(certificates.expiring(self._config, now))
        lines += tuple(f"{certificates.KEEPS_OLD}: {fault}" for fault in certificates.not_in_use(self._config))
        return Found(len(lines), 0, lines[:MOST_LINES], notice.mark)

    def _crashes(self, notice: Notice, now: datetime) -> Found:
        number = self._ledger.count_crashes(notice.mark)
        text = f"{number} times since the last message" if number > 1 else "it was killed, or it ended by itself"
        return Found(0, number, (text,), self._ledger.last_event())

    def _clinical(self, notice: Notice, now: datetime) -> Found:
        changes = list(self._changes(notice.mark))
        lines = []
        for change in changes:
            if (change.subject, change.state) == ("job", JobState.DONE) and change.subject_id is not None:
                lines += self._risen(change.subject_id)
        return Found(0, len(lines), tuple(lines[:MOST_LINES]), _last(changes, notice))

    def _risen(self, job_id: int) -> list[str]:
        course = self._ledger.course(job_id)
        if course is None:
            return []
        before, after = (severity_class(score) for score in (course.before, course.severity))
        if CLASSES.index(after) - CLASSES.index(before) < self._channel.rise:
            return []
        whose = f" (accession number {course.accession_number})" if self._channel.identify else ""
        return [f"one study: from {before} to {after} of the lungs{whose}"]

    def _changes(self, mark: int) -> Iterator[Change]:
        while changes := self._ledger.changes_after(mark, AT_ONCE):
            yield from changes
            mark = changes[-1].id


_PLURALS = {
    "job": "analyses",
    "delivery": "deliveries",
    "retrieval": "retrievals",
    "announced": "notices of studies without a result",
    "series": "series",
}


def _last(changes: list[Change], notice: Notice) -> int:
    return changes[-1].id if changes else notice.mark


def _closed(window: Window | None) -> timedelta:
    """How long a destination with a window may have to wait for it."""
    return timedelta() if window is None else A_DAY


def _since(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return f"{hours:.0f} hours" if hours >= 2 else f"{60 * hours:.0f} minutes"
