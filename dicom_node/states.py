"""States of series, jobs and deliveries, and the only ways from one to another. Pure: no database, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from dicom_node.errors import IllegalTransition


class SeriesState(StrEnum):
    """Where a series stands. No series ends silently: the last five carry a reason."""

    RECEIVING = "receiving"  # instances may still come
    COMPLETE = "complete"  # whole by the rules; waits for the study's quiet time and for selection
    QUEUED = "queued"  # selected; its job waits or runs
    ANALYSED = "analysed"  # results exist, not every destination has committed them
    DELIVERED = "delivered"  # every destination has committed every object of the current revision
    INCOMPLETE = "incomplete"  # gave up waiting for missing slices
    NOT_ANALYSED = "not_analysed"  # not meant for analysis, or another series of the study was chosen
    FAILED = "failed"  # analysis failed for good, or a destination refused for good
    CANCELLED = "cancelled"  # by a person


class JobState(StrEnum):
    """Where an analysis stands. RUNNING rows found at start-up go back to WAITING."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    REJECTED = "rejected"  # the pipeline found the series not analysable
    FAILED = "failed"
    CANCELLED = "cancelled"  # by a person, or a newer revision took its place


class DeliveryState(StrEnum):
    """Where one object stands at one destination."""

    PENDING = "pending"
    SENT = "sent"  # stored with success; commitment asked for or to be verified
    COMMITTED = "committed"
    FAILED = "failed"  # permanent
    CANCELLED = "cancelled"  # by a person, or superseded before it was sent


class InstanceState(StrEnum):
    """What a received instance counts for."""

    CURRENT = "current"
    SUPERSEDED = "superseded"  # the same SOP instance came again with a corrected header
    CONFLICTING = "conflicting"  # the same SOP instance came again with other pixels


# Nothing more is to come of these by itself, and nothing of them is on its way. FAILED is not among them: a person
# has still to decide, and the files are needed for that.
CHOSEN = frozenset({SeriesState.QUEUED, SeriesState.ANALYSED, SeriesState.DELIVERED})  # of its study
ENDED = frozenset({SeriesState.DELIVERED, SeriesState.NOT_ANALYSED, SeriesState.INCOMPLETE, SeriesState.CANCELLED})


class RetrievalState(StrEnum):
    """Where the retrieval of a series from a source stands."""

    WAITING = "waiting"  # to be carried out, or tried again
    DONE = "done"  # everything that the source lists is here
    FAILED = "failed"  # given up


T = TypeVar("T", bound=StrEnum)
S, J, D, R = SeriesState, JobState, DeliveryState, RetrievalState

SERIES_TRANSITIONS: Mapping[SeriesState, frozenset[SeriesState]] = {
    # Any state goes back to RECEIVING: a late or corrected instance reopens the series as a new revision.
    # RECEIVING → FAILED: reopened because its results are wrong, and its files were purged.
    S.RECEIVING: frozenset({S.RECEIVING, S.COMPLETE, S.INCOMPLETE, S.NOT_ANALYSED, S.FAILED, S.CANCELLED}),
    S.COMPLETE: frozenset({S.RECEIVING, S.QUEUED, S.NOT_ANALYSED, S.CANCELLED}),
    S.QUEUED: frozenset({S.RECEIVING, S.ANALYSED, S.NOT_ANALYSED, S.FAILED, S.CANCELLED}),
    S.ANALYSED: frozenset({S.RECEIVING, S.DELIVERED, S.FAILED, S.CANCELLED, S.QUEUED, S.NOT_ANALYSED}),
    S.DELIVERED: frozenset({S.RECEIVING, S.QUEUED, S.NOT_ANALYSED}),
    S.INCOMPLETE: frozenset({S.RECEIVING, S.COMPLETE, S.CANCELLED}),
    S.NOT_ANALYSED: frozenset({S.RECEIVING, S.COMPLETE, S.QUEUED, S.CANCELLED}),
    S.FAILED: frozenset({S.RECEIVING, S.COMPLETE, S.QUEUED, S.ANALYSED, S.DELIVERED, S.NOT_ANALYSED, S.CANCELLED}),
    S.CANCELLED: frozenset({S.RECEIVING, S.COMPLETE, S.QUEUED, S.ANALYSED}),
}

JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    J.WAITING: frozenset({J.RUNNING, J.FAILED, J.CANCELLED}),
    J.RUNNING: frozenset({J.WAITING, J.DONE, J.REJECTED, J.FAILED, J.CANCELLED}),
    J.DONE: frozenset(),
    J.REJECTED: frozenset({J.WAITING}),
    J.FAILED: frozenset({J.WAITING}),
    J.CANCELLED: frozenset({J.WAITING}),
}

DELIVERY_TRANSITIONS: Mapping[DeliveryState, frozenset[DeliveryState]] = {
    D.PENDING: frozenset({D.PENDING, D.SENT, D.COMMITTED, D.FAILED, D.CANCELLED}),
    # SENT → PENDING: the peer did not commit the object, it is sent again.
    D.SENT: frozenset({D.SENT, D.PENDING, D.COMMITTED, D.FAILED, D.CANCELLED}),
    D.COMMITTED: frozenset(),
    # FAILED or CANCELLED → COMMITTED: a report that comes after all tells what the peer has.
    D.FAILED: frozenset({D.PENDING, D.COMMITTED, D.CANCELLED}),
    # CANCELLED → SENT: it was on the wire when it was cancelled, and the peer has it.
    D.CANCELLED: frozenset({D.PENDING, D.SENT, D.COMMITTED}),
}

RETRIEVAL_TRANSITIONS: Mapping[RetrievalState, frozenset[RetrievalState]] = {
    R.WAITING: frozenset({R.WAITING, R.DONE, R.FAILED}),
    R.DONE: frozenset(),  # a further retrieval of the series is another row
    R.FAILED: frozenset(),
}


def check_transition(table: Mapping[T, frozenset[T]], old: T, new: T) -> None:
    """Raise `IllegalTransition` unless `table` leads from `old` to `new`."""
    if new not in table[old]:
        raise IllegalTransition(f"{type(old).__name__}: {old} does not lead to {new}")
