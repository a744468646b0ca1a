"""One line of `dicomnode doctor`: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """How it is. A remark is worth a look and stops nothing; with a fault something does not work."""

    OK = "ok"
    REMARK = "remark"
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: what was looked at, e.g. "disk", or "destination pacs: echo".
        text: how it is.
        remedy: what to do; empty where there is nothing to do.
    """

    check: str
    grade: Grade
    text: str
    remedy: str = ""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check, Grade.OK, text)


def remark(check: str, text: str, remedy: str) -> Finding:
    """Works, and yet."""
    return Finding(check, Grade.REMARK, text, remedy)


def fault(check: str, text: str, remedy: str) -> Finding:
    """Does not work."""
    return Finding(check, Grade.FAULT, text, remedy)


def worst(findings: Iterable[Finding]) -> Grade:
    """The grade of all of them together."""
    order = list(Grade)
    return max((finding.grade for finding in findings), key=order.index, default=Grade.OK)
