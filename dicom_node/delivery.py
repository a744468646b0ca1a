"""Results go out: one thread per destination, so that a dead one never delays another."""

from __future__ import annotations

import logging

from dicom_node import postbox
from dicom_node.carrier import carrier
from dicom_node.commitment import CommitmentReport
from dicom_node.config import Config
from dicom_node.courier import Courier, Pace
from dicom_node.ledger import Ledger
from dicom_node.loop import Loop, not_running, stop_all
from dicom_node.spool import Spool

log = logging.getLogger(__name__)


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
        self._loops = {
            name: Loop(f"delivery to {name}", courier.run_once, self._pace.clock)
            for name, courier in self._couriers.items()
        }

    def start(self) -> None:
        """Begin with what is due; everything SENT is asked about again."""
        abandoned = self._ledger.abandon_unknown(list(self._couriers), self._pace.clock())
        if abandoned:
            log.error("%d deliveries are for destinations that config.toml does not have any more", abandoned)
        for loop in self._loops.values():
            loop.start()

    def stop(self) -> None:
        """Begin nothing new and wait a while for what is on its way; the rest is found in the ledger."""
        for loop in self._loops.values():  # before a courier that waits is sent on: it would begin again
            loop.interrupt()
        for courier in self._couriers.values():
            courier.interrupt()
        stop_all(list(self._loops.values()))

    def wake(self) -> None:
        """There is something new to deliver."""
        for loop in self._loops.values():
            loop.wake()

    def dead_threads(self) -> list[str]:
        """Names of threads that ended although nobody stopped them."""
        return not_running(self._loops.values())

    def on_event_report(self, report: CommitmentReport) -> None:
        """A commitment report that came to the receiver; persisted when this returns.

        Raises:
            NodeError: it could not be persisted, the peer should be told so.
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
                self._loops[name].wake()
