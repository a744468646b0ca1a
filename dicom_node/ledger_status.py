"""The ledger's room for people: what stands where, and what a person may ask for."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, func, or_, select, tuple_
from sqlalchemy.orm import Session

from dicom_node.errors import NotFound
from dicom_node.ledger_records import Event, SeriesDetails, SeriesRecord
from dicom_node.ledger_rows import (
    delivery_query,
    delivery_record,
    event_record,
    job_record,
    result_record,
    retrieval_record,
    series_query,
    series_record,
)
from dicom_node.ledger_writer import RECALL_REMEDY, LedgerRoom, Writer, refuse
from dicom_node.states import DeliveryState, InstanceState, SeriesState
from dicom_node.tables import (
    DeliveryRow,
    EventRow,
    InstanceRow,
    JobRow,
    ResultRow,
    RetrievalRow,
    SeriesRow,
    storable,
)

AT_ONCE = 1000  # ids in one query: databases have a limit (SQLite 32766, and 250000 as Debian builds it)
UNSENT = (DeliveryState.PENDING, DeliveryState.FAILED)


class StatusRoom(LedgerRoom):
    """Queries for people, retry and cancel."""

    def list_series(
        self,
        *,
        states: Collection[SeriesState] = (),
        text: str = "",
        study_uid: str = "",
        limit: int | None = 50,
        before: SeriesRecord | None = None,
    ) -> list[SeriesRecord]:
        """Series, newest instance first.

        Args:
            states: only these; empty for all.
            text: only where it is the patient ID, accession number, study or series UID (exactly).
            study_uid: only this study.
            limit: at most so many; None for all.
            before: the last record of the page before this one.
        """
        query = series_query().order_by(SeriesRow.last_instance_at.desc(), SeriesRow.id.desc()).limit(limit)
        if states:
            query = query.where(SeriesRow.state.in_(sorted(states)))
        if text:
            query = query.where(_named(storable(text)))
        if study_uid:
            query = query.where(SeriesRow.study_uid == study_uid)
        if before is not None:
            place = tuple_(SeriesRow.last_instance_at, SeriesRow.id)
            query = query.where(place < tuple_(before.last_instance_at, before.id))
        with self._read() as session:
            return [series_record(*found) for found in session.execute(query)]

    def held_up(self, series_ids: Collection[int]) -> dict[int, str]:
        """Why current results of these series have not arrived, by series; the remark of the last delivery."""
        query = (
            select(ResultRow.source_id, DeliveryRow.destination, DeliveryRow.reason)
            .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
            .where(ResultRow.current, DeliveryRow.state == DeliveryState.PENDING, DeliveryRow.reason != "")
            .order_by(DeliveryRow.id)
        )
        ids = sorted(series_ids)
        remarks: dict[int, str] = {}
        with self._read() as session:
            for start in range(0, len(ids), AT_ONCE):
                some = query.where(ResultRow.source_id.in_(ids[start : start + AT_ONCE]))
                remarks |= {series_id: f"{name}: {reason}" for series_id, name, reason in session.execute(some)}
        return remarks

    def ping(self) -> None:
        """Look whether the database answers.

        Raises:
            NodeError: it does not.
        """
        with self._read() as session:
            session.execute(select(SeriesRow.id).limit(1))

    def counts(self) -> dict[SeriesState, int]:
        """How many series are in each state; every state is a key."""
        query = select(SeriesRow.state, func.count()).group_by(SeriesRow.state)
        with self._read() as session:
            found = dict(session.execute(query).all())
        return {state: found.get(state, 0) for state in SeriesState}

    def series(self, series_uid: str) -> SeriesRecord:
        """One series; NotFound when it was never received."""
        with self._read() as session:
            return _fetch(session, series_uid)

    def details(self, series_uid: str) -> SeriesDetails:
        """One series with jobs, results, deliveries and events; NotFound when it was never received."""
        with self._read() as session:
            series = _fetch(session, series_uid)
            kept = (
                select(InstanceRow.state, func.count())
                .where(InstanceRow.series_id == series.id)
                .group_by(InstanceRow.state)
            )
            jobs = select(JobRow).where(JobRow.series_id == series.id).order_by(JobRow.id)
            results = (
                select(ResultRow, JobRow.revision)
                .join(JobRow, JobRow.id == ResultRow.job_id)
                .where(JobRow.series_id == series.id)
                .order_by(ResultRow.id)
            )
            deliveries = delivery_query().where(SeriesRow.id == series.id).order_by(DeliveryRow.id)
            retrievals = select(RetrievalRow).where(RetrievalRow.series_uid == series_uid).order_by(RetrievalRow.id)
            events = select(EventRow).where(EventRow.series_id == series.id).order_by(EventRow.id)
            found = dict(session.execute(kept).all())
            return SeriesDetails(
                series=series,
                instances={state: found.get(state, 0) for state in InstanceState},
                jobs=tuple(job_record(row, series_uid) for row in session.scalars(jobs)),
                results=tuple(result_record(*pair) for pair in session.execute(results)),
                deliveries=tuple(delivery_record(row) for row in session.execute(deliveries)),
                retrievals=tuple(retrieval_record(row) for row in session.scalars(retrievals)),
                events=tuple(event_record(row, series_uid) for row in session.scalars(events)),
            )

    def recent_events(self, limit: int = 50) -> list[Event]:
        """The newest events of all subjects, newest first; those without series among them (quarantine)."""
        query = (
            select(EventRow, SeriesRow.series_uid)
            .outerjoin(SeriesRow, SeriesRow.id == EventRow.series_id)
            .order_by(EventRow.id.desc())
            .limit(limit)
        )
        with self._read() as session:
            return [event_record(row, uid) for row, uid in session.execute(query)]

    def note(self, reason: str, now: datetime, *, series_uid: str | None = None, subject: str = "node") -> None:
        """Leave an event that is no change of state."""
        with self._write(now) as writer:
            series_id = None if series_uid is None else writer.series(series_uid).id
            writer.event(subject, reason, series_id=series_id)

    def retry(
        self,
        series_uid: str,
        now: datetime,
        damaged: Collection[int] = (),
        destinations: Collection[str] | None = None,
    ) -> SeriesRecord:
        """Do again what ended badly: deliveries that failed, else everything from the rules on.

        Failed and waiting deliveries of the current results become due at once. Without any, or where one of these
        objects is damaged or its destination is gone, the series is judged and analysed again; it is preferred in
        its study from now on, and of conflicting instances those received last count. One that has results already
        gets a new revision.

        Args:
            series_uid: SeriesInstanceUID.
            now: time of the change.
            damaged: ids of results whose files are not what the analysis wrote.
            destinations: names of those that there are; None: all that something is to go to.

        Raises:
            NotFound: never received.
            IllegalTransition: it is still being received, waits for its study or for a worker; or its results in
                the PACS are wrong and its files purged.
        """
        with self._write(now) as writer:
            row = writer.series(series_uid)
            if row.state in (SeriesState.RECEIVING, SeriesState.COMPLETE, SeriesState.QUEUED):
                raise refuse(row, "it is under way, there is nothing to do again")
            if row.state == SeriesState.FAILED and RECALL_REMEDY in row.reason:
                raise refuse(row, row.reason)  # the only trace of wrong results: not to be lost for nothing
            deliveries = writer.current_deliveries(row)
            unsent = [delivery for delivery in deliveries if delivery.state in UNSENT]
            gone = destinations is not None and any(one.destination not in destinations for one in unsent)
            if unsent and not gone and not any(delivery.result_id in damaged for delivery in unsent):
                _deliver_again(writer, row, unsent)
            elif deliveries and not unsent and row.state == SeriesState.ANALYSED:
                raise refuse(row, "everything was sent, the destination has still to commit it")
            else:
                _analyse_again(writer, row)
            writer.session.flush()
            return _fetch(writer.session, series_uid)

    def cancel(self, series_uid: str, now: datetime) -> SeriesRecord:
        """Stop: the job and what was not sent yet are cancelled, the results do not count; another may be chosen.

        Raises:
            NotFound: never received.
            IllegalTransition: it is delivered or cancelled already.
        """
        why = "cancelled by a person"
        with self._write(now) as writer:
            row = writer.series(series_uid)
            if row.state in (SeriesState.DELIVERED, SeriesState.CANCELLED):
                raise refuse(row, "there is nothing left to cancel")
            writer.withdraw(row, why)
            row.candidate = False
            writer.move_series(row, SeriesState.CANCELLED, why)
            writer.release_rivals(row.study_uid, f"series {row.series_uid} was {why}")
            writer.session.flush()
            return _fetch(writer.session, series_uid)


def _named(text: str) -> ColumnElement[bool]:
    """Exact matches only: each of these columns has an index."""
    return or_(
        SeriesRow.patient_id == text,
        SeriesRow.accession_number == text,
        SeriesRow.study_uid == text,
        SeriesRow.series_uid == text,
    )


def _fetch(session: Session, series_uid: str) -> SeriesRecord:
    found = session.execute(series_query().where(SeriesRow.series_uid == series_uid)).one_or_none()
    if found is None:
        raise NotFound(f"series {series_uid} was never received")
    return series_record(*found)


def _deliver_again(writer: Writer, row: SeriesRow, deliveries: Collection[DeliveryRow]) -> None:
    """Make deliveries of the current results due that have not reached their destination."""
    why = "again, as a person asked"
    for delivery in deliveries:
        writer.move_delivery(delivery, DeliveryState.PENDING, why)
        delivery.attempts = 0
        delivery.first_pending_at = delivery.next_attempt_at = writer.now
    if row.state != SeriesState.ANALYSED:
        writer.move_series(row, SeriesState.ANALYSED, "", told=f"delivered {why}")


def _analyse_again(writer: Writer, row: SeriesRow) -> None:
    """Back to the rules, ahead of the other series of the study."""
    resolved = writer.resolve_conflicts(row)
    for other in writer.study(row.study_uid):
        other.preferred = other is row
    writer.reopen(row, "a person asked for it again", changed=resolved)
