"""Changes that several rooms of the ledger share: transitions with their events, reopening, superseding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from dicom_node.errors import IllegalTransition, NotFound
from dicom_node.ledger_database import transaction
from dicom_node.ledger_records import SeriesIdentity
from dicom_node.states import (
    DELIVERY_TRANSITIONS,
    JOB_TRANSITIONS,
    SERIES_TRANSITIONS,
    DeliveryState,
    InstanceState,
    JobState,
    SeriesState,
    check_transition,
)
from dicom_node.tables import DeliveryRow, EventRow, InstanceRow, JobRow, ResultRow, SeriesRow

IDENTITY_FIELDS = tuple(SeriesIdentity.__dataclass_fields__)
CHOSEN = (SeriesState.QUEUED, SeriesState.ANALYSED, SeriesState.DELIVERED)


@dataclass(frozen=True)
class Writer:
    """An open write transaction at one moment. Everything it changes is committed together."""

    session: Session
    now: datetime

    # --- events and transitions ----------------------------------------------------------------------------

    def event(
        self,
        subject: str,
        reason: str,
        *,
        series_id: int | None = None,
        subject_id: int | None = None,
        old: str = "",
        new: str = "",
    ) -> None:
        """Leave an event row."""
        self.session.add(
            EventRow(
                at=self.now,
                subject=subject,
                subject_id=subject_id,
                series_id=series_id,
                old_state=old,
                new_state=new,
                reason=reason,
            )
        )

    def move_series(self, row: SeriesRow, state: SeriesState, reason: str, *, told: str | None = None) -> None:
        """Transition of a series. `reason` stays on the row; the event tells `told`, or `reason` without it."""
        old = SeriesState(row.state)
        check_transition(SERIES_TRANSITIONS, old, state)
        row.state, row.reason = state, reason
        self.touch(row)
        text = reason if told is None else told
        self.event("series", text, series_id=row.id, subject_id=row.id, old=old, new=state)

    def touch(self, row: SeriesRow) -> None:
        """Make decisions stale that were taken before this change."""
        row.version += 1
        row.changed_at = self.now

    def move_job(self, row: JobRow, state: JobState, reason: str) -> None:
        """Transition of a job, with its times."""
        old = JobState(row.state)
        check_transition(JOB_TRANSITIONS, old, state)
        row.state, row.reason = state, reason
        if state is JobState.RUNNING:
            row.started_at, row.finished_at = self.now, None
        elif state is not JobState.WAITING:
            row.finished_at = self.now
        self.event("job", reason, series_id=row.series_id, subject_id=row.id, old=old, new=state)

    def move_delivery(self, row: DeliveryRow, state: DeliveryState, reason: str) -> None:
        """Transition of a delivery."""
        old = DeliveryState(row.state)
        check_transition(DELIVERY_TRANSITIONS, old, state)
        row.state, row.reason = state, reason
        self.event(
            "delivery",
            f"{row.destination}: {reason}" if reason else row.destination,
            series_id=self.series_of_delivery(row).id,
            subject_id=row.id,
            old=old,
            new=state,
        )

    # --- rows ----------------------------------------------------------------------------------------------

    def series(self, series_uid: str) -> SeriesRow:
        """The row of a series, or NotFound."""
        row = self.session.scalar(select(SeriesRow).where(SeriesRow.series_uid == series_uid))
        if row is None:
            raise NotFound(f"series {series_uid} was never received")
        return row

    def series_of_delivery(self, row: DeliveryRow) -> SeriesRow:
        """The series whose result is delivered."""
        query = (
            select(SeriesRow)
            .join(JobRow, JobRow.series_id == SeriesRow.id)
            .join(ResultRow, ResultRow.job_id == JobRow.id)
            .where(ResultRow.id == row.result_id)
        )
        return self.session.scalars(query).one()

    def study(self, study_uid: str) -> Sequence[SeriesRow]:
        """Every series of a study."""
        return self.session.scalars(select(SeriesRow).where(SeriesRow.study_uid == study_uid)).all()

    def job_of(self, row: SeriesRow) -> JobRow | None:
        """The job of the present revision."""
        query = select(JobRow).where(JobRow.series_id == row.id, JobRow.revision == row.revision)
        return self.session.scalar(query)

    def current_deliveries(self, row: SeriesRow) -> Sequence[DeliveryRow]:
        """Deliveries of the results that count at present."""
        query = (
            select(DeliveryRow)
            .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
            .join(JobRow, JobRow.id == ResultRow.job_id)
            .where(JobRow.series_id == row.id, ResultRow.current)
            .order_by(DeliveryRow.id)
        )
        return self.session.scalars(query).all()

    # --- what follows from what ------------------------------------------------------------------------------

    def reopen(self, row: SeriesRow, why: str, *, changed: bool) -> None:
        """Back to RECEIVING, to be judged again.

        A new revision begins where the instances `changed` since a job was made of them, or results exist.
        """
        job = self.job_of(row)
        self.withdraw(row, f"superseded: {why}")
        if job is not None and (changed or job.state == JobState.DONE):
            row.revision += 1
        row.candidate, row.completeness = False, ""
        self.move_series(row, SeriesState.RECEIVING, "", told=f"reopened: {why}")

    def withdraw(self, row: SeriesRow, why: str) -> None:
        """Stop the job, and what was not sent yet; the results do not count any more."""
        job = self.job_of(row)
        if job is not None and job.state in (JobState.WAITING, JobState.RUNNING):
            self.move_job(job, JobState.CANCELLED, why)
        for delivery in self.current_deliveries(row):
            if delivery.state == DeliveryState.PENDING:
                self.move_delivery(delivery, DeliveryState.CANCELLED, why)
        jobs = select(JobRow.id).where(JobRow.series_id == row.id)
        for result in self.session.scalars(select(ResultRow).where(ResultRow.job_id.in_(jobs), ResultRow.current)):
            result.current = False

    def release_rivals(self, study_uid: str, why: str) -> None:
        """Where no series of the study is chosen any more, those that lost in selection get another chance."""
        self.session.flush()
        rows = self.study(study_uid)
        if any(row.state in CHOSEN for row in rows):
            return
        for row in rows:
            if row.candidate and row.state == SeriesState.NOT_ANALYSED:
                self.move_series(row, SeriesState.COMPLETE, "", told=why)

    def follow(self, row: SeriesRow, identity: SeriesIdentity) -> None:
        """Patient, study and description of the series become those of the newest header."""
        for name in IDENTITY_FIELDS:
            setattr(row, name, getattr(identity, name))

    def resolve_conflicts(self, row: SeriesRow) -> bool:
        """Of conflicting instances the one received last counts from now on. False where there are none."""
        query = (
            select(InstanceRow)
            .where(InstanceRow.series_id == row.id, InstanceRow.state == InstanceState.CONFLICTING)
            .order_by(InstanceRow.id)
        )
        newest = {instance.sop_instance_uid: instance for instance in self.session.scalars(query)}
        if not newest:
            return False
        versions = select(InstanceRow).where(
            InstanceRow.sop_instance_uid.in_(newest), InstanceRow.state != InstanceState.SUPERSEDED
        )
        for instance in self.session.scalars(versions):
            instance.state = InstanceState.SUPERSEDED
        self.session.flush()  # before any of them becomes current: only one may be
        for instance in newest.values():
            instance.state = InstanceState.CURRENT
        last = max(newest.values(), key=lambda instance: instance.id)
        self.follow(row, SeriesIdentity.of(last.header, row.series_uid, row.calling_ae, row.peer_address))
        why = f"of {len(newest)} conflicting instance(s) those received last count, as a person asked"
        self.event("instance", why, series_id=row.id)
        return True


class LedgerRoom:
    """What every room of the ledger stands on: one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with transaction(self._engine, write=False) as session:
            yield session

    @contextmanager
    def _write(self, now: datetime) -> Iterator[Writer]:
        with transaction(self._engine, write=True) as session:
            yield Writer(session, now)


def refuse(row: SeriesRow, why: str) -> IllegalTransition:
    """The error for something that a person asked of a series in the wrong state."""
    return IllegalTransition(f"series {row.series_uid} is {row.state}: {why}")
