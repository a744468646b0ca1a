"""The schema. Constraints guard what must never be true; `ledger` is the only module that queries these tables.

Times are UTC without offset in the database (SQLite keeps none) and time zone aware outside it.
Migrations live in `dicom_node/migrations`; a test compares them with this file.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
Uid = String(64)  # PS3.5 9.1


class Utc(TypeDecorator[datetime]):
    """A time zone aware datetime, kept as naive UTC."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times: they would silently be local ones."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime cannot go into the ledger")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the time zone back."""
        return None if value is None else value.replace(tzinfo=UTC)


def storable(value: str) -> str:
    """`value` without what a database refuses in texts: NUL and lone surrogates."""
    return value.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


class Plain(TypeDecorator[str]):
    """Text that both databases take: no NUL, no lone surrogate, cut to the column's length.

    Texts come off the wire and out of exceptions. PostgreSQL refuses NUL and texts that are too long, and a refused
    row would be a received instance that nobody knows of.
    """

    impl = Text
    cache_ok = True

    def __init__(self, length: int = 4000) -> None:
        super().__init__()
        self.length = length

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Clean and cut; the last character of a cut text is an ellipsis."""
        if value is None:
            return None
        clean = storable(value)
        return clean if len(clean) <= self.length else clean[: self.length - 1] + "…"


class Base(DeclarativeBase):
    """Declarative base with stable constraint names, which Alembic's batch mode needs."""

    metadata = MetaData(naming_convention=NAMING)


class SeriesRow(Base):
    """One series, as last seen. Patient and study belong to the newest header received."""

    __tablename__ = "series"
    id: Mapped[int] = mapped_column(primary_key=True)
    series_uid: Mapped[str] = mapped_column(Uid, unique=True)
    study_uid: Mapped[str] = mapped_column(Uid, index=True)
    patient_id: Mapped[str] = mapped_column(Plain(256), default="", index=True)
    patient_id_issuer: Mapped[str] = mapped_column(Plain(256), default="")
    patient_name: Mapped[str] = mapped_column(Plain(), default="")
    accession_number: Mapped[str] = mapped_column(Plain(64), default="", index=True)
    study_date: Mapped[str] = mapped_column(Plain(16), default="")
    modality: Mapped[str] = mapped_column(Plain(64), default="")
    description: Mapped[str] = mapped_column(Plain(), default="")
    calling_ae: Mapped[str] = mapped_column(Plain(16), default="")
    peer_address: Mapped[str] = mapped_column(Plain(64), default="")
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Plain(), default="")
    completeness: Mapped[str] = mapped_column(Plain(), default="")
    revision: Mapped[int] = mapped_column(Integer, default=1)
    version: Mapped[int] = mapped_column(Integer, default=1)  # grows with every change; guards decisions
    candidate: Mapped[bool] = mapped_column(Boolean, default=False)  # selection may choose it
    preferred: Mapped[bool] = mapped_column(Boolean, default=False)  # a person asked for it
    created_at: Mapped[datetime] = mapped_column(Utc)
    last_instance_at: Mapped[datetime] = mapped_column(Utc)
    changed_at: Mapped[datetime] = mapped_column(Utc)
    sources_purged_at: Mapped[datetime | None] = mapped_column(Utc)  # None again when instances come after it
    results_purged_at: Mapped[datetime | None] = mapped_column(Utc)
    purging: Mapped[bool] = mapped_column(Boolean, default=False)  # files that are marked may still be there
    __table_args__ = (
        Index("ix_series_newest", "last_instance_at", "id"),
        Index("ix_series_newest_of_state", "state", "last_instance_at", "id"),
        *(
            Index(f"ix_series_{name}", column, sqlite_where=text(where), postgresql_where=text(where))
            for name, column, where in (
                ("sources_kept", "changed_at", "sources_purged_at IS NULL"),
                ("results_kept", "changed_at", "results_purged_at IS NULL"),
                ("purging", "id", "purging"),
            )
        ),
        CheckConstraint("revision >= 1", name="revision"),
    )


