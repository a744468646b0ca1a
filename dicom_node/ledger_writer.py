"""Changes that several rooms of the ledger share: transitions with their events, reopening, superseding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, exists, func, select
from sqlalchemy.orm import Session, aliased

from dicom_node.errors import IllegalTransition, NotFound
from dicom_node.ledger_database import transaction
from dicom_node.ledger_records import SeriesIdentity
from dicom_node.states import (
    CHOSEN,
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
from pipeline.types import ResultKind

PURGED_REMEDY = "the files of this one were purged: send it again, then `dicomnode retry`"
RECALL_REMEDY = (
    "its results in the PACS are wrong and cannot be replaced, because its files were purged here: reject them "
    "there and cancel the series, or send it again"
)
IDENTITY_FIELDS = tuple(SeriesIdentity.__dataclass_fields__)


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

    def restate(self, row: SeriesRow, reason: str) -> None:
        """Another reason for the same state."""
        if row.reason != reason:
            row.reason = reason
            self.touch(row)
            self.event("series", reason, series_id=row.id, subject_id=row.id, old=row.state, new=row.state)

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
        kind = self.session.get_one(ResultRow, row.result_id).kind
        self.event(
            "delivery",
            f"{row.destination}, {kind}: {reason}" if reason else f"{row.destination}: {kind}",
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
        query = select(SeriesRow).join(ResultRow, ResultRow.source_id == SeriesRow.id)
        return self.session.scalars(query.where(ResultRow.id == row.result_id)).one()

    def study(self, study_uid: str) -> Sequence[SeriesRow]:
        """Every series of a study."""
        return self.session.scalars(select(SeriesRow).where(SeriesRow.study_uid == study_uid)).all()

    def lacks_files(self, row: SeriesRow) -> bool:
        """Whether instances that count were purged."""
        purged = select(InstanceRow.id).where(
            InstanceRow.series_id == row.id,
            InstanceRow.state == InstanceState.CURRENT,
            InstanceRow.purged_at.is_not(None),
        )
        return self.session.scalar(purged.limit(1)) is not None

    def job_of(self, row: SeriesRow) -> JobRow | None:
        """The job of the present revision."""
        query = select(JobRow).where(JobRow.series_id == row.id, JobRow.revision == row.revision)
        return self.session.scalar(query)

    def current_results(self, row: SeriesRow) -> Sequence[ResultRow]:
        """The results that count at present."""
        return self.session.scalars(select(ResultRow).where(ResultRow.source_id == row.id, ResultRow.current)).all()

    def current_deliveries(self, row: SeriesRow) -> Sequence[DeliveryRow]:
        """Deliveries of the results that count at present."""
        query = (
            select(DeliveryRow)
            .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
            .where(ResultRow.source_id == row.id, ResultRow.current)
            .order_by(DeliveryRow.id)
        )
        return self.session.scalars(query).all()

    def is_chosen(self, row: SeriesRow) -> bool:
        """Whether it is the series of its study that is analysed; also where only the delivery has failed."""
        return row.state in CHOSEN or (row.state == SeriesState.FAILED and bool(self.current_results(row)))

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
        for result in self.current_results(row):
            result.current = False

    def release_rivals(self, study_uid: str, why: str) -> None:
        """Where no series of the study is chosen any more, those that lost in selection get another chance."""
        self.session.flush()
        rows = self.study(study_uid)
        if any(self.is_chosen(row) for row in rows):
            return
        for row in rows:
            if not row.candidate or row.state != SeriesState.NOT_ANALYSED:
                continue
            if self.lacks_files(row):
                row.candidate = False
                self.restate(row, f"{why}; {PURGED_REMEDY}")
            else:
                self.move_series(row, SeriesState.COMPLETE, "", told=why)

    def follow(self, row: SeriesRow, identity: SeriesIdentity) -> None:
        """Patient, study and description become those of the newest header; the study it leaves chooses anew."""
        left, patient = row.study_uid, (row.patient_id, row.patient_id_issuer)
        for name in IDENTITY_FIELDS:
            setattr(row, name, getattr(identity, name))
        if left is not None and patient != (row.patient_id, row.patient_id_issuer):
            self._reissue_without(row, left, patient)
        if left not in (None, row.study_uid):  # None: the row is new
            told = "; ".join(filter(None, (f"moved from study {left}", self.left_behind(row))))
            self.event("series", told, series_id=row.id, subject_id=row.id)
            self.release_rivals(left, "the chosen series left the study")

    def left_behind(self, row: SeriesRow) -> str:
        """What a person has to reject in the PACS: results in a study that the series has left; empty where none.

        No rejection note is made of them: it would have to be in that study, for that patient.
        """
        sent = exists().where(DeliveryRow.result_id == ResultRow.id, DeliveryRow.sent_at.is_not(None))
        note = aliased(ResultRow)
        rejected = exists().where(
            note.kind == ResultKind.REJECTION,
            note.study_uid == ResultRow.study_uid,
            note.profile == ResultRow.profile,
            note.id > ResultRow.id,
            exists().where(DeliveryRow.result_id == note.id, DeliveryRow.sent_at.is_not(None)),
        )
        query = (
            select(ResultRow.study_uid, func.count())
            .where(ResultRow.source_id == row.id, ResultRow.study_uid != row.study_uid, sent, ~rejected)
            .where(ResultRow.kind != ResultKind.REJECTION)
            .group_by(ResultRow.study_uid)
            .order_by(ResultRow.study_uid)
        )
        found = [f"{number} in study {study_uid}" for study_uid, number in self.session.execute(query)]
        told = "objects of earlier revisions are left in the PACS, reject them there"
        return f"{told}: {', '.join(found)}" if found else ""

    def lost_to(self, row: SeriesRow, identity: SeriesIdentity) -> None:
        """Instances of a series are another series' now: if another patient's, so is all that it showed."""
        patient = (row.patient_id, row.patient_id_issuer)
        if patient != (identity.patient_id, identity.patient_id_issuer):
            self._reissue_without(row, row.study_uid, patient)

    def _reissue_without(self, row: SeriesRow, study_uid: str, patient: tuple[str, str]) -> None:
        """What shows a study as an earlier one of a patient whose it is not any more is analysed again."""
        query = (
            select(SeriesRow, JobRow)
            .join(JobRow, (JobRow.series_id == SeriesRow.id) & (JobRow.revision == SeriesRow.revision))
            .where(SeriesRow.patient_id == patient[0], SeriesRow.patient_id_issuer == patient[1])
            .where(SeriesRow.id != row.id)
        )
        for other, job in self.session.execute(query).all():
            shown = (job.priors or {}).get("results", [])
            if self.is_chosen(other) and any(prior["study_uid"] == study_uid for prior in shown):
                self._take_back(other, "an earlier result in it turned out to be another patient's")

    def _take_back(self, row: SeriesRow, why: str) -> None:
        """Its results are wrong: analysed again, or FAILED where that needs a person."""
        purged = self.lacks_files(row)
        self.reopen(row, why, changed=True)
        if purged:
            self.move_series(row, SeriesState.FAILED, f"{why}; {RECALL_REMEDY}")

    def resolve_conflicts(self, row: SeriesRow) -> bool:
        """Of conflicting versions the one received last counts from now on, in whatever series each of them came.

        Other series that had one of the versions are reopened.

        Returns:
            False where no instance of the series is in conflict.
        """
        versions = self._conflicting_versions(row)
        newest = {version.sop_instance_uid: version for version in versions}  # the last one received stays
        if not newest:
            return False
        for version in versions:
            version.state = InstanceState.SUPERSEDED
        self.session.flush()  # before any of them becomes current: only one may be
        for version in newest.values():
            version.state = InstanceState.CURRENT
        for version in versions:
            won = newest[version.sop_instance_uid]
            if won.series_id != version.series_id:
                home = self.session.get_one(SeriesRow, version.series_id)
                self.lost_to(
                    home, SeriesIdentity.of(won.header, home.series_uid, home.calling_ae, home.peer_address)
                )
        last = {version.series_id: version for version in sorted(newest.values(), key=_received)}
        why = f"of {len(newest)} conflicting instance(s) those received last count, as a person asked"
        for series_id in sorted({version.series_id for version in versions}):
            home = self.session.get_one(SeriesRow, series_id)
            if home is not row:
                self.reopen(home, why, changed=True)
            if series_id in last:
                header = last[series_id].header
                self.follow(home, SeriesIdentity.of(header, home.series_uid, home.calling_ae, home.peer_address))
            self.event("instance", why, series_id=series_id)
        return True

    def _conflicting_versions(self, row: SeriesRow) -> list[InstanceRow]:
        """Every version that a person has to decide between, of instances that the series has; oldest first."""
        mine = select(InstanceRow.sop_instance_uid).where(
            InstanceRow.series_id == row.id, InstanceRow.state != InstanceState.SUPERSEDED
        )
        conflicting = select(InstanceRow.sop_instance_uid).where(
            InstanceRow.state == InstanceState.CONFLICTING, InstanceRow.sop_instance_uid.in_(mine)
        )
        versions = select(InstanceRow).where(
            InstanceRow.sop_instance_uid.in_(conflicting), InstanceRow.state != InstanceState.SUPERSEDED
        )
        return sorted(self.session.scalars(versions), key=_received)


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


def _received(version: InstanceRow) -> tuple[datetime, int]:
    """Orders versions of an instance as they were received."""
    return version.received_at, version.id
