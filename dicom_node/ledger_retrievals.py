"""The ledger's room for retrievals: which series are to be brought from which source, and what came of it.

Also the way in which a command of another process has the node fetch something: it writes a row, and waits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import func, select

from dicom_node.ledger_records import Retrieval, SeriesRecord, Wanted
from dicom_node.ledger_rows import retrieval_record, series_query, series_record
from dicom_node.ledger_writer import LedgerRoom, Writer
from dicom_node.states import RETRIEVAL_TRANSITIONS, RetrievalState, check_transition
from dicom_node.tables import RetrievalRow, SeriesRow

AT_A_TIME = 500  # values of one IN (...)


class RetrievalRoom(LedgerRoom):
    """What is fetched."""

    def request_retrievals(self, source: str, wanted: Sequence[Wanted], why: str, now: datetime) -> list[Retrieval]:
        """Have these series brought from a source, at once; one that is waiting already is due now."""
        with self._write(now) as writer:
            rows = [_waiting(writer, source, item) or _add(writer, source, item, why) for item in wanted]
            for row in rows:
                row.next_attempt_at = now
            writer.session.flush()
            return [retrieval_record(row) for row in rows]

    def due_retrievals(self, source: str, now: datetime, limit: int = 100) -> list[Retrieval]:
        """WAITING and due, those asked for first before others."""
        query = (
            select(RetrievalRow)
            .where(RetrievalRow.source == source, RetrievalRow.state == RetrievalState.WAITING)
            .where(RetrievalRow.next_attempt_at <= now)
            .order_by(RetrievalRow.attempts, RetrievalRow.id)
            .limit(limit)
        )
        with self._read() as session:
            return [retrieval_record(row) for row in session.scalars(query)]

    def next_retrieval_at(self, source: str) -> datetime | None:
        """The earliest `next_attempt_at` of what is WAITING; None when nothing is."""
        query = select(func.min(RetrievalRow.next_attempt_at)).where(
            RetrievalRow.source == source, RetrievalRow.state == RetrievalState.WAITING
        )
        with self._read() as session:
            return session.scalar(query)

    def retrievals(self, ids: Collection[int]) -> list[Retrieval]:
        """These, in the order in which they were asked for."""
        query = select(RetrievalRow).where(RetrievalRow.id.in_(sorted(ids))).order_by(RetrievalRow.id)
        with self._read() as session:
            return [retrieval_record(row) for row in session.scalars(query)]

    def retrievals_of(self, series_uid: str) -> list[Retrieval]:
        """Those of a series, oldest first."""
        query = select(RetrievalRow).where(RetrievalRow.series_uid == series_uid).order_by(RetrievalRow.id)
        with self._read() as session:
            return [retrieval_record(row) for row in session.scalars(query)]

    def retrieval_progress(self, retrieval_id: int, lacking: int, now: datetime) -> Retrieval:
        """So many instances are lacking now, of those that the source lists."""
        with self._write(now) as writer:
            row = writer.session.get_one(RetrievalRow, retrieval_id)
            if row.state == RetrievalState.WAITING:
                row.wanted = max(row.wanted, row.fetched + lacking)
                row.fetched = row.wanted - lacking
            return retrieval_record(row)

    def retrieval_postponed(self, retrieval_id: int, until: datetime, now: datetime, reason: str) -> None:
        """Not everything came: again later, attempt counted."""
        with self._write(now) as writer:
            row = writer.session.get_one(RetrievalRow, retrieval_id)
            row.attempts += 1
            row.next_attempt_at = until
            _move(writer, row, RetrievalState.WAITING, reason)

    def retrieval_ended(self, retrieval_id: int, state: RetrievalState, reason: str, now: datetime) -> None:
        """DONE, or FAILED with the reason."""
        with self._write(now) as writer:
            row = writer.session.get_one(RetrievalRow, retrieval_id)
            row.attempts += state is RetrievalState.FAILED
            row.finished_at = now
            _move(writer, row, state, reason)

    def abandon_unknown_sources(self, sources: Collection[str], now: datetime) -> int:
        """What is still to come from a source that config.toml does not have any more: FAILED. How many."""
        query = select(RetrievalRow).where(
            RetrievalRow.state == RetrievalState.WAITING, RetrievalRow.source.not_in(sources)
        )
        with self._write(now) as writer:
            rows = writer.session.scalars(query).all()
            for row in rows:
                row.finished_at = now
                reason = f"config.toml has no source {row.source!r} any more: add it again, and ask again"
                _move(writer, row, RetrievalState.FAILED, reason)
            return len(rows)

    def series_known(self, series_uids: Collection[str]) -> dict[str, SeriesRecord]:
        """Those of these series that were ever received."""
        uids = sorted(series_uids)
        found: dict[str, SeriesRecord] = {}
        with self._read() as session:
            for start in range(0, len(uids), AT_A_TIME):
                query = series_query().where(SeriesRow.series_uid.in_(uids[start : start + AT_A_TIME]))
                found |= {row.series_uid: series_record(row, count) for row, count in session.execute(query)}
        return found


def _waiting(writer: Writer, source: str, wanted: Wanted) -> RetrievalRow | None:
    query = select(RetrievalRow).where(
        RetrievalRow.source == source,
        RetrievalRow.series_uid == wanted.series_uid,
        RetrievalRow.state == RetrievalState.WAITING,
    )
    return writer.session.scalar(query)


def _add(writer: Writer, source: str, wanted: Wanted, why: str) -> RetrievalRow:
    row = RetrievalRow(
        source=source,
        study_uid=wanted.study_uid,
        series_uid=wanted.series_uid,
        why=why,
        state=RetrievalState.WAITING,
        attempts=0,
        wanted=0,
        fetched=0,
        reason="",
        created_at=writer.now,
        next_attempt_at=writer.now,
    )
    writer.session.add(row)
    writer.session.flush()  # the next of the list may be the same series
    _tell(writer, row, "", f"to be fetched from {source}: {why}")
    return row


def _move(writer: Writer, row: RetrievalRow, state: RetrievalState, reason: str) -> None:
    old = RetrievalState(row.state)
    check_transition(RETRIEVAL_TRANSITIONS, old, state)
    row.state, row.reason = state, reason
    told = f"{row.fetched} of {row.wanted} instance(s) fetched from {row.source}"
    _tell(writer, row, old, f"{told}: {reason}" if reason else told)


def _tell(writer: Writer, row: RetrievalRow, old: str, reason: str) -> None:
    """An event, of the series where something of it has come."""
    series_id = writer.session.scalar(select(SeriesRow.id).where(SeriesRow.series_uid == row.series_uid))
    writer.event("retrieval", reason, series_id=series_id, subject_id=row.id, old=old, new=row.state)
