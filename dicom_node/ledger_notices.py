"""The ledger's room for notifications: what each channel was told, and what has happened since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from dicom_node.alarms import Message, Notice
from dicom_node.ledger_writer import LedgerRoom
from dicom_node.tables import EventRow, JobRow, NoticeRow, SeriesRow

STARTED, STOPPED, CRASHED = "the node starts", "the node was stopped", "crash"
_COPIED = ("active", "mark", "count", "told_at", "attempts", "next_attempt_at", "error")


@dataclass(frozen=True)
class Course:
    """A severity score and that of the last earlier study, fractions of 1. `accession_number` names a study."""

    severity: float
    before: float
    accession_number: str


class NoticeRoom(LedgerRoom):
    """One row for each channel and kind; written by that channel's thread alone."""

    def notices(self, channel: str) -> Mapping[str, Notice]:
        """By kind."""
        query = select(NoticeRow).where(NoticeRow.channel == channel)
        with self._read() as session:
            return {row.kind: _record(row) for row in session.scalars(query)}

    def undelivered_notices(self) -> list[Notice]:
        """Messages that could not be sent so far, with the reason."""
        query = (
            select(NoticeRow).where(NoticeRow.message.is_not(None), NoticeRow.error != "").order_by(NoticeRow.id)
        )
        with self._read() as session:
            return [_record(row) for row in session.scalars(query)]

    def keep_notice(self, notice: Notice, now: datetime) -> None:
        """Write a notice, which may be the first of its kind."""
        with self._write(now) as writer:
            query = select(NoticeRow).where(NoticeRow.channel == notice.channel, NoticeRow.kind == notice.kind)
            row = writer.session.scalar(query) or NoticeRow(channel=notice.channel, kind=notice.kind)
            for name in _COPIED:
                setattr(row, name, getattr(notice, name))
            row.message = None if notice.message is None else notice.message.json
            writer.session.add(row)

    def note_start(self, text: str, now: datetime) -> bool:
        """Leave the event of a start; one more where the run before was not stopped. Whether it was not."""
        with self._write(now) as writer:
            query = (
                select(EventRow.reason)
                .where(EventRow.subject == "node", EventRow.reason.like("the node %"))
                .where(EventRow.reason.startswith(STARTED) | EventRow.reason.startswith(STOPPED))
                .order_by(EventRow.id.desc())
                .limit(1)
            )
            crashed = (writer.session.scalar(query) or STOPPED).startswith(STARTED)
            if crashed:
                writer.event(CRASHED, "the last run of the node ended without being stopped: killed, or crashed")
            writer.event("node", text)
            return crashed

    def count_crashes(self, after: int) -> int:
        """Starts after a crash that were told after an event."""
        query = select(func.count()).where(EventRow.id > after, EventRow.subject == CRASHED)
        with self._read() as session:
            return session.scalar(query) or 0

    def course(self, job_id: int) -> Course | None:
        """How a finished analysis stands beside the last earlier result; None where there is none to compare."""
        query = (
            select(JobRow.report, SeriesRow.accession_number)
            .join(SeriesRow, SeriesRow.id == JobRow.series_id)
            .where(JobRow.id == job_id)
        )
        with self._read() as session:
            row = session.execute(query).one_or_none()
        report = row[0] if row is not None else None
        priors = (report or {}).get("priors")
        if row is None or not isinstance(priors, list) or not priors:
            return None
        newest = max(priors, key=lambda prior: str(prior.get("acquired")))
        if newest.get("not_comparable"):  # another model, kernel or thickness: the report does not compare either
            return None
        severity, before = (report or {}).get("severity_score"), newest.get("severity_score")
        if not isinstance(severity, float | int) or not isinstance(before, float | int):
            return None
        return Course(float(severity), float(before), row[1])


def _record(row: NoticeRow) -> Notice:
    message = None if row.message is None else Message.of(row.message)
    return Notice(row.channel, row.kind, message=message, **{name: getattr(row, name) for name in _COPIED})
