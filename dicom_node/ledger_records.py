"""What the ledger gives and takes: frozen values, no ORM rows. Every time is time zone aware (UTC)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from dicom_node.states import DeliveryState, InstanceState, JobState, RetrievalState, SeriesState
from pipeline.others import OtherSeries
from pipeline.types import ResultKind


@dataclass(frozen=True)
class SeriesIdentity:
    """Whose a series is and what it calls itself, as one header says it."""

    series_uid: str
    study_uid: str
    patient_id: str = ""
    patient_id_issuer: str = ""
    patient_name: str = ""
    accession_number: str = ""
    study_date: str = ""
    modality: str = ""
    description: str = ""
    calling_ae: str = ""
    peer_address: str = ""

    @classmethod
    def of(
        cls, header: Mapping[str, Any], series_uid: str, calling_ae: str = "", peer_address: str = ""
    ) -> SeriesIdentity:
        """From the header of one instance, as `InstanceRecord.header` holds it."""

        def text(keyword: str) -> str:
            return str(header.get(keyword) or "")

        return cls(
            series_uid=series_uid,
            study_uid=text("StudyInstanceUID"),
            patient_id=text("PatientID"),
            patient_id_issuer=text("IssuerOfPatientID"),
            patient_name=text("PatientName"),
            accession_number=text("AccessionNumber"),
            study_date=text("StudyDate"),
            modality=text("Modality"),
            description=text("SeriesDescription"),
            calling_ae=calling_ae,
            peer_address=peer_address,
        )


@dataclass(frozen=True)
class SeriesRecord:
    """One series as it stands.

    Attributes:
        reason: why it stands where it stands, a sentence for a person; empty while nothing is to be said.
        completeness: how it was shown that the series is whole; goes into the SR.
        revision: counts what was handed to analysis; 1 for the first.
        version: grows with every change of the series or its instances; decisions name the one that they saw.
        candidate: whole and fit for analysis by the rules, not turned down by the pipeline.
        preferred: a person asked for this one among the series of its study.
        instances: number of CURRENT instances.
        sources_purged_at: since when its received files are removed; None while they are here, or some came after.
        results_purged_at: since when its result files are removed.
    """

    id: int
    identity: SeriesIdentity
    state: SeriesState
    reason: str
    completeness: str
    revision: int
    version: int
    candidate: bool
    preferred: bool
    instances: int
    created_at: datetime
    last_instance_at: datetime
    changed_at: datetime
    sources_purged_at: datetime | None = None
    results_purged_at: datetime | None = None

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID."""
        return self.identity.series_uid

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID of the newest header."""
        return self.identity.study_uid

    @property
    def place(self) -> Place:
        """Where it stands in the list of all series."""
        return Place(self.last_instance_at, self.id)


class Place(NamedTuple):
    """Where a series stands in the list of all, newest instance first."""

    at: datetime
    id: int


@dataclass(frozen=True)
class SeriesPage:
    """A part of that list, and whether there is more on either side."""

    records: tuple[SeriesRecord, ...]
    has_newer: bool
    has_older: bool


@dataclass(frozen=True)
class InstanceRecord:
    """One received file.

    Attributes:
        path: relative to the archive folder.
        header: the tags that rules read.
        purged: the file is removed, or will be at any moment.
    """

    id: int
    series_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    state: InstanceState
    path: str
    size_bytes: int
    dataset_sha256: str
    pixel_sha256: str
    header: Mapping[str, Any] = field(repr=False)
    received_at: datetime
    purged: bool = False


@dataclass(frozen=True)
class Told:
    """Who is told of studies without a result, and in which form (`pipeline.notice`)."""

    destination: str
    profile: str
    form: str


@dataclass(frozen=True)
class AnnouncementRecord:
    """Why a study has no result, for one destination; `image_series_uid` names a series with an image of it."""

    id: int
    study_uid: str
    image_series_uid: str
    form: str
    reasons: tuple[str, ...]
    attempts: int
    created_at: datetime


class Verdict(StrEnum):
    """What a received file is, beside what is kept of the same SOP instance."""

    NEW = "new"
    KNOWN = "known"  # the data set that counts, or kept in another transfer syntax already: nothing changes
    RECODED = "recoded"  # equal header and pixels in another transfer syntax: nothing changes
    RESTORED = "restored"  # a copy in another transfer syntax of one that was purged: takes its place
    CORRECTED = "corrected"  # other header, equal pixels: takes the place of the one kept
    CONFLICTING = "conflicting"  # other pixels: kept beside it, the series is not analysed


@dataclass(frozen=True)
class Filing:
    """One received file, judged, for `Ledger.file_instances`.

    Attributes:
        replaces: id of the CURRENT instance that the verdict was reached against; None for NEW.
    """

    identity: SeriesIdentity
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    size_bytes: int
    dataset_sha256: str
    pixel_sha256: str
    header: Mapping[str, Any] = field(repr=False)
    verdict: Verdict = Verdict.NEW
    replaces: int | None = None


@dataclass(frozen=True)
class JobRecord:
    """One analysis of one revision of a series.

    `report` is the content of result.json of a finished one; `others` are the series of the study that were not
    analysed, as they were when this one was chosen.
    """

    id: int
    series_uid: str
    revision: int
    state: JobState
    attempts: int
    reason: str
    report: Mapping[str, Any] | None = field(repr=False)
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    others: tuple[OtherSeries, ...] = ()


@dataclass(frozen=True)
class ResultRecord:
    """One encoded result object. `path` is relative to the results folder; the UIDs are the object's own."""

    id: int
    job_id: int
    revision: int
    profile: str
    kind: ResultKind
    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str
    sha256: str
    current: bool
    purged: bool = False


