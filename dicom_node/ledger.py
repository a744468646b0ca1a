"""Every query and every change of state, each change with its event rows in one transaction.

SQLite (WAL) or PostgreSQL by URL. One engine per process; every method is a short transaction of its own and may
be called from any thread. Frozen records go in and out (`ledger_records`); no ORM row leaves.

Every change takes `now`, time zone aware: the ledger has no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from dicom_node.ledger_records import (
    Choice,
    Delivery,
    Event,
    Filing,
    InstanceRecord,
    JobRecord,
    ResultRecord,
    SeriesDetails,
    SeriesIdentity,
    SeriesRecord,
    Verdict,
)
from dicom_node.states import SeriesState
from pipeline.types import AnalysisOutcome, ObjectReference

__all__ = [
    "Choice",
    "Delivery",
    "Event",
    "Filing",
    "InstanceRecord",
    "JobRecord",
    "Ledger",
    "ResultRecord",
    "SeriesDetails",
    "SeriesIdentity",
    "SeriesRecord",
    "Verdict",
]


class Ledger:
    """The only truth about what was received, what is to be done and what came of it."""

    def __init__(self, url: str, *, migrate: bool = True) -> None:
        """Open `url` (SQLAlchemy); bring its schema up to date unless `migrate` is False (read-only commands).

        Raises:
            NodeError: the database cannot be opened, or its schema is newer than this software.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give back the connections."""
        raise NotImplementedError

    # --- status -------------------------------------------------------------------------------------------

    def list_series(
        self,
        *,
        states: Collection[SeriesState] = (),
        text: str = "",
        study_uid: str = "",
        limit: int = 50,
        before: SeriesRecord | None = None,
    ) -> list[SeriesRecord]:
        """Series, newest instance first.

        Args:
            states: only these; empty for all.
            text: only where it is the patient ID, accession number, study or series UID (exactly).
            study_uid: only this study.
            limit: at most so many.
            before: the last record of the page before this one.
        """
        raise NotImplementedError

    def counts(self) -> dict[SeriesState, int]:
        """How many series are in each state; every state is a key."""
        raise NotImplementedError

    def series(self, series_uid: str) -> SeriesRecord:
        """One series; NotFound when it was never received."""
        raise NotImplementedError

    def details(self, series_uid: str) -> SeriesDetails:
        """One series with jobs, results, deliveries and events; NotFound when it was never received."""
        raise NotImplementedError

    def recent_events(self, limit: int = 50) -> list[Event]:
        """The newest events of all subjects, newest first; those without series among them (quarantine)."""
        raise NotImplementedError

    def note(self, reason: str, now: datetime, *, series_uid: str | None = None, subject: str = "node") -> None:
        """Leave an event that is no change of state."""
        raise NotImplementedError

    # --- by a person --------------------------------------------------------------------------------------

    def retry(self, series_uid: str, now: datetime) -> SeriesRecord:
        """Do again what ended badly: deliveries that failed, else the analysis, else the rules.

        Failed or cancelled deliveries of the current revision become due at once, waiting ones too. A failed or
        rejected analysis is queued again. A DELIVERED series is analysed again as a new revision. A series that
        lost in selection is preferred from now on. Of conflicting instances those received last count.

        Raises:
            NotFound: never received.
            IllegalTransition: it is still being received, waits for its study or for a worker.
        """
        raise NotImplementedError

    def cancel(self, series_uid: str, now: datetime) -> SeriesRecord:
        """Stop: the job and the deliveries that were not sent yet are cancelled.

        Raises:
            NotFound: never received.
            IllegalTransition: it is delivered or cancelled already.
        """
        raise NotImplementedError

    # --- reception ----------------------------------------------------------------------------------------

    def kept_instances(self, sop_instance_uids: Collection[str]) -> dict[str, list[InstanceRecord]]:
        """What is kept of these SOP instances, in every state; UIDs of which nothing is kept are left out."""
        raise NotImplementedError

    def file_instances(self, filings: Sequence[Filing], now: datetime) -> None:
        """Record received files in one transaction; series are made, follow the newest header, and reopen.

        Raises:
            IllegalTransition: a verdict was reached against an instance that is not CURRENT any more.
        """
        raise NotImplementedError

    def current_instances(self, series_uid: str) -> list[InstanceRecord]:
        """The instances that count, and the CONFLICTING ones, by SOPInstanceUID."""
        raise NotImplementedError

    # --- completion and selection ---------------------------------------------------------------------------

    def receiving(self) -> list[SeriesRecord]:
        """Series in RECEIVING, longest quiet first."""
        raise NotImplementedError

    def complete_studies(self) -> list[str]:
        """StudyInstanceUIDs that have a COMPLETE series, which selection has to look at."""
        raise NotImplementedError

    def settle(
        self, seen: SeriesRecord, state: SeriesState, reason: str, now: datetime, *, completeness: str = ""
    ) -> bool:
        """End RECEIVING: COMPLETE (with `completeness`), INCOMPLETE or NOT_ANALYSED. False: it changed meanwhile."""
        raise NotImplementedError

    def select(self, choice: Choice, now: datetime) -> bool:
        """Queue the chosen series and turn the others down. False: one of them changed meanwhile."""
        raise NotImplementedError

    # --- jobs -----------------------------------------------------------------------------------------------

    def recover_jobs(self, now: datetime, max_attempts: int) -> int:
        """At start-up: RUNNING → WAITING, or FAILED after so many attempts. How many there were."""
        raise NotImplementedError

    def claim_job(self, now: datetime) -> JobRecord | None:
        """The job that waits longest → RUNNING, its attempt counted; None when none waits."""
        raise NotImplementedError

    def job(self, job_id: int) -> JobRecord:
        """One job; NotFound."""
        raise NotImplementedError

    def predecessors(self, job_id: int) -> dict[str, ObjectReference]:
        """By profile, the newest earlier SR of the same series or study that a destination was sent."""
        raise NotImplementedError

    def job_done(
        self,
        job_id: int,
        outcome: AnalysisOutcome,
        paths: Mapping[str, str],
        profiles: Mapping[str, str],
        now: datetime,
    ) -> bool:
        """Results and deliveries of a finished job; the series becomes ANALYSED. False: the job was cancelled.

        Args:
            job_id: must be RUNNING.
            outcome: as the worker gave it back.
            paths: SOPInstanceUID → path relative to the results folder.
            profiles: destination name → profile name.
            now: time of the change.
        """
        raise NotImplementedError

    def job_rejected(self, job_id: int, reason: str, now: datetime) -> bool:
        """The pipeline cannot analyse the series: NOT_ANALYSED, and the next best of the study is considered."""
        raise NotImplementedError

    def job_failed(self, job_id: int, reason: str, now: datetime) -> bool:
        """It will not work without a person: FAILED."""
        raise NotImplementedError

    def job_interrupted(self, job_id: int, reason: str, now: datetime, max_attempts: int) -> bool:
        """The worker died, ran into the deadline or stumbled: again, or FAILED after `max_attempts`."""
        raise NotImplementedError

    def job_returned(self, job_id: int, now: datetime) -> bool:
        """The node stops: RUNNING → WAITING, this attempt does not count."""
        raise NotImplementedError

    # --- deliveries -------------------------------------------------------------------------------------------

    def due_deliveries(self, destination: str, now: datetime, limit: int = 100) -> list[Delivery]:
        """PENDING and due, oldest result set first, in the order of `ResultKind` within a set: the SR comes last.

        An SR is not due while another object of its set waits for a later attempt at the same destination.
        """
        raise NotImplementedError

    def next_delivery_at(self, destination: str) -> datetime | None:
        """The earliest `next_attempt_at` of what is PENDING; None when nothing is."""
        raise NotImplementedError

    def sent_deliveries(self, destination: str, before: datetime) -> list[Delivery]:
        """SENT, and neither sent nor asked about after `before`: there was no answer since."""
        raise NotImplementedError

    def next_sent_at(self, destination: str) -> datetime | None:
        """The earliest time at which something that is still SENT was sent or last asked about; None: nothing is."""
        raise NotImplementedError

    def deliveries_of_transaction(self, transaction_uid: str) -> list[Delivery]:
        """Those whose commitment was asked for under this Transaction UID; empty when unknown."""
        raise NotImplementedError

    def delivery_sent(self, delivery_id: int, now: datetime, warning: str = "") -> None:
        """The peer answered with success or a warning: SENT. Also one that was cancelled meanwhile: it is there."""
        raise NotImplementedError

    def delivery_postponed(self, delivery_id: int, until: datetime, now: datetime, reason: str) -> None:
        """A transient error: stays PENDING, attempt counted. Nothing happens to one cancelled meanwhile."""
        raise NotImplementedError

    def delivery_failed(self, delivery_id: int, now: datetime, reason: str) -> None:
        """A permanent error: FAILED, and the series with it when the result is current."""
        raise NotImplementedError

    def delivery_committed(self, delivery_id: int, now: datetime) -> None:
        """The PACS has it for good: COMMITTED. The last one of the current revision makes the series DELIVERED."""
        raise NotImplementedError

    def open_transaction(self, delivery_ids: Collection[int], transaction_uid: str, now: datetime) -> None:
        """Persist the Transaction UID (PS3.4 J.3.2) of SENT deliveries, before the N-ACTION goes out."""
        raise NotImplementedError

    def resend(self, delivery_id: int, now: datetime, reason: str) -> None:
        """The peer does not have it after all: SENT → PENDING, due at once; CANCELLED where it was superseded."""
        raise NotImplementedError
