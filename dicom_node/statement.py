"""What a source archive says about a series, and how that reads. Pure values and texts; `inquiry` asks.

Texts are ASCII, they go into the SR, and bounded, a part of them is the archive's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

NAMED = 10  # missing instances in a text
LONGEST_REMARK = 300


@dataclass(frozen=True)
class Missing:
    """An instance that the source lists and that has not come. `number` is its InstanceNumber, if it is told."""

    sop_instance_uid: str
    number: int | None = None


@dataclass(frozen=True)
class Statement:
    """The answer of one source about one series, as it was received up to then.

    Attributes:
        source: name of the [[sources]] entry.
        again_at: it may have changed from then on: ask again.
        received: instances of the series that were here when it was asked.
        listed: how many it lists; None where it could not be asked, which `remark` explains.
        missing: what it lists and is not here.
        pending: these are being fetched for the first time: it is not yet known whether it sends them.
        fetched: how many were fetched from it so far, by `service` ("C-MOVE" or "C-GET").
        remark: why it is not known, or why what is missing could not be fetched.
        by_number: NumberOfSeriesRelatedInstances told it, and not the instances one by one.
    """

    source: str
    again_at: datetime
    received: int = 0
    listed: int | None = None
    missing: tuple[Missing, ...] = ()
    pending: bool = False
    fetched: int = 0
    service: str = "C-MOVE"
    remark: str = ""
    by_number: bool = True

    @property
    def lacks(self) -> str:
        """That instances are missing, as a sentence; empty where none is, or it is not known."""
        if not self.missing:
            return ""
        which = _numbers([item.number for item in self.missing])
        text = f"{self.source} lists {self.listed} instances, {len(self.missing)} of them have not come{which}"
        if self.pending:
            return f"{text}; they are being fetched by {self.service}"
        return f"{text}; {remark}" if (remark := ascii_text(self.remark)) else text

    @property
    def shown(self) -> list[str]:
        """What it adds to the completeness of a series of which nothing is missing."""
        parts = []
        if self.listed is None:
            parts.append(
                f"{self.source} could not be asked for its number of instances ({ascii_text(self.remark)}): shown "
                "by quiet time and geometry alone"
            )
        elif not self.listed:
            parts.append(f"{self.source} does not list the series: shown by quiet time and geometry alone")
        elif self.by_number:
            how = "C-FIND, NumberOfSeriesRelatedInstances"
            parts.append(f"{self.received} instances, as many as {self.source} lists ({how})")
        else:
            more = f"; {self.received - self.listed} more were received" if self.received > self.listed else ""
            parts.append(f"all {self.listed} instances that {self.source} lists are here (C-FIND of each){more}")
        if self.fetched:
            parts.append(f"{self.fetched} of them fetched from {self.source} by {self.service}")
        return parts


def ascii_text(text: str) -> str:
    """As it may go into the SR, on one line and bounded."""
    clean = " ".join(text.encode("ascii", "replace").decode("ascii").split()).rstrip(".")
    return clean if len(clean) <= LONGEST_REMARK else clean[: LONGEST_REMARK - 3] + "..."


def _numbers(numbers: Sequence[int | None]) -> str:
    """The InstanceNumbers as ranges, e.g. " (InstanceNumber 3, 7 to 9)"; empty where one is not told."""
    known = sorted({number for number in numbers if number is not None})
    if not known or None in numbers:
        return ""
    ranges: list[list[int]] = []
    for number in known:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    texts = [str(item[0]) if len(item) == 1 else f"{item[0]} to {item[-1]}" for item in ranges]
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return f" (InstanceNumber {', '.join(texts[:NAMED])}{more})"
