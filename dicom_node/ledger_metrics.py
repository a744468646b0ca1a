"""The ledger's room for monitoring: counts, ages and what has happened since. Never names, identifiers or UIDs.

Every query goes over an index or over what is new, so that it is quick with years of series behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ScalarSelect, case, func, literal, null, select

from dicom_node.ledger_writer import LedgerRoom
from dicom_node.states import DeliveryState, InstanceState, JobState, RetrievalState, SeriesState
from dicom_node.tables import DeliveryRow, EventRow, InstanceRow, JobRow, RetrievalRow, SeriesRow

WAITING = (SeriesState.RECEIVING, SeriesState.COMPLETE, SeriesState.QUEUED, SeriesState.ANALYSED)
UNDELIVERED = (DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.FAILED)
ENDED_BADLY = ("failed", "rejected", "not_analysed", "incomplete")  # states whose reasons are of interest


@dataclass(frozen=True)
class Unsent:
    """What one destination has not committed."""

    counts: Mapping[DeliveryState, int]
    oldest_at: datetime | None  # since when the oldest that is PENDING or SENT is to be delivered


@dataclass(frozen=True)
class Change:
    """A change of state, as an event tells it. `reason` only of what ended badly: it may hold UIDs."""

    id: int
    at: datetime
    subject: str
    subject_id: int | None
    series_id: int | None
    state: str
    reason: str


@dataclass(frozen=True)
class Measured:
    """The scores of one analysis, with what made the images and the scores; fractions of 1."""

    severity: float | None
    consolidation: float | None
    severity_class: str
    manufacturer: str
    scanner: str
    model: str
    version: str


class MetricsRoom(LedgerRoom):
    """Counts and ages."""

    def oldest_waiting(self) -> dict[SeriesState, datetime]:
        """By state of `WAITING`, since when the series waits that has waited longest."""
        oldest = {
            state: select(func.min(SeriesRow.changed_at)).where(SeriesRow.state == state) for state in WAITING
        }
        with self._read() as session:
            found = {state: session.scalar(query) for state, query in oldest.items()}
        return {state: at for state, at in found.items() if at is not None}

    def job_counts(self) -> dict[JobState, int]:
        """How many analyses wait, and how many run."""
        states = (JobState.WAITING, JobState.RUNNING)
        query = select(JobRow.state, func.count()).where(JobRow.state.in_(states)).group_by(JobRow.state)
        with self._read() as session:
            found = dict(session.execute(query).all())
        return {state: found.get(state, 0) for state in states}

    def unsent(self, destinations: Collection[str]) -> dict[str, Unsent]:
        """By destination, what is not committed there."""
        since = case((DeliveryRow.state != DeliveryState.FAILED, DeliveryRow.first_pending_at), else_=null())
        query = (
            select(DeliveryRow.destination, DeliveryRow.state, func.count(), func.min(since))
            .where(DeliveryRow.destination.in_(sorted(destinations)), DeliveryRow.state.in_(UNDELIVERED))
            .group_by(DeliveryRow.destination, DeliveryRow.state)
        )
        with self._read() as session:
            rows = session.execute(query).all()
        result = {}
        for name in destinations:
            mine = [row for row in rows if row[0] == name]
            counts = {DeliveryState(state): count for _, state, count, _ in mine}
            oldest = min((at for *_, at in mine if at is not None), default=None)
            result[name] = Unsent({state: counts.get(state, 0) for state in UNDELIVERED}, oldest)
        return result

    def retrievals_waiting(self, sources: Collection[str]) -> dict[str, int]:
        """By source, how many series are to be fetched."""
        query = (
            select(RetrievalRow.source, func.count())
            .where(RetrievalRow.source.in_(sorted(sources)), RetrievalRow.state == RetrievalState.WAITING)
            .group_by(RetrievalRow.source)
        )
        with self._read() as session:
            found = dict(session.execute(query).all())
        return {name: found.get(name, 0) for name in sources}

    def last_event(self) -> int:
        """Id of the newest event; 0 where there is none."""
        with self._read() as session:
            return session.scalar(select(func.max(EventRow.id))) or 0

    def changes_after(self, event_id: int, limit: int) -> list[Change]:
        """Changes of state that were told after an event, oldest first."""
        reason = case((EventRow.new_state.in_(ENDED_BADLY), EventRow.reason), else_=literal(""))
        query = (
            select(
                EventRow.id,
                EventRow.at,
                EventRow.subject,
                EventRow.subject_id,
                EventRow.series_id,
                EventRow.new_state,
                reason,
            )
            .where(EventRow.id > event_id)
            .order_by(EventRow.id)
            .limit(limit)
        )
        with self._read() as session:
            return [Change(*row) for row in session.execute(query)]

    def last_instances(self, series_ids: Collection[int]) -> dict[int, datetime]:
        """By id of the series, when its last instance came."""
        query = select(SeriesRow.id, SeriesRow.last_instance_at).where(SeriesRow.id.in_(sorted(series_ids)))
        with self._read() as session:
            return dict(session.execute(query).all())

    def measured(self, job_id: int) -> Measured | None:
        """What a finished job has measured; of report and header, only these fields leave the database.

        Raises:
            PermanentError: they hold what the database cannot give back as text.
        """
        report = JobRow.report
        query = select(
            report["severity_score"].as_float(),
            report["consolidation_score"].as_float(),
            report["severity_class"].as_string(),
            _of_an_image("Manufacturer"),
            _of_an_image("ManufacturerModelName"),
            report["model", "name"].as_string(),
            report["model", "version"].as_string(),
        ).where(JobRow.id == job_id, JobRow.state == JobState.DONE)
        with self._read() as session:
            row = session.execute(query).one_or_none()
        return None if row is None else Measured(row[0], row[1], *(text or "" for text in row[2:]))


def _of_an_image(keyword: str) -> ScalarSelect[str]:
    """An attribute of one of the images that a job was made of."""
    return (
        select(InstanceRow.header[keyword].as_string())
        .where(InstanceRow.series_id == JobRow.series_id, InstanceRow.state == InstanceState.CURRENT)
        .limit(1)
        .correlate(JobRow)
        .scalar_subquery()
    )
