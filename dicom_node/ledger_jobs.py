"""The ledger's room for analyses: claimed, ended, and what their end means for series, results and deliveries."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from dicom_node.errors import NotFound
from dicom_node.ledger_announcements import sent_announcements
from dicom_node.ledger_priors import waits_for_earlier_study
from dicom_node.ledger_records import JobRecord, SeriesRecord
from dicom_node.ledger_rows import job_record, object_reference, series_query, series_record
from dicom_node.ledger_writer import LedgerRoom, Writer
from dicom_node.states import DeliveryState, JobState, SeriesState
from dicom_node.tables import DeliveryRow, JobRow, ResultRow, SeriesRow
from pipeline.types import AnalysisOutcome, ObjectReference, ResultKind, ResultObject


class JobRoom(LedgerRoom):
    """Jobs and their outcomes.

    What ends a job takes the record that `claim_job` gave, and returns False where that claim does not hold any
    more: the job was cancelled, even if it was claimed again since. Nothing is written then.
    """

    def recover_jobs(self, now: datetime, max_attempts: int) -> int:
        """At start-up: RUNNING → WAITING, or FAILED after so many attempts. How many there were."""
        with self._write(now) as writer:
            jobs = writer.session.scalars(select(JobRow).where(JobRow.state == JobState.RUNNING)).all()
            for job in jobs:
                _again_or_failed(writer, job, "the node stopped while it ran", max_attempts)
            return len(jobs)

    def claim_job(self, now: datetime, searched: bool = False) -> tuple[JobRecord, SeriesRecord] | None:
        """The job that waits longest → RUNNING, its attempt counted; None when none waits.

        Studies of one patient are analysed in the order of their dates, one after the other. With `searched`, only
        after the archives were asked for earlier results.
        """
        with self._write(now) as writer:
            query = (
                select(JobRow)
                .join(SeriesRow, SeriesRow.id == JobRow.series_id)
                .where(JobRow.state == JobState.WAITING, ~waits_for_earlier_study())
                .order_by(JobRow.id)
                .limit(1)
            )
            if searched:
                query = query.where(JobRow.priors_found.is_not(None))
            job = writer.session.scalar(query)
            if job is None:
                return None
            job.attempts += 1
            writer.move_job(job, JobState.RUNNING, f"attempt {job.attempts}")
            writer.session.flush()
            series = writer.session.execute(series_query().where(SeriesRow.id == job.series_id)).one()
            record = series_record(*series)
            return job_record(job, record.series_uid), record

    def job(self, job_id: int) -> JobRecord:
        """One job; NotFound."""
        query = select(JobRow, SeriesRow.series_uid).join(SeriesRow).where(JobRow.id == job_id)
        with self._read() as session:
            found = session.execute(query).one_or_none()
            if found is None:
                raise NotFound(f"there is no job {job_id}")
            return job_record(*found)

    def predecessors(
        self, job_id: int, profiles: Mapping[str, str] = MappingProxyType({})
    ) -> dict[str, ObjectReference]:
        """By profile, the newest earlier SR of the same series or study that a destination may have.

        Where no destination exists every earlier SR counts: a person has read the file.

        Args:
            job_id: whose results are to name it.
            profiles: destination name → profile name at present; it may have had another one before.
        """
        with self._read() as session:
            job = session.get_one(JobRow, job_id)
            series = session.get_one(SeriesRow, job.series_id)
            delivery = exists().where(DeliveryRow.result_id == ResultRow.id)
            sent = exists().where(DeliveryRow.result_id == ResultRow.id, DeliveryRow.begun_at.is_not(None))
            query = (
                select(ResultRow)
                .join(JobRow, JobRow.id == ResultRow.job_id)
                .join(SeriesRow, SeriesRow.id == JobRow.series_id)
                .where(ResultRow.kind == ResultKind.SR, ResultRow.job_id != job_id, sent | ~delivery)
                .where((SeriesRow.id == series.id) | (SeriesRow.study_uid == series.study_uid))
                .order_by(ResultRow.id)  # the newest one of a profile comes last and stays in the dict
            )
            found: dict[str, ResultRow] = {}
            for row in session.scalars(query):
                for name in _replaced_by(session, row, profiles):
                    if name == row.profile or name not in found or found[name].job_id != row.job_id:
                        found[name] = row
            return {name: object_reference(row) for name, row in found.items()}

    def superseded(
        self, job_id: int, profiles: Mapping[str, str] = MappingProxyType({})
    ) -> dict[str, tuple[ObjectReference, ...]]:
        """By profile, every object of the study that a destination may have and that does not count any more.

        `profiles` as for `predecessors`.
        """
        with self._read() as session:
            job = session.get_one(JobRow, job_id)
            study_uid = session.get_one(SeriesRow, job.series_id).study_uid
            sent = exists().where(DeliveryRow.result_id == ResultRow.id, DeliveryRow.begun_at.is_not(None))
            query = (
                select(ResultRow)
                .where(ResultRow.study_uid == study_uid, ResultRow.job_id != job_id, ~ResultRow.current, sent)
                .where(ResultRow.kind != ResultKind.REJECTION)
                .order_by(ResultRow.id)
            )
            found = sent_announcements(session, study_uid, profiles)
            for row in session.scalars(query):
                for name in _replaced_by(session, row, profiles):
                    found.setdefault(name, []).append(object_reference(row))
            return {profile: tuple(references) for profile, references in found.items()}

    def job_done(
        self,
        job: JobRecord,
        outcome: AnalysisOutcome,
        results_dir: Path,
        profiles: Mapping[str, str],
        now: datetime,
        kinds: Mapping[str, Collection[ResultKind]] = MappingProxyType({}),
    ) -> bool:
        """Results and deliveries of a finished job, in one transaction; the series becomes ANALYSED.

        Args:
            job: as it was claimed.
            outcome: as the worker gave it back; its objects lie below `results_dir`.
            results_dir: the folder that paths are kept relative to.
            profiles: destination name → profile name.
            now: time of the change.
            kinds: destination name → kinds of objects that it takes, where it does not take all.

        Raises:
            ValueError: an object lies elsewhere.
        """
        with self._write(now) as writer:
            row = _claimed(writer, job)
            if row is None:
                return False
            series = writer.session.get_one(SeriesRow, row.series_id)
            row.report = dict(outcome.report)
            writer.move_job(row, JobState.DONE, "")
            for item in outcome.objects:
                takers = [
                    name
                    for name, profile in profiles.items()
                    if profile == item.profile and item.kind in kinds.get(name, ResultKind)
                ]
                _add_result(writer, row, item, results_dir, takers)
            series.results_purged_at = None  # those of earlier revisions may be
            kept = "" if profiles else "no destination is configured: the results are kept in the state folder"
            reason = "; ".join(filter(None, (kept, writer.left_behind(series))))
            told = f"{len(outcome.objects)} result object(s), revision {row.revision}"
            writer.move_series(series, SeriesState.ANALYSED, reason, told=told)
            return True

    def job_rejected(self, job: JobRecord, reason: str, now: datetime) -> bool:
        """The pipeline cannot analyse the series: NOT_ANALYSED, and the next best of the study is considered."""
        return self._end(job, JobState.REJECTED, SeriesState.NOT_ANALYSED, reason, now)

    def job_failed(self, job: JobRecord, reason: str, now: datetime) -> bool:
        """It will not work without a person: FAILED."""
        return self._end(job, JobState.FAILED, SeriesState.FAILED, reason, now)

    def _end(self, job: JobRecord, state: JobState, ending: SeriesState, reason: str, now: datetime) -> bool:
        with self._write(now) as writer:
            row = _claimed(writer, job)
            if row is not None:
                _end_series(writer, row, state, ending, reason)
            return row is not None

    def job_interrupted(self, job: JobRecord, reason: str, now: datetime, max_attempts: int) -> bool:
        """The worker died, ran into the deadline or stumbled: again, or FAILED after `max_attempts`."""
        with self._write(now) as writer:
            row = _claimed(writer, job)
            if row is not None:
                _again_or_failed(writer, row, reason, max_attempts)
            return row is not None

    def job_returned(self, job: JobRecord, now: datetime) -> bool:
        """The node stops: RUNNING → WAITING, this attempt does not count."""
        with self._write(now) as writer:
            row = _claimed(writer, job)
            if row is not None:
                row.attempts -= 1
                writer.move_job(row, JobState.WAITING, "the node was stopped, this attempt does not count")
            return row is not None


def _replaced_by(session: Session, row: ResultRow, profiles: Mapping[str, str]) -> set[str]:
    """The profiles whose sets go where this object may be: its own, and what such a destination has now."""
    begun = select(DeliveryRow.destination).where(
        DeliveryRow.result_id == row.id, DeliveryRow.begun_at.is_not(None)
    )
    return {row.profile, *(profiles[name] for name in session.scalars(begun) if name in profiles)}


def _claimed(writer: Writer, job: JobRecord) -> JobRow | None:
    """The row, while it runs as it was claimed: the time of the claim tells a later one apart."""
    row = writer.session.get_one(JobRow, job.id)
    return row if row.state == JobState.RUNNING and row.started_at == job.started_at else None


def _again_or_failed(writer: Writer, job: JobRow, reason: str, max_attempts: int) -> None:
    if job.attempts < max_attempts:
        writer.move_job(job, JobState.WAITING, f"attempt {job.attempts}: {reason}")
    else:
        given_up = f"given up after {job.attempts} attempt(s), the last: {reason}"
        _end_series(writer, job, JobState.FAILED, SeriesState.FAILED, given_up)


def _end_series(writer: Writer, job: JobRow, state: JobState, ending: SeriesState, reason: str) -> None:
    """The job and its series end without results."""
    series = writer.session.get_one(SeriesRow, job.series_id)
    writer.move_job(job, state, reason)
    series.candidate = False
    writer.move_series(series, ending, reason)
    if ending is SeriesState.NOT_ANALYSED:
        writer.release_rivals(series.study_uid, f"the chosen series {series.series_uid} could not be analysed")


def _add_result(
    writer: Writer, job: JobRow, item: ResultObject, results_dir: Path, destinations: Iterable[str]
) -> None:
    """The row of one object, and one delivery for each of these destinations."""
    result = ResultRow(
        job_id=job.id,
        source_id=job.series_id,
        profile=item.profile,
        kind=item.kind,
        study_uid=item.reference.study_uid,
        series_uid=item.reference.series_uid,
        sop_class_uid=item.reference.sop_class_uid,
        sop_instance_uid=item.reference.sop_instance_uid,
        path=str(item.path.relative_to(results_dir)),
        sha256=item.sha256,
        current=True,
    )
    writer.session.add(result)
    writer.session.flush()
    for destination in destinations:
        delivery = DeliveryRow(
            result_id=result.id,
            destination=destination,
            state=DeliveryState.PENDING,
            first_pending_at=writer.now,
            next_attempt_at=writer.now,
        )
        writer.session.add(delivery)
        writer.session.flush()
        told = f"{destination}: {item.kind}"
        writer.event("delivery", told, series_id=job.series_id, subject_id=delivery.id, new=DeliveryState.PENDING)
