"""States in words, and what to do about what failed. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum

from dicom_node.config import AnyDestination
from dicom_node.ledger_records import Backlog, SeriesRecord
from dicom_node.ledger_writer import RECALL_REMEDY
from dicom_node.states import SeriesState

WORDS: Mapping[SeriesState, str] = {
    SeriesState.RECEIVING: "receiving",
    SeriesState.COMPLETE: "complete, waits for its study",
    SeriesState.QUEUED: "waits for analysis or is being analysed",
    SeriesState.ANALYSED: "analysed, being delivered",
    SeriesState.DELIVERED: "delivered",
    SeriesState.INCOMPLETE: "incomplete",
    SeriesState.NOT_ANALYSED: "not analysed",
    SeriesState.FAILED: "failed",
    SeriesState.CANCELLED: "cancelled",
}
WAITING = (SeriesState.RECEIVING, SeriesState.COMPLETE, SeriesState.QUEUED, SeriesState.ANALYSED)
TO_DO = (SeriesState.FAILED, SeriesState.INCOMPLETE)

WHY_IT_WAITS: Mapping[SeriesState, str] = {
    SeriesState.RECEIVING: "More instances may come: its association is open, or the quiet time is not over.",
    SeriesState.COMPLETE: "Other series of the study may come: the quiet time of the study is not over.",
    SeriesState.QUEUED: "It is being analysed, or others come first.",
    SeriesState.ANALYSED: "Results wait for a destination, or for its word that it keeps them.",
}
REMEDIES = (
    (
        r"its results in the PACS are wrong",
        "Reject in the PACS the results that the story of the series names, then cancel it; or have it sent again.",
    ),
    (
        r"^not delivered to [^:]*: config.toml has no destination",
        "Where it was renamed, retry: the series is analysed again for the destinations that there are.",
    ),
    (
        r"^not delivered to ",
        "Put right what the reason names, then retry: only what has not arrived is sent again.",
    ),
    (
        r"took longer than",
        "A longer analysis.deadline_s, or a faster device; then retry. `dicomnode doctor` measures the speed.",
    ),
    (
        r"worker process died",
        "Most often memory: a smaller analysis.batch_slices, or more of it; then retry. The log has more.",
    ),
    (r"^given up after ", "The log at the time of the last attempt says more. Retry analyses the series again."),
)
OTHERWISE = (
    "`dicomnode doctor` looks at model, weights and device. Then retry, or cancel: another series is chosen."
)
INCOMPLETE = "Have the missing slices sent again, or fetch them: `dicomnode pull`. It then goes on by itself."


def why(series: SeriesRecord) -> str:
    """Why it stands where it stands."""
    return series.reason or WHY_IT_WAITS.get(series.state, "")


def remedy(series: SeriesRecord) -> str:
    """What a person can do; empty where nothing is to be done."""
    if series.state is SeriesState.INCOMPLETE:
        return INCOMPLETE
    if series.state is not SeriesState.FAILED:
        return ""
    return next((text for pattern, text in REMEDIES if re.search(pattern, series.reason)), OTHERWISE)


class Tone(StrEnum):
    """What a person has to do about it: nothing, wait, or something."""

    GOOD = "good"
    WAITS = "waits"
    BAD = "bad"


def health(backlog: Backlog, destination: AnyDestination, now: datetime) -> tuple[Tone, str]:
    """How a destination is, in a few words."""
    if backlog.failed:
        return Tone.BAD, "refuses objects"
    window = destination.opening
    if backlog.pending and window is not None and not window.is_open(now):
        return Tone.WAITS, "pauses until its window opens"
    if backlog.pending and backlog.last_error:
        return Tone.BAD, "does not take objects at present"
    if backlog.pending:
        return Tone.WAITS, "is being sent to"
    if backlog.sent:
        return Tone.WAITS, "has still to commit"
    return Tone.GOOD, "has everything" if backlog.last_success_at else "nothing was sent yet"


def most(states: Iterable[SeriesState], counts: Mapping[SeriesState, int]) -> int:
    """The number of series in the fullest of these states."""
    return max(counts[state] for state in states)


def may_retry(series: SeriesRecord) -> bool:
    """Whether the ledger would take a retry; it decides in the end."""
    under_way = series.state in (SeriesState.RECEIVING, SeriesState.COMPLETE, SeriesState.QUEUED)
    return not under_way and RECALL_REMEDY not in series.reason


def may_cancel(series: SeriesRecord) -> bool:
    """Whether the ledger would take a cancel."""
    return series.state not in (SeriesState.DELIVERED, SeriesState.CANCELLED)
