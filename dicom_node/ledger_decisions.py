"""The ledger's room for decisions: which series are whole, and which one of a study is analysed.

Decisions are taken outside, on records; they are written only where nothing changed since (`SeriesRecord.version`).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select, update

from dicom_node.ledger_records import Choice, SeriesRecord
from dicom_node.ledger_rows import series_query, series_record
from dicom_node.ledger_writer import LedgerRoom, Writer
from dicom_node.states import DeliveryState, JobState, RetrievalState, SeriesState
from dicom_node.tables import AnnouncementRow, DeliveryRow, EventRow, JobRow, RetrievalRow, SeriesRow
from pipeline import others

CLOCK_STEP = timedelta(minutes=1)  # smaller steps are waited out


class DecisionRoom(LedgerRoom):
    """Completion and selection."""

    def receiving(self) -> list[SeriesRecord]:
        """Series in RECEIVING, longest quiet first."""
        query = (
            series_query()
            .where(SeriesRow.state == SeriesState.RECEIVING)
            .order_by(SeriesRow.last_instance_at, SeriesRow.id)
        )
        with self._read() as session:
            return [series_record(*found) for found in session.execute(query)]

    def follow_clock(self, now: datetime, longest_pause: timedelta) -> bool:
        """Where the clock was put back, let no series or delivery wait until it has caught up. Whether it was.

        It shows by a series whose last instance came in the future, or by the newest event. The quiet time of such
        series counts from now on, deliveries that wait longer than any pause is long are due at once, as are all
        retrievals; what was sent counts as sent now.
        """
        ahead = SeriesRow.last_instance_at > now + CLOCK_STEP
        with self._read() as session:
            newest = session.scalar(select(EventRow.at).order_by(EventRow.id.desc()).limit(1))
            told_ahead = newest is not None and newest > now + CLOCK_STEP
            if not told_ahead and session.scalar(select(SeriesRow.id).where(ahead).limit(1)) is None:
                return False
        waits = (DeliveryRow.state == DeliveryState.PENDING, DeliveryRow.next_attempt_at > now + longest_pause)
        with self._write(now) as writer:
            writer.session.execute(update(SeriesRow).where(ahead).values(last_instance_at=now))
            writer.session.execute(update(DeliveryRow).where(*waits).values(next_attempt_at=now))
            untold = (AnnouncementRow.state == DeliveryState.PENDING, AnnouncementRow.next_attempt_at > now)
            writer.session.execute(update(AnnouncementRow).where(*untold).values(next_attempt_at=now))
            unfetched = (RetrievalRow.state == RetrievalState.WAITING, RetrievalRow.next_attempt_at > now)
            writer.session.execute(update(RetrievalRow).where(*unfetched).values(next_attempt_at=now))
            for column in (DeliveryRow.sent_at, DeliveryRow.asked_at):
                later = (DeliveryRow.state == DeliveryState.SENT, column > now)
                writer.session.execute(update(DeliveryRow).where(*later).values({column: now}))
            writer.event("node", "the clock was put back")
        return True

    def complete_studies(self) -> list[str]:
        """StudyInstanceUIDs that have a COMPLETE series, which selection has to look at."""
        query = select(SeriesRow.study_uid).where(SeriesRow.state == SeriesState.COMPLETE).distinct()
        with self._read() as session:
            return sorted(session.scalars(query))

    def remark(self, seen: SeriesRecord, reason: str, now: datetime) -> None:
        """Say what a RECEIVING series waits for; nothing where it changed since it was seen, or says so already."""
        with self._write(now) as writer:
            row = writer.session.get(SeriesRow, seen.id)
            if row is not None and row.version == seen.version and row.reason != reason:
                row.reason = reason
                writer.event("series", reason, series_id=row.id, subject_id=row.id, old=row.state, new=row.state)

    def settle(
        self, seen: SeriesRecord, state: SeriesState, reason: str, now: datetime, *, completeness: str = ""
    ) -> bool:
        """End RECEIVING as COMPLETE (with `completeness`), INCOMPLETE or NOT_ANALYSED.

        Returns:
            False where the series changed since it was seen; nothing is written then.
        """
        with self._write(now) as writer:
            row = writer.session.get(SeriesRow, seen.id)
            if row is None or row.version != seen.version:
                return False
            row.candidate = state is SeriesState.COMPLETE
            row.completeness = completeness
            writer.move_series(row, state, reason, told=reason or completeness)
            if state is not SeriesState.COMPLETE:
                writer.release_rivals(row.study_uid, f"series {row.series_uid} is {state}")
            return True

    def select(self, choice: Choice, now: datetime) -> bool:
        """Queue the chosen series and turn the others down.

        Returns:
            False where one of them changed since it was seen, or another came; nothing is written then.
        """
        with self._write(now) as writer:
            rows = {row.series_uid: row for row in writer.study(choice.seen[0].study_uid)}
            if {uid: row.version for uid, row in rows.items()} != {r.series_uid: r.version for r in choice.seen}:
                return False
            for uid, reason in choice.others.items():
                _turn_down(writer, rows[uid], reason)
            if choice.chosen is not None:
                _queue(writer, rows[choice.chosen.series_uid], choice)
            return True


def _turn_down(writer: Writer, row: SeriesRow, reason: str) -> None:
    """Another series of the study is analysed; what this one gave so far does not count."""
    if row.state == SeriesState.NOT_ANALYSED:
        writer.restate(row, reason)
        return
    writer.withdraw(row, reason)
    writer.move_series(row, SeriesState.NOT_ANALYSED, reason)


def _queue(writer: Writer, row: SeriesRow, choice: Choice) -> None:
    """A job for the series, unless it is chosen already."""
    if writer.is_chosen(row):
        return
    job = writer.job_of(row)
    if job is not None and job.state == JobState.DONE:  # its results were superseded by another series
        row.revision += 1
        job = None
    if job is None:
        job = JobRow(series_id=row.id, revision=row.revision, state=JobState.WAITING, created_at=writer.now)
        writer.session.add(job)
        writer.session.flush()
        writer.event("job", choice.why, series_id=row.id, subject_id=job.id, new=job.state)
    else:
        job.attempts = 0
        job.priors = job.priors_found = None  # nothing that it wrote was recorded: it is given what there is now
        writer.move_job(job, JobState.WAITING, choice.why)
    job.others = others.to_json(choice.unanalysed)
    writer.move_series(row, SeriesState.QUEUED, "", told=choice.why)