class InstanceRow(Base):
    """One received file. At most one per SOP instance is current."""

    __tablename__ = "instance"
    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"))
    sop_instance_uid: Mapped[str] = mapped_column(Uid)
    sop_class_uid: Mapped[str] = mapped_column(Uid)
    transfer_syntax_uid: Mapped[str] = mapped_column(Uid)
    state: Mapped[str] = mapped_column(String(16))
    path: Mapped[str] = mapped_column(Text)  # relative to the archive folder
    size_bytes: Mapped[int] = mapped_column(Integer)
    dataset_sha256: Mapped[str] = mapped_column(String(64))  # without file meta: that differs with the sender
    pixel_sha256: Mapped[str] = mapped_column(String(64))
    header: Mapped[dict[str, object]] = mapped_column(JSON)  # the tags that completion and selection read
    received_at: Mapped[datetime] = mapped_column(Utc)
    purged_at: Mapped[datetime | None] = mapped_column(Utc)  # since then nothing relies on the file
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "dataset_sha256"),
        Index("ix_instance_of_series", "series_id", "state"),
        Index(
            "ix_instance_current",
            "sop_instance_uid",
            unique=True,
            sqlite_where=text("state = 'current'"),
            postgresql_where=text("state = 'current'"),
        ),
    )


class JobRow(Base):
    """One analysis of one revision of a series."""

    __tablename__ = "job"
    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"))
    revision: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16), index=True)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    reason: Mapped[str] = mapped_column(Plain(), default="")
    report: Mapped[dict[str, object] | None] = mapped_column(JSON)  # content of result.json
    # Earlier results that it is given (`pipeline.priors.to_json`), like the files the same in every attempt.
    priors: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    priors_found: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # what archives had
    # Series of the study that were not analysed when it was chosen (`pipeline.others.to_json`).
    others: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(Utc)  # the `created` of every result of this job
    started_at: Mapped[datetime | None] = mapped_column(Utc)
    finished_at: Mapped[datetime | None] = mapped_column(Utc)
    __table_args__ = (
        UniqueConstraint("series_id", "revision"),
        CheckConstraint("attempts >= 0", name="attempts"),
        Index(
            "ix_job_running",
            "series_id",
            unique=True,
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
    )


class ResultRow(Base):
    """One encoded result object; its bytes lie under the results folder and never change.

    Of one series, one object of each kind and profile is current.
    """

    __tablename__ = "result"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    source_id: Mapped[int] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"), index=True)  # analysed
    profile: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    study_uid: Mapped[str] = mapped_column(Uid)
    series_uid: Mapped[str] = mapped_column(Uid)
    sop_class_uid: Mapped[str] = mapped_column(Uid)
    sop_instance_uid: Mapped[str] = mapped_column(Uid, unique=True)
    path: Mapped[str] = mapped_column(Text)  # relative to the results folder
    sha256: Mapped[str] = mapped_column(String(64))
    current: Mapped[bool] = mapped_column(Boolean, default=True)
    purged_at: Mapped[datetime | None] = mapped_column(Utc)  # since then nothing relies on the file
    __table_args__ = (
        UniqueConstraint("job_id", "profile", "kind"),
        Index(
            "ix_result_current",
            "source_id",
            "profile",
            "kind",
            unique=True,
            sqlite_where=text("current"),
            postgresql_where=text("current"),
        ),
    )


class DeliveryRow(Base):
    """One object for one destination."""

    __tablename__ = "delivery"
    id: Mapped[int] = mapped_column(primary_key=True)
    result_id: Mapped[int] = mapped_column(ForeignKey("result.id", ondelete="CASCADE"))
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    first_pending_at: Mapped[datetime] = mapped_column(Utc)
    next_attempt_at: Mapped[datetime] = mapped_column(Utc)
    transaction_uid: Mapped[str | None] = mapped_column(Uid, index=True)
    reason: Mapped[str] = mapped_column(Plain(), default="")
    warning: Mapped[str] = mapped_column(Plain(), default="")
    begun_at: Mapped[datetime | None] = mapped_column(Utc)  # last put on the wire; the peer may have it since
    sent_at: Mapped[datetime | None] = mapped_column(Utc)
    asked_at: Mapped[datetime | None] = mapped_column(Utc)  # when commitment was last asked for
    committed_at: Mapped[datetime | None] = mapped_column(Utc)
    __table_args__ = (
        UniqueConstraint("result_id", "destination"),
        Index("ix_delivery_due", "destination", "state", "next_attempt_at"),
        Index("ix_delivery_committed", "destination", "committed_at"),
    )


class AnnouncementRow(Base):
    """Why a study has no result, for one destination. Other reasons later are another notice."""

    __tablename__ = "announcement"
    id: Mapped[int] = mapped_column(primary_key=True)
    study_uid: Mapped[str] = mapped_column(Uid)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"))  # header is taken from it
    destination: Mapped[str] = mapped_column(String(64))
    profile: Mapped[str] = mapped_column(String(64))
    form: Mapped[str] = mapped_column(String(16))
    reasons: Mapped[list[str]] = mapped_column(JSON)
    digest: Mapped[str] = mapped_column(String(64))  # of the reasons
    state: Mapped[str] = mapped_column(String(16))  # pending, sent, failed, cancelled: as of a delivery
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    created_at: Mapped[datetime] = mapped_column(Utc)
    next_attempt_at: Mapped[datetime] = mapped_column(Utc)
    begun_at: Mapped[datetime | None] = mapped_column(Utc)  # put on the wire; the peer may have the object since
    series_uid: Mapped[str] = mapped_column(Uid, default="")
    sop_class_uid: Mapped[str] = mapped_column(Uid, default="")
    sop_instance_uid: Mapped[str] = mapped_column(Uid, default="")
    __table_args__ = (
        UniqueConstraint("study_uid", "destination", "digest"),
        Index("ix_announcement_due", "destination", "state", "next_attempt_at"),
    )


class RetrievalRow(Base):
    """Bring all instances of one series from a source. Of one series and source, at most one is waiting."""

    __tablename__ = "retrieval"
    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(64))
    study_uid: Mapped[str] = mapped_column(Uid)
    series_uid: Mapped[str] = mapped_column(Uid, index=True)  # nothing of it may have come yet
    why: Mapped[str] = mapped_column(Plain())
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    wanted: Mapped[int] = mapped_column(Integer, default=0)  # instances that were lacking
    fetched: Mapped[int] = mapped_column(Integer, default=0)  # of these, have come since
    reason: Mapped[str] = mapped_column(Plain(), default="")
    created_at: Mapped[datetime] = mapped_column(Utc)
    next_attempt_at: Mapped[datetime] = mapped_column(Utc)
    finished_at: Mapped[datetime | None] = mapped_column(Utc)
    __table_args__ = (
        Index("ix_retrieval_due", "source", "state", "next_attempt_at"),
        Index(
            "ix_retrieval_waiting",
            "source",
            "series_uid",
            unique=True,
            sqlite_where=text("state = 'waiting'"),
            postgresql_where=text("state = 'waiting'"),
        ),
    )