@dataclass(frozen=True)
class Delivery:
    """One result object for one destination.

    Attributes:
        source_series_uid: the CT series that was analysed; the other UIDs are those of the result object.
        path: of the encoded object, relative to the results folder; these bytes are sent.
        attempts: associations or stores tried so far; grows with `delivery_sent` and `delivery_postponed`.
        first_pending_at: since when it is to be delivered; `RetryPolicy` gives up so long after it.
        next_attempt_at: not before this.
        sent_at: the peer's success status; None before.
        asked_at: when commitment was last asked for, under `transaction_uid`.
        warning: what the peer remarked when it stored the object (B000, …); counts as stored.
    """

    id: int
    destination: str
    state: DeliveryState
    source_series_uid: str
    revision: int
    profile: str
    kind: ResultKind
    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str
    sha256: str
    current: bool
    attempts: int
    reason: str
    warning: str
    first_pending_at: datetime
    next_attempt_at: datetime
    sent_at: datetime | None
    asked_at: datetime | None
    committed_at: datetime | None
    transaction_uid: str | None


@dataclass(frozen=True)
class Backlog:
    """What one destination still lacks: objects by state.

    Attributes:
        oldest_at: since when the oldest PENDING one waits.
        next_attempt_at: when the first of them is tried next.
        last_success_at: when it last committed something.
        last_error: why the newest of those that have not arrived does not; empty where nothing has gone wrong.
        last_error_of: whose that one is.
    """

    destination: str
    pending: int
    sent: int
    failed: int
    oldest_at: datetime | None
    next_attempt_at: datetime | None
    last_success_at: datetime | None
    last_error: str
    last_error_at: datetime | None
    last_error_of: SeriesIdentity | None


@dataclass(frozen=True)
class Wanted:
    """A series that is to be brought from a source, for `Ledger.request_retrievals`."""

    study_uid: str
    series_uid: str


@dataclass(frozen=True)
class Retrieval:
    """One series that is brought from a source.

    Attributes:
        why: who asked for it.
        attempts: how often it was tried without bringing everything.
        wanted: instances that were lacking; `fetched` of them have come since.
    """

    id: int
    source: str
    study_uid: str
    series_uid: str
    why: str
    state: RetrievalState
    attempts: int
    wanted: int
    fetched: int
    reason: str
    created_at: datetime
    next_attempt_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class Event:
    """What happened, when and why. `subject` is "series", "job", "delivery", "instance" or "node"."""

    at: datetime
    subject: str
    subject_id: int | None
    series_uid: str | None
    old_state: str
    new_state: str
    reason: str


@dataclass(frozen=True)
class SeriesDetails:
    """All that is known about one series, oldest first within each field."""

    series: SeriesRecord
    instances: Mapping[InstanceState, int]
    jobs: tuple[JobRecord, ...]
    results: tuple[ResultRecord, ...]
    deliveries: tuple[Delivery, ...]
    retrievals: tuple[Retrieval, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Choice:
    """Outcome of selection in one study: the series to analyse, and why not each of the others.

    Attributes:
        others: SeriesInstanceUID → reason, of the candidates that were not chosen.
        seen: every series of the study, as it was seen.
        unanalysed: what the results are to say about every series of the study that is not analysed.
    """

    chosen: SeriesRecord | None
    why: str
    others: Mapping[str, str]
    seen: tuple[SeriesRecord, ...]
    unanalysed: tuple[OtherSeries, ...] = ()


@dataclass(frozen=True)
class Ages:
    """What may be purged: sources and results of series that have not changed since."""

    sources_before: datetime
    results_before: datetime


@dataclass(frozen=True)
class Purgeable:
    """What of one series is or was purged."""

    series_uid: str
    state: SeriesState
    changed_at: datetime
    sources: int
    source_bytes: int
    results: int
