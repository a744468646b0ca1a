"""Which files go when, and a watch over the disk. The order of removal is the ledger's (`ledger_retention`).

Where the disk runs low, sources go before their time, oldest first, so that reception need not stop; where nothing
more may go the reserve is reached, and the receiver accepts nothing until there is room again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config import Config
from dicom_node.errors import NodeError
from dicom_node.ledger import Ages, Ledger, Purgeable
from dicom_node.spool import Spool, free_bytes
from dicom_node.syslog import FOLDER, files_before

LOGGER = logging.getLogger(__name__)
CHECK_S = 10.0  # how often the disk is looked at
PURGE_EVERY = timedelta(minutes=10)  # files are looked for whose time has come
BATCH = 50  # series at a time: a stop waits for no more
FOR_EVER = 36_500.0  # days: what is longer would lead to before the year 1, where no date is
MOST_STUCK = 3  # series whose files cannot be removed, from which on no more is given up early
GRACE = timedelta(minutes=10)  # files that came again are put away by then, whatever [retention] says
HEADROOM = 1.25  # of the reserve: below this sources go before their time

LOW_DISK = "nothing is received or analysed until there is room; see `dicomnode purge`"


@dataclass(frozen=True)
class Disk:
    """Free space beside the reserve that reception keeps, bytes."""

    free_bytes: int
    reserve_bytes: int

    @property
    def low(self) -> bool:
        """Nothing is received."""
        return self.free_bytes < self.reserve_bytes

    @property
    def short(self) -> bool:
        """Soon nothing will be."""
        return self.free_bytes < HEADROOM * self.reserve_bytes

    @classmethod
    def of(cls, config: Config) -> Disk:
        """That of the state folder, at present."""
        return cls(free_bytes(config.node.state_dir), config.reception.min_free_disk_mb << 20)

    def __str__(self) -> str:
        return f"{self.free_bytes >> 20} MB free, reserve {self.reserve_bytes >> 20} MB"


class Retention:
    """Removes what may go.

    Args:
        config: `retention` and what says where the disk is.
        ledger: knows what may go.
        spool: removes files.
        disk: the disk at present.
    """

    def __init__(
        self, config: Config, ledger: Ledger, spool: Spool, disk: Callable[[Config], Disk] = Disk.of
    ) -> None:
        self._rules = config.retention
        self._audit = config.node.state_dir / FOLDER
        self._ledger = ledger
        self._spool = spool
        self._disk = partial(disk, config)

    def due(self, now: datetime) -> list[Purgeable]:
        """What `purge` would remove, oldest first."""
        return [item for item in self._ledger.purgeable(self._ages(now)) if item.sources or item.results]

    def purge(self, now: datetime, limit: int | None = None) -> list[Purgeable]:
        """Remove what is due, of so many series at most, and what an earlier run was interrupted at.

        Raises:
            NodeError: of the database; OSError: of the disk. What was not removed is with the next call.
        """
        self._remove(now)
        done = self._purge(self._ages(now), now, limit)
        failures = self._remove(now)
        if failures:
            raise failures[-1]
        return done

    def audit_due(self, now: datetime) -> list[Path]:
        """Files of the audit trail that `purge_audit` would remove, oldest first; none where there is no time."""
        if self._rules.audit_days is None:
            return []
        return files_before(self._audit, now.astimezone().date() - timedelta(days=self._rules.audit_days))

    def purge_audit(self, now: datetime) -> list[Path]:
        """Remove files of the audit trail whose time is over.

        Raises:
            OSError: one cannot be removed; it and those that follow are with the next call.
        """
        gone: list[Path] = []
        try:
            for path in self.audit_due(now):
                path.unlink(missing_ok=True)
                gone.append(path)
        finally:
            if gone:
                text = f"purged by retention: {len(gone)} files of the audit trail, up to {gone[-1].stem}"
                LOGGER.info(text)
                self._ledger.note(text, now)
        return gone

    def purge_early(self, now: datetime) -> list[Purgeable]:
        """While the disk is short: sources before their time, oldest first, until it is not.

        Not one after the other for nothing: it ends with a series whose files cannot be removed, and does not begin
        where there are several such. A few must not keep all others.
        """
        done: list[Purgeable] = []
        stuck = len(self._remove(now))
        ages = Ages(now - GRACE, self._ages(now).results_before)
        while self._rules.early_when_low and stuck < MOST_STUCK and self._disk().short and len(done) < BATCH:
            purged = self._purge(ages, now, limit=1)
            done += purged
            before, stuck = stuck, len(self._remove(now))
            if not purged or stuck > before:
                break
        return done

    def _purge(self, ages: Ages, now: datetime, limit: int | None) -> list[Purgeable]:
        done = []
        for item in self._ledger.purgeable(ages, limit):
            marked = self._ledger.mark_purged(item.series_uid, ages, now)
            if marked is not None:
                self._remove(now)
                done.append(marked)
        return done

    def _remove(self, now: datetime) -> list[OSError]:
        """Remove what is marked; gives what went wrong with each series that stays marked for the next call."""
        failures = self._ledger.remove_marked(self._spool.remove, now)
        if failures:
            LOGGER.error("files of %d series that are due cannot be removed: %s", len(failures), failures[-1])
        return failures

    def _ages(self, now: datetime) -> Ages:
        kept_days = (self._rules.source_days, self._rules.result_days)
        sources, results = (timedelta(days=min(days, FOR_EVER)) for days in kept_days)
        return Ages(now - max(sources, GRACE), now - max(results, GRACE))


class RetentionService:
    """The thread that purges by itself and says when the disk is low, and when it is not any more."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        spool: Spool,
        clock: Callable[[], datetime],
        disk: Callable[[Config], Disk] = Disk.of,
    ) -> None:
        self._automatic = config.retention.automatic
        self._retention = Retention(config, ledger, spool, disk)
        self._ledger = ledger
        self._clock = clock
        self._disk = partial(disk, config)
        self._low = False
        self._next_purge: datetime | None = None
        self._stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, name="retention")

    def start(self) -> None:
        """Begin to look."""
        self.thread.start()

    def stop(self) -> None:
        """End after the series that is being purged."""
        self._stopping.set()
        if self.thread.is_alive():
            self.thread.join()

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            try:
                pause_s = 0.0 if self.look() else CHECK_S
            except (NodeError, SQLAlchemyError, OSError) as error:  # the next look does what this one did not
                LOGGER.error("retention waits %g s: %s", CHECK_S, error)
                pause_s = CHECK_S

    def look(self) -> bool:
        """Purge what is due, make room where it is short, tell of a change. True: there may be more to do at once.

        Raises:
            NodeError: of the database; OSError: of the disk.
        """
        now = self._clock()
        more = self._automatic and self._purge(now)
        disk = self._disk()
        if disk.low is not self._low:
            self._tell_of(disk, now)
            self._low = disk.low
        return more

    def _purge(self, now: datetime) -> bool:
        """True where a full batch went: there may be more."""
        due: list[Purgeable] = []
        # Also where the clock was put back: what is too far ahead is not waited for.
        if self._next_purge is None or not timedelta() < self._next_purge - now <= PURGE_EVERY:
            with suppress(OSError):  # said already; room is made all the same where the disk is short
                due = self._retention.purge(now, BATCH)
            _tell(due, "")
            self._purge_audit(now)
            self._next_purge = now if len(due) == BATCH else now + PURGE_EVERY
        early = self._retention.purge_early(now)
        _tell(early, ", before their time because the disk is short")
        return BATCH in (len(due), len(early))

    def _purge_audit(self, now: datetime) -> None:
        try:
            self._retention.purge_audit(now)
        except OSError as error:
            LOGGER.error("files of the audit trail that are due cannot be removed: %s", error)

    def _tell_of(self, disk: Disk, now: datetime) -> None:
        if disk.low:
            text = f"the disk is low ({disk}): {LOW_DISK}"
            LOGGER.error("%s", text)
        else:
            text = f"there is room on the disk again ({disk}): reception and analysis go on"
            LOGGER.warning("%s", text)
        self._ledger.note(text, now)


def _tell(purged: list[Purgeable], why: str) -> None:
    if purged:
        files, size_bytes = sum(item.sources for item in purged), sum(item.source_bytes for item in purged)
        LOGGER.info(
            "purged %d received files (%d MB) and %d result objects of %d series%s",
            files,
            size_bytes >> 20,
            sum(item.results for item in purged),
            len(purged),
            why,
        )
