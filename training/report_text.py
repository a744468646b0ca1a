"""The sentences of a report that tell findings, out of text as information systems hand it out.

Such text may be folded at a width or be one long line; it may have a line per finding without a full stop, no blank
after a full stop, CR or HL7's \\.br\\ for a new line, and umlauts in two pieces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from itertools import chain

from pydantic import BaseModel, ConfigDict

HEADING_WORDS = 5
NARROW = 40  # characters: nobody folds text at less, so that each line of such a report is one by itself
BREAK = re.compile(r"(?<=[.!?])\s+|(?<=[a-zäöüß]{2}[.!?])(?=[A-ZÄÖÜ])|\n\s*\n|\n\s*(?=[-•*–]\s|\d+[.)]\s)")
HL7_LINE = "\\.br\\"  # HL7 v2 chapter 2, formatted text
HYPHENATED = re.compile(r"(?<=\w)-\n\s*(?=[a-zäöüß])")
SPACED = re.compile(r"(?<![\w.])([^\W\d_])\.[ \t]+(?=[^\W\d_]\.)")  # V. a., z. B.
ENTRY = re.compile(r"[^\W\d_][^:.;,\n]{0,40}:")  # "Consolidation: none"
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})


class Sections(BaseModel):
    """Headings of sections that tell findings, and of those that do not.

    "findings *" is one that begins so; it is read as a part of its line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    read: tuple[str, ...]
    skip: tuple[str, ...]


def folded(text: str) -> str:
    """Without case, and one spelling for ä and ae, ß and ss: systems without umlauts write both."""
    return text.casefold().translate(UMLAUTS)


def sentences(
    text: str, sections: Sections, abbreviations: Collection[str], joints: Collection[str]
) -> Iterator[str]:
    """The sentences of the sections that tell findings.

    Args:
        abbreviations: words whose full stop ends no sentence.
        joints: words that no sentence ends with.
    """
    lines = _lines(text)
    width = max(map(len, lines), default=0)
    for part in _told_parts(lines, sections, joints):
        pieces = [" ".join(piece.split()) for piece in BREAK.split(_parted(part, width, joints))]
        held = ""
        for piece in filter(None, pieces):
            held = f"{held} {piece}".strip()
            last = held.rsplit(" ", 1)[-1].rstrip(".").lower().lstrip("(")
            if held.endswith(".") and last in abbreviations:
                continue
            yield held
            held = ""
        if held:
            yield held


def _lines(text: str) -> list[str]:
    text = unicodedata.normalize("NFKC", text.replace(HL7_LINE, "\n"))
    text = HYPHENATED.sub("", "\n".join(text.splitlines()))
    return SPACED.sub(r"\1.", text).split("\n")


# --- Sections ----------------------------------------------------------------------------------------------------


def _told_parts(lines: Sequence[str], sections: Sections, joints: Collection[str]) -> list[list[str]]:
    """The lines of each section without those to be skipped.

    A known heading ends the section before it, and so does any line of few words that ends in a colon.
    """
    parts: list[list[str]] = [[]]
    skipping = False
    for line in chain.from_iterable(_cut(whole, sections, joints) for whole in lines):
        name, colon, rest = line.partition(":")
        heading = _heading(name)
        unknown = line.rstrip().endswith(":") and 0 < len(heading.split()) <= HEADING_WORDS
        longer = bool(colon) and any(fnmatchcase(heading, each) for each in _known(sections) if "*" in each)
        if unknown or longer or heading in _known(sections):
            skipping = heading in _folded(sections.skip)
            parts.append([])
            line = line if longer else rest
        if not skipping:
            parts[-1].append(line)
    return parts


def _heading(text: str) -> str:
    return " ".join(folded(text).replace("-", " ").split())


@cache
def _folded(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(folded, names))


@cache
def _known(sections: Sections) -> frozenset[str]:
    return _folded(sections.read) | _folded(sections.skip)


@cache
def _headings(sections: Sections) -> re.Pattern[str]:
    names = sorted((*sections.read, *sections.skip), key=len, reverse=True)
    words = (r"[\s-]+".join(map(re.escape, name.split())) for name in names if "*" not in name)
    return re.compile(rf"(?:^|(?<=[\s/&+]))({'|'.join(words)})\s*:", re.IGNORECASE)


def _cut(line: str, sections: Sections, joints: Collection[str]) -> Iterator[str]:
    """A line before each heading within it: an export may hold all lines of a report as one."""
    start = 0
    for found in _headings(sections).finditer(line):
        before = line[start : found.start(1)]
        if before.strip() and _begins_a_section(before, found[1], sections, joints):
            yield before
            start = found.start(1)
    yield line[start:]


def _begins_a_section(before: str, name: str, sections: Sections, joints: Collection[str]) -> bool:
    """Not "compared to the previous studies:": a heading follows an end or another one, or is written like one."""
    if before.rstrip()[-1] in ".!?;)/&+" or name.isupper():
        return True
    title = name[0].isupper() and _heading(name) in _folded(sections.read) and not _leads_on(before, joints)
    return title or _heading(before.rsplit(maxsplit=1)[0]) in _known(sections)  # "history and indication:"


# --- Lines -------------------------------------------------------------------------------------------------------


def _parted(lines: Sequence[str], width: int, joints: Collection[str]) -> str:
    """The lines, with an empty one where a line ends a sentence without a full stop."""
    parted = list(lines[:1])
    for line, following in zip(lines, lines[1:], strict=False):
        parted += ["", following] if _ends(line, following, width, joints) else [following]
    return "\n".join(parted)


def _ends(line: str, following: str, width: int, joints: Collection[str]) -> bool:
    """Whether the next line begins anew: it is an entry, or its first word had still had room in this one."""
    line, following = line.rstrip(), following.strip()
    if not line or not following or not following[0].isupper():
        return False
    if ENTRY.match(following):
        return not _leads_on(line, joints) or ENTRY.match(line) is not None
    room = len(line) + 1 + len(following.split()[0]) <= width
    return (room or width < NARROW) and not _leads_on(line, joints)


def _leads_on(text: str, joints: Collection[str]) -> bool:
    words = text.split()
    return bool(words) and (words[-1][-1] in ",(-–/" or words[-1].lower() in joints)
