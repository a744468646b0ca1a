"""Series of the study that were not analysed, and why, in words for a reader of the result (ASCII).

What is said here goes into pixels and reports: series are called by their number, never by their description, which
may name a person. The words are the software's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

ANOTHER_ASKED_FOR = "another one was asked for"
HIGHEST_NUMBER = 99_999  # SeriesNumber is an IS of any size (PS3.5 6.2); longer ones are not shown
LONGEST = 200  # characters of the sentence
MOST_TOGETHER = 6  # series that are named one by one for one reason


@dataclass(frozen=True)
class OtherSeries:
    """One series that was not analysed: SeriesNumber where it can be used, and a clause that says why."""

    number: int | None
    why: str

    def __post_init__(self) -> None:
        if self.number is not None and not 0 <= self.number <= HIGHEST_NUMBER:
            object.__setattr__(self, "number", None)


_ADAPTER: TypeAdapter[tuple[OtherSeries, ...]] = TypeAdapter(tuple[OtherSeries, ...])


def to_json(others: Iterable[OtherSeries]) -> list[dict[str, Any]]:
    """For a database; `from_json` gives the same value back."""
    content: list[dict[str, Any]] = _ADAPTER.dump_python(tuple(others), mode="json")
    return content


def from_json(content: Sequence[Mapping[str, Any]] | None) -> tuple[OtherSeries, ...]:
    """What `to_json` made; none from None. Raises ValueError where it is something else."""
    return _ADAPTER.validate_python(tuple(content or ()))


def series_number(value: object) -> int | None:
    """A SeriesNumber as it stands in a header, if it is a number."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def sentence(others: Sequence[OtherSeries]) -> str:
    """How many series of the study were not analysed, and why; of many, the first reasons. Empty: none was."""
    if not others:
        return ""
    groups: dict[str, list[int | None]] = {}
    for other in others:
        groups.setdefault(other.why, []).append(other.number)
    start = f"{len(others)} other series of this study ("
    told, untold = "", len(others)
    for why, numbers in groups.items():
        clause = f"{_named(numbers)}: {why}"
        longer = f"{told}; {clause}" if told else clause
        if len(start) + len(longer) + len(_rest(len(others))) > LONGEST:
            break
        told, untold = longer, untold - len(numbers)
    return f"{start}{told}{_rest(untold) if told else 'reasons: see the node'})"


def _named(numbers: Sequence[int | None]) -> str:
    """Which series; those without a number are counted."""
    known = sorted(number for number in numbers if number is not None)
    unknown = len(numbers) - len(known)
    shown = [str(number) for number in known[:MOST_TOGETHER]]
    parts = [f"series {', '.join(shown)}"] if shown else []
    if len(known) > MOST_TOGETHER:
        parts.append(f"{len(known) - MOST_TOGETHER} more")
    if unknown:
        parts.append(f"{unknown} without number")
    return " and ".join(parts)


def _rest(untold: int) -> str:
    return f"; and {untold} more" if untold else ""
