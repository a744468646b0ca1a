"""The ledger's room for deliveries: one row per object and destination, from PENDING to COMMITTED."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import case, exists, func, select
from sqlalchemy.orm import aliased

from dicom_node.errors import IllegalTransition
from dicom_node.ledger_records import Delivery
from dicom_node.ledger_rows import delivery_query, delivery_record
from dicom_node.ledger_writer import LedgerRoom, Writer
from dicom_node.states import DeliveryState, SeriesState
from dicom_node.tables import DeliveryRow, ResultRow
from pipeline.types import ResultKind

RANK = case({kind: rank for rank, kind in enumerate(ResultKind)}, value=ResultRow.kind)
IN_ORDER = (ResultRow.job_id, RANK, DeliveryRow.id)  # of sending: the SR names the others of its set and comes last


class DeliveryRoom(LedgerRoom):
    """The outbox."""

    def due_deliveries(self, destination: str, now: datetime, limit: int = 100) -> list[Delivery]:
        """PENDING and due, oldest result set first, in the order of `ResultKind` within a set: the SR comes last.

        SR and rejection note are not due while another object of their set waits for a later attempt there.
        """
        sibling, sibling_result = aliased(DeliveryRow), aliased(ResultRow)
        held_back = (
            exists()
            .where(sibling.result_id == sibling_result.id)
            .where(sibling_result.job_id == ResultRow.job_id, sibling_result.profile == ResultRow.profile)
            .where(sibling.destination == destination, sibling.state == DeliveryState.PENDING)
            .where(sibling.next_attempt_at > now)
        )
        query = (
            delivery_query()
            .where(DeliveryRow.destination == destination, DeliveryRow.state == DeliveryState.PENDING)
            .where(DeliveryRow.next_attempt_at <= now)
            .where(ResultRow.kind.not_in((ResultKind.SR, ResultKind.REJECTION)) | ~held_back)
            .order_by(*IN_ORDER)
            .limit(limit)
        )
        with self._read() as session:
            return [delivery_record(row) for row in session.execute(query)]

    def next_delivery_at(self, destination: str) -> datetime | None:
        """The earliest `next_attempt_at` of what is PENDING; None when nothing is."""
        query = select(func.min(DeliveryRow.next_attempt_at)).where(
            DeliveryRow.destination == destination, DeliveryRow.state == DeliveryState.PENDING
        )
        with self._read() as session:
            return session.scalar(query)

    def sent_deliveries(self, destination: str, before: datetime) -> list[Delivery]:
        """SENT, and neither sent nor asked about after `before`: there was no answer since."""
        query = (
            delivery_query()
            .where(DeliveryRow.destination == destination, DeliveryRow.state == DeliveryState.SENT)
            .where(func.coalesce(DeliveryRow.asked_at, DeliveryRow.sent_at) <= before)
            .order_by(*IN_ORDER)
        )
        with self._read() as session:
            return [delivery_record(row) for row in session.execute(query)]

    def deliveries_of_transaction(self, transaction_uid: str) -> list[Delivery]:
        """Those whose commitment was asked for under this Transaction UID; empty when unknown."""
        query = delivery_query().where(DeliveryRow.transaction_uid == transaction_uid).order_by(*IN_ORDER)
        with self._read() as session:
            return [delivery_record(row) for row in session.execute(query)]

    def begin_delivery(self, delivery_id: int, now: datetime) -> bool:
        """About to be put on the wire: from now on the peer may have it, whatever happens.

        Returns:
            False where it is not PENDING any more: it must not be sent.
        """
        with self._write(now) as writer:
            row = writer.session.get_one(DeliveryRow, delivery_id)
            if row.state != DeliveryState.PENDING:
                return False
            row.begun_at = now
            return True

    def delivery_sent(self, delivery_id: int, now: datetime, warning: str = "") -> None:
        """The peer answered with success or a warning: SENT. Also one that was cancelled meanwhile: it is there."""
        with self._write(now) as writer:
            row = writer.session.get_one(DeliveryRow, delivery_id)
            writer.move_delivery(row, DeliveryState.SENT, warning)
            row.attempts += 1
            row.begun_at = row.begun_at or now
            row.sent_at, row.asked_at, row.transaction_uid = now, None, None
            row.warning = warning

    def delivery_postponed(self, delivery_id: int, until: datetime, now: datetime, reason: str) -> None:
        """A transient error: PENDING until later, attempt counted. Nothing happens to one cancelled meanwhile."""
        with self._write(now) as writer:
            row = writer.session.get_one(DeliveryRow, delivery_id)
            if row.state != DeliveryState.CANCELLED:
                writer.move_delivery(row, DeliveryState.PENDING, reason)
                row.attempts += 1
                row.next_attempt_at = until

    def remark_deliveries(self, delivery_ids: Collection[int], reason: str, now: datetime) -> None:
        """Say what PENDING deliveries wait for; nothing where they say so already."""
        with self._write(now) as writer:
            query = select(DeliveryRow).where(
                DeliveryRow.id.in_(sorted(delivery_ids)), DeliveryRow.reason != reason
            )
            for row in writer.session.scalars(query.where(DeliveryRow.state == DeliveryState.PENDING)):
                writer.move_delivery(row, DeliveryState.PENDING, reason)

    def delivery_failed(self, delivery_id: int, now: datetime, reason: str) -> None:
        """A permanent error: FAILED, and the series with it when the result is current."""
        with self._write(now) as writer:
            row = writer.session.get_one(DeliveryRow, delivery_id)
            if row.state == DeliveryState.CANCELLED:
                return
            writer.move_delivery(row, DeliveryState.FAILED, reason)
            series = writer.series_of_delivery(row)
            if series.state == SeriesState.ANALYSED and _counts(writer, row):
                writer.move_series(series, SeriesState.FAILED, f"not delivered to {row.destination}: {reason}")

    def abandon_unknown(self, destinations: Collection[str], now: datetime) -> int:
        """What is still to go to a destination that config.toml does not have any more: FAILED. How many."""
        query = (
            select(DeliveryRow.id, DeliveryRow.destination)
            .where(DeliveryRow.state.in_((DeliveryState.PENDING, DeliveryState.SENT)))
            .where(DeliveryRow.destination.not_in(destinations))
        )
        with self._read() as session:
            found = session.execute(query).all()
        for delivery_id, name in found:
            reason = (
                f"config.toml has no destination {name!r} any more: add it again and retry; a retry without it "
                "analyses the series again, for those that there are"
            )
            self.delivery_failed(delivery_id, now, reason)
        return len(found)

    def delivery_committed(self, delivery_id: int, now: datetime) -> None:
        """The PACS has it for good: COMMITTED. The last one of the current results makes the series DELIVERED."""
        with self._write(now) as writer:
            row = writer.session.get_one(DeliveryRow, delivery_id)
            if row.state == DeliveryState.COMMITTED:  # a report that came twice
                return
            writer.move_delivery(row, DeliveryState.COMMITTED, "")
            row.committed_at = now
            series = writer.series_of_delivery(row)
            writer.session.flush()
            rest = {delivery.state for delivery in writer.current_deliveries(series)} - {DeliveryState.COMMITTED}
            undelivered = series.state in (SeriesState.ANALYSED, SeriesState.FAILED)
            if undelivered and _counts(writer, row) and not rest:
                reason = writer.left_behind(series)
                writer.move_series(series, SeriesState.DELIVERED, reason, told="every destination has every object")

    def open_transaction(self, delivery_ids: Collection[int], transaction_uid: str, now: datetime) -> None:
        """Persist the Transaction UID (PS3.4 J.3.2) of SENT deliveries, before the N-ACTION goes out.

        Raises:
            IllegalTransition: one of them is not SENT.
        """
        with self._write(now) as writer:
            rows = writer.session.scalars(select(DeliveryRow).where(DeliveryRow.id.in_(sorted(delivery_ids))))
            for row in rows:
                if row.state != DeliveryState.SENT:
                    raise IllegalTransition(
                        f"delivery {row.id} is {row.state}: commitment is asked for what was sent"
                    )
                row.transaction_uid, row.asked_at = transaction_uid, now

    def resend(self, delivery_id: int, now: datetime, reason: str) -> None:
        """The peer does not have it after all: PENDING, due at once; CANCELLED where it was superseded."""
        with self._write(now) as writer:
            row = writer.session.get_one(DeliveryRow, delivery_id)
            wanted = _counts(writer, row)
            writer.move_delivery(row, DeliveryState.PENDING if wanted else DeliveryState.CANCELLED, reason)
            row.next_attempt_at = now


def _counts(writer: Writer, row: DeliveryRow) -> bool:
    """Whether the object is part of the current results of its series."""
    return writer.session.get_one(ResultRow, row.result_id).current
