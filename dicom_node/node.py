"""The node put together: which room hears of what. No rules and no queries here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import datetime

from dicom_node.announcements import AnnouncementService
from dicom_node.audit import AuditTrail
from dicom_node.clock import utc_now
from dicom_node.commitment import CommitmentReport
from dicom_node.config import Config
from dicom_node.coordinator import Coordinator
from dicom_node.delivery import DeliveryService
from dicom_node.dispatch import Dispatcher
from dicom_node.errors import NodeError, NotFound
from dicom_node.expected import Expected
from dicom_node.ingest import Ingest
from dicom_node.ledger import Ledger, SeriesDetails
from dicom_node.ledger_database import LedgerFile
from dicom_node.ledger_notices import CRASHED, STARTED, STOPPED
from dicom_node.metrics import Metrics
from dicom_node.notifier import NotificationService
from dicom_node.prior_search import PriorSearch
from dicom_node.receiver import Receiver
from dicom_node.result_file import quarantine
from dicom_node.retention import RetentionService
from dicom_node.sources import SourceService
from dicom_node.spool import Spool
from pipeline.errors import ResultError

log = logging.getLogger(__name__)

NUDGE_S = 5.0  # commands of other processes (retry, cancel, pull) are noticed so soon


class Node:
    """Reception, ledger, analysis and delivery of one config.

    Args:
        config: all of config.toml.
        clock: the present, time zone aware.
        executor: makes the executor of the analyses; None for worker processes of its own.
    """

    def __init__(
        self,
        config: Config,
        clock: Callable[[], datetime] = utc_now,
        executor: Callable[[], Executor] | None = None,
    ) -> None:
        state_dir = config.node.state_dir
        self._clock = clock
        self._audit = AuditTrail.of(config, clock)
        self._spool = Spool(state_dir, config.reception.min_free_disk_mb * 1024 * 1024)
        self._ledger = Ledger(config.database_url)
        file = config.ledger_file
        self._ledger_file = None if file is None else LedgerFile(file)
        self._ingest = Ingest(self._spool, self._ledger, clock, self._on_filed, self.ledger_lost)
        expected = Expected()
        self._receiver = Receiver(
            config,
            self._spool,
            self._ingest.submit,
            self._on_event_report,
            lambda _series: self._wake(),
            expected=expected,
        )
        self._dispatcher = Dispatcher(
            config,
            self._ledger,
            self._spool.archive,
            self._spool.results,
            clock,
            self._wake,
            executor,
            keep=self._keep,
            has_room=self._spool.has_room,
        )
        self._delivery = DeliveryService(config, self._ledger, self._spool)
        self._announcements = AnnouncementService(config, self._ledger, self._spool, clock)
        self._sources = SourceService(
            config, self._ledger, clock, self._receiver.intake.keep, lambda: self._ingest.idle, self._wake
        )
        self._coordinator = Coordinator(
            config,
            self._ledger,
            self._dispatcher,
            self._busy_series,
            clock,
            on_results=self._delivery.wake,
            sources=self._sources,
        )
        self._prior_search = PriorSearch(config, self._ledger, clock, self._coordinator.wake, expected)
        self._retention = RetentionService(config, self._ledger, self._spool, clock)
        self._metrics = Metrics(config, self._ledger, self._receiver, lambda: self._dispatcher.worker_pids, clock)
        self._notifications = NotificationService(config, self._ledger, clock, self._audit.waiting)
        self._nudger = threading.Thread(target=self._nudge, name="nudge", daemon=True)
        self._stopping = threading.Event()
        self._noted = False  # that it has started

    def start(self) -> int:
        """Open the port, then take up what an earlier run left; returns the port.

        Raises:
            NodeError: the port cannot be had, or the database is away; nothing goes on running then.
        """
        try:
            self._audit.start()
            self._metrics.begin()
            self._notifications.begin()
            port = self._receiver.start()
            self._dispatcher.start()
            self._ingest.start()
            self._coordinator.start()
            self._prior_search.start()
            self._delivery.start()
            self._announcements.start()
            self._retention.start()
            self._sources.start()
            self._nudger.start()
            crashed = self._ledger.note_start(f"{STARTED}, port {port}", self._clock())
            self._noted = True
            if crashed:
                log.error("the last run of the node ended without being stopped: it was killed, or it crashed")
            self._notifications.start()
        except BaseException:
            self.stop()
            raise
        return port

    def stop(self) -> None:
        """Refuse new associations, file what was received, return running analyses to the queue."""
        self._stopping.set()
        self._notifications.stop()
        self._receiver.stop()
        self._sources.stop()
        self._ingest.stop()
        self._coordinator.stop()
        self._prior_search.stop()
        self._retention.stop()
        try:
            self._dispatcher.stop()
            if self._noted:  # a start that failed is no start, and what came before it may have been a crash
                self._ledger.note(STOPPED, self._clock())
        except NodeError as error:
            log.error("the database is away; interrupted analyses are found at the next start: %s", error)
        self._delivery.stop()
        self._announcements.stop()
        self._audit.stop()
        self._ledger.close()

    def details(self, series_uid: str) -> SeriesDetails | None:
        """What is known about a series; None where nothing is yet."""
        try:
            return self._ledger.details(series_uid)
        except NotFound:
            return None

    def dead_threads(self) -> list[str]:
        """Names of threads that ended although nobody stopped them."""
        threads = [self._ingest.thread, self._coordinator.thread, self._retention.thread, self._nudger]
        threads += [*self._dispatcher.threads, *self._prior_search.threads, *self._audit.threads]
        dead = [thread.name for thread in threads if not thread.is_alive()]
        dead += [*self._delivery.dead_threads(), *self._announcements.dead_threads(), *self._sources.dead_threads()]
        return dead

    def ledger_lost(self) -> str:
        """Why the ledger that is open is not the one that the next start would find; empty where it is."""
        return "" if self._ledger_file is None else self._ledger_file.lost()

    def database_fault(self) -> str:
        """As `health.Watched`."""
        self._ledger.ping()
        return self.ledger_lost()

    def disk_fault(self) -> str:
        """As `health.Watched`."""
        return self._spool.shortage()

    def listener_fault(self) -> str:
        """As `health.Watched`."""
        return "" if self._receiver.is_listening else "a port for DICOM is closed"

    def worker_fault(self) -> str:
        """As `health.Watched`."""
        return self._dispatcher.fault

    def exposition(self) -> bytes:
        """As `web.metrics.Measured`."""
        return self._metrics.exposition()

    def give_up(self, reason: str) -> None:
        """Say why the node ends by itself, so that the next start tells of it as of a crash."""
        try:
            self._ledger.note(reason, self._clock(), subject=CRASHED)
        except NodeError as error:
            log.error("the database is away too: %s", error)

    def note(self, text: str) -> None:
        """Leave an event about the node itself."""
        self._ledger.note(text, self._clock())

    def _keep(self, error: ResultError) -> str:
        """Set a result object aside that failed its checks; the reason for its series."""
        if error.rejected is None:
            return str(error)
        return quarantine(error.rejected, error.rejected.stem, str(error), self._spool)

    def _busy_series(self) -> frozenset[str]:
        """Series of which more may come: open associations, and all of them while files wait to be recorded."""
        active = self._receiver.active_series()
        if self._ingest.idle:
            return active
        return active | {series.series_uid for series in self._ledger.receiving()}

    def _on_filed(self) -> None:
        self._sources.on_filed()
        self._wake()

    def _wake(self) -> None:
        self._coordinator.wake()

    def _on_event_report(self, report: CommitmentReport) -> None:
        self._delivery.on_event_report(report)
        self._wake()

    def _nudge(self) -> None:
        while not self._stopping.wait(NUDGE_S):
            self._coordinator.wake()
            self._prior_search.wake()
            self._delivery.wake()
            self._sources.wake()
