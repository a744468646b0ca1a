"""Results go out: one thread per destination, so that a dead one never delays another."""

from __future__ import annotations

import logging
import threading
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from dicom_node import postbox
from dicom_node.carrier import carrier
from dicom_node.commitment import CommitmentReport
from dicom_node.config import Config
from dicom_node.courier import Courier, Pace
from dicom_node.errors import NodeError
from dicom_node.ledger import Ledger
from dicom_node.spool import Spool

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 3600.0  # a thread looks at least so often, whatever the clock has done meanwhile
SHORTEST_WAIT_S = 1.0  # unless woken it never looks again sooner, should something due turn out to be held back
STOP_TIMEOUT_S = 10.0


class DeliveryService:
    """A courier and a thread for each destination."""

    def __init__(self, config: Config, ledger: Ledger, spool: Spool, pace: Pace | None = None) -> None:
        self._ledger = ledger
        self._pace = pace or Pace.of(config)
        self._couriers = {
            destination.name: Courier(
                destination, carrier(destination, config.node.ae_title), ledger, spool, self._pace
            )
            for destination in config.destinations
        }
        self._stopping = threading.Event()
        self._wakers = {name: threading.Event() for name in self._couriers}
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin with what is due; everything SENT is asked about again."""
        abandoned = self._ledger.abandon_unknown(list(self._couriers), self._pace.clock())
        if abandoned:
            log.error("%d deliveries are for destinations that config.toml does not have any more", abandoned)
        self._threads = [
            threading.Thread(target=self._run, args=(name,), name=f"delivery to {name}", daemon=True)
            for name in self._couriers
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin nothing new and wait a while for what is on its way; the rest is found in the ledger."""
        self._stopping.set()
        self.wake()
        for courier in self._couriers.values():
            courier.interrupt()
        for thread in self._threads:
            thread.join(STOP_TIMEOUT_S)

    def wake(self) -> None:
        """There is something new to deliver."""
        for waker in self._wakers.values():
            waker.set()

    def dead_threads(self) -> list[str]:
        """Names of threads that ended although nobody stopped them."""
        return [thread.name for thread in self._threads if not thread.is_alive()]

    def on_event_report(self, report: CommitmentReport) -> None:
        """A commitment report that came to the receiver; persisted when this returns.

        Raises:
            NodeError, SQLAlchemyError: it could not be persisted, the peer should be told so.
        """
        deliveries = self._ledger.deliveries_of_transaction(report.transaction_uid)
        if not deliveries and postbox.leave(self._ledger, report, self._pace.clock()):
            return
        if not deliveries:
            log.warning("a commitment report for the unknown transaction %s is ignored", report.transaction_uid)
            # `dicomnode doctor` asks peers for reports, and looks for this
            text = f"a commitment report came for transaction {report.transaction_uid}, which nothing waits for"
            self._ledger.note(text, self._pace.clock(), subject="delivery")
            return
        for name, courier in self._couriers.items():
            mine = [delivery for delivery in deliveries if delivery.destination == name]
            if mine:
                courier.take_report(report, mine)
                self._wakers[name].set()

    def _run(self, name: str) -> None:
        """Body of a thread: deliver, then sleep until woken or until something is due."""
        waker = self._wakers[name]
        failures = 0
        while not self._stopping.is_set():
            waker.clear()
            try:
                wait_s = self._until(self._couriers[name].run_once())
                failures = 0
            except (NodeError, SQLAlchemyError):
                failures += 1
                wait_s = self._pace.retry.pause_s(failures, self._pace.chance())
                log.exception("delivery to %s is interrupted, next attempt in %.0f s", name, wait_s)
            waker.wait(wait_s)

    def _until(self, due: datetime | None) -> float:
        """Seconds to sleep."""
        if due is None:
            return LONGEST_WAIT_S
        return min(max((due - self._pace.clock()).total_seconds(), SHORTEST_WAIT_S), LONGEST_WAIT_S)
