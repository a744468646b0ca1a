"""The ledger's room for the status page: pages of series, what came since, where each destination stands.

Every question costs the same however long the ledger is: pages begin at a place in an index and not at a number,
and nothing that is over is counted.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import func, or_, select, tuple_
from sqlalchemy.orm import Session

from dicom_node.ledger_records import Backlog, Place, SeriesIdentity, SeriesPage
from dicom_node.ledger_rows import identity_of, series_query, series_record
from dicom_node.ledger_writer import LedgerRoom
from dicom_node.states import DeliveryState, InstanceState, SeriesState
from dicom_node.tables import DeliveryRow, EventRow, InstanceRow, ResultRow, SeriesRow, storable

MOST_UNFINISHED = 200  # objects that are looked at for the newest error
_Count = tuple[int, datetime | None, datetime | None]
UNFINISHED = (DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.FAILED)


class OverviewRoom(LedgerRoom):
    """Questions of the status page. Changes nothing."""

    def page_of_series(
        self,
        *,
        state: SeriesState | None = None,
        older_than: Place | None = None,
        newer_than: Place | None = None,
        oldest: bool = False,
        limit: int = 50,
    ) -> SeriesPage:
        """One page, newest instance first.

        Args:
            state: only these.
            older_than: the page that begins after this place.
            newer_than: the page that ends before this place.
            oldest: the last page.
            limit: so many on a page.
        """
        place = tuple_(SeriesRow.last_instance_at, SeriesRow.id)
        backwards = oldest or newer_than is not None
        query = series_query() if state is None else series_query().where(SeriesRow.state == state)
        if older_than is not None:
            query = query.where(place < tuple_(older_than.at, older_than.id))
        elif newer_than is not None:
            query = query.where(place > tuple_(newer_than.at, newer_than.id))
        order = (SeriesRow.last_instance_at, SeriesRow.id)
        query = query.order_by(*(order if backwards else (column.desc() for column in order)))
        with self._read() as session:
            found = [series_record(*row) for row in session.execute(query.limit(limit + 1))]
        more, records = len(found) > limit, found[:limit]
        if backwards:
            records.reverse()
        if backwards:
            return SeriesPage(tuple(records), has_newer=more, has_older=not oldest)
        return SeriesPage(tuple(records), has_newer=older_than is not None, has_older=more)

    def search(self, text: str, *, by_patient: bool, limit: int = 50) -> SeriesPage:
        """Series with this study or series UID, newest first; `by_patient`: or patient ID or accession number.

        Exact matches only: each of these columns has an index.
        """
        wanted = storable(text)
        columns = [SeriesRow.series_uid, SeriesRow.study_uid]
        if by_patient:
            columns += [SeriesRow.patient_id, SeriesRow.accession_number]
        query = series_query().where(or_(*(column == wanted for column in columns)))
        query = query.order_by(SeriesRow.last_instance_at.desc(), SeriesRow.id.desc())
        with self._read() as session:
            found = [series_record(*row) for row in session.execute(query.limit(limit + 1))]
        return SeriesPage(tuple(found[:limit]), has_newer=False, has_older=len(found) > limit)

    def states_since(self, since: datetime) -> dict[SeriesState, int]:
        """How many series that had an instance since then are in each state; every state is a key."""
        query = (
            select(SeriesRow.state, func.count())
            .where(SeriesRow.last_instance_at >= since)
            .group_by(SeriesRow.state)
        )
        with self._read() as session:
            found = dict(session.execute(query).all())
        return {state: found.get(state, 0) for state in SeriesState}

    def instances_since(self, since: datetime) -> int:
        """How many instances count of the series that had one since then."""
        query = (
            select(func.count(InstanceRow.id))
            .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
            .where(SeriesRow.last_instance_at >= since, InstanceRow.state == InstanceState.CURRENT)
        )
        with self._read() as session:
            return session.scalar(query) or 0

    def backlogs(self, destinations: Collection[str]) -> list[Backlog]:
        """What each of them still lacks, and when it last took something."""
        with self._read() as session:
            return [_backlog(session, name) for name in destinations]


def _backlog(session: Session, destination: str) -> Backlog:
    unfinished = (
        select(
            DeliveryRow.state,
            func.count(),
            func.min(DeliveryRow.first_pending_at),
            func.min(DeliveryRow.next_attempt_at),
        )
        .where(DeliveryRow.destination == destination, DeliveryRow.state.in_(UNFINISHED))
        .group_by(DeliveryRow.state)
    )
    nothing: _Count = (0, None, None)
    found: dict[str, _Count] = {row[0]: (row[1], row[2], row[3]) for row in session.execute(unfinished)}
    pending, oldest_at, next_attempt_at = found.get(DeliveryState.PENDING, nothing)
    error, error_at, error_of = _last_error(session, destination)
    return Backlog(
        destination=destination,
        pending=pending,
        sent=found.get(DeliveryState.SENT, nothing)[0],
        failed=found.get(DeliveryState.FAILED, nothing)[0],
        oldest_at=oldest_at,
        next_attempt_at=next_attempt_at,
        last_success_at=session.scalar(
            select(func.max(DeliveryRow.committed_at)).where(DeliveryRow.destination == destination)
        ),
        last_error=error,
        last_error_at=error_at,
        last_error_of=error_of,
    )


def _last_error(session: Session, destination: str) -> tuple[str, datetime | None, SeriesIdentity | None]:
    """Of what has not arrived: why the newest does not, since when, and whose it is."""
    unfinished = (  # with a limit, found by the index alone: the planner would rather read the whole table
        select(DeliveryRow.id)
        .where(DeliveryRow.destination == destination)
        .where(DeliveryRow.state.in_((DeliveryState.PENDING, DeliveryState.FAILED)))
        .order_by(DeliveryRow.next_attempt_at.desc())
        .limit(MOST_UNFINISHED)
    )
    query = (
        select(DeliveryRow.id, DeliveryRow.reason, SeriesRow)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .join(SeriesRow, SeriesRow.id == ResultRow.source_id)
        .where(DeliveryRow.id.in_(unfinished), DeliveryRow.reason != "")
        .where(or_(DeliveryRow.state == DeliveryState.FAILED, DeliveryRow.attempts > 0))
        .order_by(DeliveryRow.id.desc())
        .limit(1)
    )
    found = session.execute(query).first()
    if found is None:
        return "", None, None
    delivery_id, reason, series = found
    told = select(func.max(EventRow.at)).where(
        EventRow.series_id == series.id, EventRow.subject == "delivery", EventRow.subject_id == delivery_id
    )
    return reason, session.scalar(told), identity_of(series)
