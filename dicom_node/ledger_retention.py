"""The ledger's room for retention: which files may go, and that they are gone. No row is ever removed.

In this order, so that no crash leaves a row that relies on a file that is not there:

1. `mark_purged`: the rows say that the files are purged; from now on nothing relies on them.
2. `remove_marked`: the files are removed, in a transaction: no instance that comes again meanwhile can be recorded.
3. The series is not `purging` any more. A crash before that is made good by the next `remove_marked`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from dicom_node.ledger_records import Ages, Purgeable
from dicom_node.ledger_writer import LedgerRoom, Writer
from dicom_node.spool import results_folder
from dicom_node.states import ENDED, DeliveryState, SeriesState
from dicom_node.tables import DeliveryRow, InstanceRow, ResultRow, SeriesRow

Remove = Callable[[Sequence[str], Sequence[str]], None]  # paths below the archive, paths below the results


class RetentionRoom(LedgerRoom):
    """What may be removed from the disk."""

    def purgeable(self, ages: Ages, limit: int | None = None) -> list[Purgeable]:
        """What `mark_purged` would mark, oldest first."""
        with self._read() as session:
            rows = session.scalars(_due(ages).order_by(SeriesRow.changed_at, SeriesRow.id).limit(limit)).all()
            return [_counted(session, row, ages) for row in rows]

    def mark_purged(self, series_uid: str, ages: Ages, now: datetime) -> Purgeable | None:
        """From now on nothing relies on these files; None where the series changed and they have to stay."""
        with self._write(now) as writer:
            row = writer.session.scalar(_due(ages).where(SeriesRow.series_uid == series_uid))
            if row is None:
                return None
            found = _counted(writer.session, row, ages)
            _mark(writer, row, ages, found)
            return found

    def remove_marked(self, remove: Remove, now: datetime) -> list[OSError]:
        """Have the files of every marked series removed. Returns what `remove` raised; those series stay marked."""
        with self._read() as session:
            marked = session.scalars(select(SeriesRow.id).where(SeriesRow.purging).order_by(SeriesRow.id)).all()
        failures: list[OSError] = []
        for series_id in marked:
            try:
                with self._write(now) as writer:
                    row = writer.session.get_one(SeriesRow, series_id)
                    remove(*_marked_paths(writer.session, row))
                    row.purging = False
            except OSError as error:  # one file that cannot be removed must not keep all others
                failures.append(error)
        return failures


def _due(ages: Ages) -> Select[SeriesRow]:
    """Series of which something may go: ended long enough ago, and with them every series of their study.

    While a series of the study is under way or has failed, the others may still be chosen in its place.
    """
    sibling = aliased(SeriesRow)
    open_sibling = exists().where(sibling.study_uid == SeriesRow.study_uid, sibling.state.not_in(sorted(ENDED)))
    return select(SeriesRow).where(
        SeriesRow.state.in_(sorted(ENDED)), or_(_sources_due(ages), _results_due(ages)), ~open_sibling
    )


def _sources_due(ages: Ages) -> ColumnElement[bool]:
    return and_(SeriesRow.sources_purged_at.is_(None), SeriesRow.changed_at <= ages.sources_before)


def _results_due(ages: Ages) -> ColumnElement[bool]:
    """Also those of earlier revisions, unless one is still on its way: a PACS may have to be sent it again."""
    on_its_way = (
        exists()
        .where(DeliveryRow.result_id == ResultRow.id, ResultRow.source_id == SeriesRow.id)
        .where(DeliveryRow.state.in_((DeliveryState.PENDING, DeliveryState.SENT)))
    )
    return and_(SeriesRow.results_purged_at.is_(None), SeriesRow.changed_at <= ages.results_before, ~on_its_way)


def _counted(session: Session, row: SeriesRow, ages: Ages) -> Purgeable:
    """What of a series would go."""
    sources = results = size_bytes = 0
    if row.sources_purged_at is None and row.changed_at <= ages.sources_before:
        kept = select(func.count(), func.coalesce(func.sum(InstanceRow.size_bytes), 0)).where(
            InstanceRow.series_id == row.id, InstanceRow.purged_at.is_(None)
        )
        sources, size_bytes = session.execute(kept).one()
    if _results_go(session, row, ages):
        written = select(func.count()).where(ResultRow.source_id == row.id, ResultRow.purged_at.is_(None))
        results = session.scalars(written).one()
    return Purgeable(row.series_uid, SeriesState(row.state), row.changed_at, sources, int(size_bytes), results)


def _results_go(session: Session, row: SeriesRow, ages: Ages) -> bool:
    return session.scalar(select(SeriesRow.id).where(SeriesRow.id == row.id, _results_due(ages))) is not None


def _mark(writer: Writer, row: SeriesRow, ages: Ages, found: Purgeable) -> None:
    told = []
    if row.sources_purged_at is None and row.changed_at <= ages.sources_before:
        sources = update(InstanceRow).where(InstanceRow.series_id == row.id, InstanceRow.purged_at.is_(None))
        writer.session.execute(sources.values(purged_at=writer.now))
        told += [f"{found.sources} received file(s)"] if found.sources else []
        row.sources_purged_at = writer.now
    if _results_go(writer.session, row, ages):
        results = update(ResultRow).where(ResultRow.source_id == row.id, ResultRow.purged_at.is_(None))
        writer.session.execute(results.values(purged_at=writer.now))
        told += [f"{found.results} result object(s)"] if found.results else []
        row.results_purged_at = writer.now
    row.purging = True
    if told:
        writer.event("series", f"purged by retention: {', '.join(told)}", series_id=row.id, subject_id=row.id)


def _marked_paths(session: Session, row: SeriesRow) -> tuple[Sequence[str], Sequence[str]]:
    sources = select(InstanceRow.path).where(InstanceRow.series_id == row.id, InstanceRow.purged_at.is_not(None))
    results = select(ResultRow.path).where(ResultRow.source_id == row.id, ResultRow.purged_at.is_not(None))
    # Once all have gone, what no row names goes too: of a worker that was killed, or that came too late.
    whole = [results_folder(row.series_uid)] if row.results_purged_at is not None and row.state in ENDED else []
    return session.scalars(sources).all(), [*session.scalars(results).all(), *whole]
