"""The clock of the node; what needs the time is given one, so that tests can set it."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The present, time zone aware."""
    return datetime.now(UTC)
