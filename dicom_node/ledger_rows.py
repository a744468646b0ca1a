"""Rows → frozen records, and the queries that fetch what a record needs in one go."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, select

from dicom_node.ledger_records import (
    Delivery,
    Event,
    InstanceRecord,
    JobRecord,
    ResultRecord,
    Retrieval,
    SeriesIdentity,
    SeriesRecord,
)
from dicom_node.states import DeliveryState, InstanceState, JobState, RetrievalState, SeriesState
from dicom_node.tables import (
    AnnouncementRow,
    DeliveryRow,
    EventRow,
    InstanceRow,
    JobRow,
    ResultRow,
    RetrievalRow,
    SeriesRow,
)
from pipeline import others
from pipeline.types import ObjectReference, ResultKind

INSTANCE_COUNT: ColumnElement[int] = (
    select(func.count(InstanceRow.id))
    .where(InstanceRow.series_id == SeriesRow.id, InstanceRow.state == InstanceState.CURRENT)
    .correlate(SeriesRow)
    .scalar_subquery()
)


def series_query() -> Select[SeriesRow, int]:
    """Series with the number of their CURRENT instances."""
    return select(SeriesRow, INSTANCE_COUNT)


def identity_of(row: SeriesRow) -> SeriesIdentity:
    """Whose a series is."""
    return SeriesIdentity(**{name: getattr(row, name) for name in SeriesIdentity.__dataclass_fields__})


def series_record(row: SeriesRow, instances: int) -> SeriesRecord:
    """One series as it stands."""
    return SeriesRecord(
        id=row.id,
        identity=identity_of(row),
        state=SeriesState(row.state),
        reason=row.reason,
        completeness=row.completeness,
        revision=row.revision,
        version=row.version,
        candidate=row.candidate,
        preferred=row.preferred,
        instances=instances,
        created_at=row.created_at,
        last_instance_at=row.last_instance_at,
        changed_at=row.changed_at,
        sources_purged_at=row.sources_purged_at,
        results_purged_at=row.results_purged_at,
    )


def instance_record(row: InstanceRow, series_uid: str) -> InstanceRecord:
    """One received file."""
    return InstanceRecord(
        id=row.id,
        series_uid=series_uid,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        state=InstanceState(row.state),
        path=row.path,
        size_bytes=row.size_bytes,
        dataset_sha256=row.dataset_sha256,
        pixel_sha256=row.pixel_sha256,
        header=row.header,
        received_at=row.received_at,
        purged=row.purged_at is not None,
    )


def job_record(row: JobRow, series_uid: str) -> JobRecord:
    """One analysis."""
    return JobRecord(
        id=row.id,
        series_uid=series_uid,
        revision=row.revision,
        state=JobState(row.state),
        attempts=row.attempts,
        reason=row.reason,
        report=row.report,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        others=others.from_json(row.others),
    )


def result_record(row: ResultRow, revision: int) -> ResultRecord:
    """One encoded object."""
    return ResultRecord(
        id=row.id,
        job_id=row.job_id,
        revision=revision,
        profile=row.profile,
        kind=ResultKind(row.kind),
        study_uid=row.study_uid,
        series_uid=row.series_uid,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        path=row.path,
        sha256=row.sha256,
        current=row.current,
        purged=row.purged_at is not None,
    )


def delivery_query() -> Select[DeliveryRow, ResultRow, JobRow, SeriesRow]:
    """Deliveries with all that a record tells about the object."""
    return (
        select(DeliveryRow, ResultRow, JobRow, SeriesRow)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .join(JobRow, JobRow.id == ResultRow.job_id)
        .join(SeriesRow, SeriesRow.id == JobRow.series_id)
    )


def delivery_record(found: Row[DeliveryRow, ResultRow, JobRow, SeriesRow]) -> Delivery:
    """One object for one destination."""
    row, result, job, series = found
    copied: dict[str, Any] = {
        name: getattr(result, name)
        for name in ("profile", "study_uid", "series_uid", "sop_class_uid", "sop_instance_uid", "path", "sha256")
    }
    return Delivery(
        id=row.id,
        destination=row.destination,
        state=DeliveryState(row.state),
        source_series_uid=series.series_uid,
        revision=job.revision,
        kind=ResultKind(result.kind),
        current=result.current,
        attempts=row.attempts,
        reason=row.reason,
        warning=row.warning,
        first_pending_at=row.first_pending_at,
        next_attempt_at=row.next_attempt_at,
        sent_at=row.sent_at,
        asked_at=row.asked_at,
        committed_at=row.committed_at,
        transaction_uid=row.transaction_uid,
        **copied,
    )


def retrieval_record(row: RetrievalRow) -> Retrieval:
    """One series that is brought from a source."""
    copied: dict[str, Any] = {name: getattr(row, name) for name in Retrieval.__dataclass_fields__}
    return Retrieval(**(copied | {"state": RetrievalState(row.state)}))


def event_record(row: EventRow, series_uid: str | None) -> Event:
    """What happened."""
    return Event(
        at=row.at,
        subject=row.subject,
        subject_id=row.subject_id,
        series_uid=series_uid,
        old_state=row.old_state,
        new_state=row.new_state,
        reason=row.reason,
    )


def object_reference(row: ResultRow | AnnouncementRow) -> ObjectReference:
    """Names the object that a row keeps."""
    return ObjectReference(
        study_uid=row.study_uid,
        series_uid=row.series_uid,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
    )
