"""When a channel of notifications is told something, and in which words. Pure: no clock, no database of its own.

One message of each kind in an interval, with all that has come since the last; one more when it is over. What only
happens (a start after a crash) has no end. While a message waits to be sent no other of its kind is written, but
the one that says that it is over, which takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pipeline import RESEARCH_USE_ONLY

HAPPENINGS = frozenset({"crash", "clinical"})  # kinds that have no end
REMEDIES: Mapping[str, str] = {
    "failures": "`dicomnode status --state failed` lists them, `dicomnode show UID` says why; correct it, then "
    "`dicomnode retry UID`, or `dicomnode retry-failed`. Files that were set aside lie with their reasons in "
    "state_dir/quarantine.",
    "backlog": "`dicomnode status` says what waits and why; `dicomnode doctor` tries every destination. Why audit "
    "messages wait is in the system log; none is lost until their queue is full.",
    "disk": "`dicomnode purge`, shorter times in [retention], or a larger disk.",
    "certificates": "renew them (docs/security.md); new files are used without a restart for calls to peers.",
    "crash": "the system log says why it ended (journalctl -u dicomnode). Nothing that was answered is lost: what "
    "was under way has been taken up again.",
    "clinical": f"{RESEARCH_USE_ONLY}. Opacity, not its cause; look at the results in the PACS.",
}
NAMES: Mapping[str, str] = {
    "failures": "something failed",
    "backlog": "something waits too long",
    "disk": "the disk is nearly full",
    "certificates": "certificates end soon",
    "crash": "the node was not stopped, but ended",
    "clinical": "the severity class has risen",
    "test": "test",
}


class Status(StrEnum):
    """Why a message is sent."""

    RAISED = "raised"
    MORE = "more"
    REMINDER = "reminder"
    RESOLVED = "resolved"
    TEST = "test"


@dataclass(frozen=True)
class Message:
    """What a person reads. `lines` are facts, `remedy` is what to do."""

    kind: str
    status: str
    summary: str
    lines: tuple[str, ...]
    remedy: str
    at: str

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Message:
        """What `json` made."""
        return cls(**{**content, "lines": tuple(content["lines"])})

    @property
    def json(self) -> dict[str, Any]:
        """For the database and for webhooks."""
        return {**asdict(self), "lines": list(self.lines)}

    @property
    def text(self) -> str:
        """For mails."""
        facts = "\n".join(f"- {line}" for line in self.lines)
        parts = (self.summary, facts, f"What to do: {self.remedy}" if self.remedy else "")
        return "\n\n".join(part for part in parts if part) + "\n"


@dataclass(frozen=True)
class Found:
    """How one kind stands at present.

    Attributes:
        count: of what is wrong now; 0 where nothing is.
        new: of what has happened since `Notice.mark`.
        lines: facts, without anything that names a patient.
        mark: id of the newest event that was looked at.
    """

    count: int
    new: int
    lines: tuple[str, ...]
    mark: int


@dataclass(frozen=True)
class Notice:
    """What a channel was told of a kind; see `tables.NoticeRow`."""

    channel: str
    kind: str
    active: bool = False
    mark: int = 0
    count: int = 0
    told_at: datetime | None = None
    message: Message | None = None
    attempts: int = 0
    next_attempt_at: datetime | None = None
    error: str = ""


@dataclass(frozen=True)
class Rhythm:
    """How often: at most one message in `interval`; said again after `remind`, unless that is None."""

    interval: timedelta
    remind: timedelta | None


def decide(notice: Notice, found: Found, now: datetime, rhythm: Rhythm) -> Notice:
    """What the channel is to be told; but for its mark the notice as it was where that is nothing."""
    status = _status(notice, found, now, rhythm)
    if status is None:
        later = found.new and (found.count or notice.kind in HAPPENINGS)  # told with the next message of this kind
        return notice if later else replace(notice, mark=found.mark)  # what was nothing is not looked at again
    over = status is Status.RESOLVED  # of what nobody was told, nothing is said
    if over and notice.message is not None and notice.message.status == Status.RAISED:
        return replace(notice, active=False, count=0, mark=found.mark, message=None, told_at=None, error="")
    lines = () if over else found.lines
    summary = f"over: {NAMES[notice.kind]}" if over else _summary(notice.kind, found, status)
    remedy = "" if over else REMEDIES[notice.kind]
    return replace(
        notice,
        active=notice.kind not in HAPPENINGS and not over,
        mark=found.mark,
        count=found.count,
        told_at=notice.told_at if over else now,
        message=Message(notice.kind, status, summary, lines, remedy, f"{now:%Y-%m-%d %H:%M:%S} UTC"),
        attempts=0,
        next_attempt_at=now,
        error="",
    )


def _status(notice: Notice, found: Found, now: datetime, rhythm: Rhythm) -> Status | None:
    if notice.active and not found.count:
        return Status.RESOLVED
    if notice.message is not None:
        return None
    told_at = notice.told_at
    if told_at is not None and now < told_at:
        told_at = now - rhythm.interval  # the clock was put back
    rested = told_at is None or now - told_at >= rhythm.interval
    if not rested:
        return None
    if notice.kind in HAPPENINGS:
        return Status.RAISED if found.new else None
    if not notice.active:
        return Status.RAISED if found.count else None
    if found.new or found.count > notice.count:
        return Status.MORE
    if rhythm.remind is not None and told_at is not None and now - told_at >= rhythm.remind:
        return Status.REMINDER
    return None


def _summary(kind: str, found: Found, status: Status) -> str:
    number = found.new if kind in HAPPENINGS else found.count
    times = f" ({number})" if number > 1 and kind != "disk" else ""
    prefix = {Status.MORE: "more: ", Status.REMINDER: "still: "}.get(status, "")
    return f"{prefix}{NAMES[kind]}{times}"
