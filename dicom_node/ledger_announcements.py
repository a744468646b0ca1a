"""The ledger's room for notices: studies that ended without a result, and who is still to be told why.

A notice is one object, stored once: no commitment is asked for it. It goes out only while the study still has no
result, and is named among what a later result of the study replaces.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.ledger_records import AnnouncementRecord, Told
from dicom_node.ledger_rows import object_reference
from dicom_node.ledger_writer import LedgerRoom, Writer
from dicom_node.states import DELIVERY_TRANSITIONS as TRANSITIONS
from dicom_node.states import DeliveryState, InstanceState, SeriesState, check_transition
from dicom_node.tables import AnnouncementRow, DeliveryRow, InstanceRow, ResultRow, SeriesRow
from pipeline.types import ObjectReference

WITHOUT_RESULT = (SeriesState.INCOMPLETE, SeriesState.NOT_ANALYSED, SeriesState.FAILED)
RECENT = timedelta(days=1)  # what ended before is not told: nobody wants a notice for each study of the past
OLDEST = timedelta(days=14)  # of the last instance; a series may wait for missing slices for long


class AnnouncementRoom(LedgerRoom):
    """What is told of studies without a result."""

    def open_announcements(self, told: Told, quiet: timedelta, min_slices: int, now: datetime) -> int:
        """Write down what one destination is to be told. How many notices are new.

        A study is told of once it has been quiet, when nothing of it is on its way to a result, and when it has a
        series that somebody may expect one of: INCOMPLETE, FAILED, or of at least `min_slices` instances.
        """
        ended = (
            select(SeriesRow.study_uid)
            .where(SeriesRow.state.in_(WITHOUT_RESULT), SeriesRow.last_instance_at >= now - OLDEST)
            .where(SeriesRow.changed_at >= now - RECENT, SeriesRow.changed_at <= now - quiet)
            .distinct()
        )
        with self._read() as session:
            studies = [uid for uid in session.scalars(ended) if _is_to_be_told(session, uid, told, min_slices)]
        if not studies:
            return 0
        with self._write(now) as writer:
            return sum(_open(writer, uid, told, min_slices) for uid in studies)

    def abandon_announcements(self, told: Collection[str], now: datetime) -> int:
        """What other destinations were still to be told: CANCELLED, or it would go out when they are told again."""
        query = select(AnnouncementRow).where(
            AnnouncementRow.state == DeliveryState.PENDING, AnnouncementRow.destination.not_in(told)
        )
        with self._write(now) as writer:
            rows = writer.session.scalars(query).all()
            for row in rows:
                _move(writer, row, DeliveryState.CANCELLED, "config.toml does not have it told any more")
            return len(rows)

    def due_announcements(self, destination: str, now: datetime) -> list[AnnouncementRecord]:
        """PENDING and due, oldest first."""
        query = (
            select(AnnouncementRow, SeriesRow.series_uid)
            .join(SeriesRow, SeriesRow.id == AnnouncementRow.series_id)
            .where(AnnouncementRow.destination == destination, AnnouncementRow.state == DeliveryState.PENDING)
            .where(AnnouncementRow.next_attempt_at <= now)
            .order_by(AnnouncementRow.id)
            .limit(100)
        )
        with self._read() as session:
            return [_record(row, series_uid) for row, series_uid in session.execute(query)]

    def next_announcement_at(self, destination: str) -> datetime | None:
        """The earliest `next_attempt_at` of what is PENDING."""
        query = select(func.min(AnnouncementRow.next_attempt_at)).where(
            AnnouncementRow.destination == destination, AnnouncementRow.state == DeliveryState.PENDING
        )
        with self._read() as session:
            return session.scalar(query)

    def begin_announcement(
        self, announcement_id: int, reference: ObjectReference, min_slices: int, now: datetime
    ) -> bool:
        """About to be put on the wire; False where it is not the truth about the study of the object any more."""
        with self._write(now) as writer:
            row = writer.session.get_one(AnnouncementRow, announcement_id)
            if row.state != DeliveryState.PENDING:
                return False
            _, reasons = _reasons(writer.session, row.study_uid, min_slices)
            if _digest(reasons) != row.digest or reference.study_uid != row.study_uid:
                _move(writer, row, DeliveryState.CANCELLED, "it does not apply any more")
                return False
            row.begun_at, row.series_uid = now, reference.series_uid
            row.sop_class_uid, row.sop_instance_uid = reference.sop_class_uid, reference.sop_instance_uid
            return True

    def announcement_ended(self, announcement_id: int, state: DeliveryState, reason: str, now: datetime) -> None:
        """SENT or FAILED; nothing where it was cancelled meanwhile."""
        with self._write(now) as writer:
            row = writer.session.get_one(AnnouncementRow, announcement_id)
            if row.state == DeliveryState.PENDING:
                row.attempts += 1
                row.next_attempt_at = now
                _move(writer, row, state, reason)

    def announcement_postponed(self, announcement_id: int, until: datetime, reason: str, now: datetime) -> None:
        """A transient error: again later, attempt counted."""
        with self._write(now) as writer:
            row = writer.session.get_one(AnnouncementRow, announcement_id)
            if row.state == DeliveryState.PENDING:
                row.attempts += 1
                row.next_attempt_at = until
                _move(writer, row, DeliveryState.PENDING, reason)


def sent_announcements(
    session: Session, study_uid: str, profiles: Mapping[str, str]
) -> dict[str, list[ObjectReference]]:
    """By profile, that of then and that of `profiles` by destination, the notices that a destination may have."""
    query = select(AnnouncementRow).where(
        AnnouncementRow.study_uid == study_uid, AnnouncementRow.begun_at.is_not(None)
    )
    found: dict[str, list[ObjectReference]] = {}
    for row in session.scalars(query.order_by(AnnouncementRow.id)):
        for name in {row.profile, profiles.get(row.destination, row.profile)}:
            found.setdefault(name, []).append(object_reference(row))
    return found


def _over(session: Session, study_uid: str) -> list[SeriesRow]:
    """The series of a study that ended without a result; none where any of them is on its way, or has one."""
    rows = session.scalars(select(SeriesRow).where(SeriesRow.study_uid == study_uid).order_by(SeriesRow.id)).all()
    ended = [row for row in rows if row.state in WITHOUT_RESULT]
    others = {row.state for row in rows} - {*WITHOUT_RESULT, SeriesState.CANCELLED}
    results = select(ResultRow.id).where(ResultRow.source_id.in_([row.id for row in rows]), ResultRow.current)
    return [] if others or session.scalar(results.limit(1)) is not None else list(ended)


def _reasons(session: Session, study_uid: str, min_slices: int) -> tuple[list[SeriesRow], list[str]]:
    """The series that are told of, the one that counts most first, and a sentence for each."""
    counted = [(row, _slices(session, row)) for row in _over(session, study_uid)]
    worthy = [
        (row, slices) for row, slices in counted if row.state != SeriesState.NOT_ANALYSED or slices >= min_slices
    ]
    worthy.sort(key=lambda pair: (-pair[1], pair[0].id))
    reasons = [f"{_name(row)} ({slices} images): {row.reason}" for row, slices in worthy]
    if worthy and _had_results(session, study_uid):
        reasons.insert(0, "An earlier result of this study is in the archive and does not count any more")
    return [row for row, _ in worthy], reasons


def _had_results(session: Session, study_uid: str) -> bool:
    """Whether a destination may have results of it."""
    query = select(DeliveryRow.id).join(ResultRow, ResultRow.id == DeliveryRow.result_id)
    sent = query.where(ResultRow.study_uid == study_uid, DeliveryRow.begun_at.is_not(None))
    return session.scalar(sent.limit(1)) is not None


def _slices(session: Session, row: SeriesRow) -> int:
    query = select(func.count(InstanceRow.id)).where(
        InstanceRow.series_id == row.id, InstanceRow.state != InstanceState.SUPERSEDED
    )
    return session.scalar(query) or 0


def _name(row: SeriesRow) -> str:
    return row.description.strip() or f"series {row.series_uid}"


def _digest(reasons: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(reasons)).encode("ascii")).hexdigest()


def _known(session: Session, study_uid: str, told: Told, reasons: Sequence[str]) -> AnnouncementRow | None:
    query = select(AnnouncementRow).where(
        AnnouncementRow.study_uid == study_uid,
        AnnouncementRow.destination == told.destination,
        AnnouncementRow.digest == _digest(reasons),
    )
    return session.scalar(query)


def _is_to_be_told(session: Session, study_uid: str, told: Told, min_slices: int) -> bool:
    """Not where it was told, or is about to be; one that failed is told again once the study ended anew."""
    rows, reasons = _reasons(session, study_uid, min_slices)
    known = _known(session, study_uid, told, reasons)
    if known is None or not reasons:
        return bool(reasons)
    ended_anew = any(row.changed_at > known.next_attempt_at for row in rows)
    return known.state == DeliveryState.CANCELLED or (known.state == DeliveryState.FAILED and ended_anew)


def _open(writer: Writer, study_uid: str, told: Told, min_slices: int) -> bool:
    """Once more under the lock of the transaction: it may have changed since it was looked at."""
    if not _is_to_be_told(writer.session, study_uid, told, min_slices):
        return False
    (row, *_), reasons = _reasons(writer.session, study_uid, min_slices)
    known = _known(writer.session, study_uid, told, reasons)
    if known is not None:
        known.series_id, known.attempts, known.next_attempt_at = row.id, 0, writer.now
        _move(writer, known, DeliveryState.PENDING, "to be told again")
        return True
    notice = AnnouncementRow(
        study_uid=study_uid,
        series_id=row.id,
        destination=told.destination,
        profile=told.profile,
        form=told.form,
        reasons=reasons,
        digest=_digest(reasons),
        state=DeliveryState.PENDING,
        created_at=writer.now,
        next_attempt_at=writer.now,
    )
    writer.session.add(notice)
    writer.session.flush()
    text = f"{told.destination}: is to be told that the study was not analysed"
    writer.event("announced", text, series_id=row.id, subject_id=notice.id, new=DeliveryState.PENDING)
    return True


def _move(writer: Writer, row: AnnouncementRow, state: DeliveryState, reason: str) -> None:
    old = DeliveryState(row.state)
    check_transition(TRANSITIONS, old, state)
    row.state = state
    text = f"{row.destination}: {reason}" if reason else row.destination
    writer.event("announced", text, series_id=row.series_id, subject_id=row.id, old=old, new=state)


def _record(row: AnnouncementRow, image_series_uid: str) -> AnnouncementRecord:
    return AnnouncementRecord(
        id=row.id,
        study_uid=row.study_uid,
        image_series_uid=image_series_uid,
        form=row.form,
        reasons=tuple(row.reasons),
        attempts=row.attempts,
        created_at=row.created_at,
    )