class NoticeRow(Base):
    """What a channel of notifications was told last of one kind, and what it is still to be told."""

    __tablename__ = "notice"
    id: Mapped[int] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    active: Mapped[bool] = mapped_column(Boolean, default=False)
    mark: Mapped[int] = mapped_column(Integer, default=0)  # id of the last event that it was told of
    count: Mapped[int] = mapped_column(Integer, default=0)  # how many it was told of
    told_at: Mapped[datetime | None] = mapped_column(Utc)  # when the last message was written
    message: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # that is to be sent
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_attempt_at: Mapped[datetime | None] = mapped_column(Utc)
    error: Mapped[str] = mapped_column(Plain(), default="")
    __table_args__ = (UniqueConstraint("channel", "kind"),)


class EventRow(Base):
    """What happened, when and why: one per transition, and one per thing worth telling."""

    __tablename__ = "event"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(Utc)
    subject: Mapped[str] = mapped_column(String(16))  # series, job, delivery, instance, node
    subject_id: Mapped[int | None] = mapped_column(Integer)
    series_id: Mapped[int | None] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"), index=True)
    old_state: Mapped[str] = mapped_column(String(16), default="")
    new_state: Mapped[str] = mapped_column(String(16), default="")
    reason: Mapped[str] = mapped_column(Plain(), default="")
