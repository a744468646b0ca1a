"""What a radiology report says about a finding: present, absent, uncertain, or nothing.

Keywords with negation, after NegEx (Chapman et al., J Biomed Inform 34, 2001): a report is cut into sentences,
those of sections that tell no findings (indication, history, comparison) are left out, and each finding is looked
for by its words. Triggers before or after it decide, the longest match first; "no change" is not read as "no":

- an uncertain trigger ("possible", "cannot be excluded", "no new") leaves the mention uncertain;
- a negation ("no", "has resolved", "keine") makes it absent; negations before a list hold for the whole of it;
- an earlier state of the patient ("history of") without a negation is uncertain;
- else the finding is present, also where it is decreasing or partially resolved.

Of a report, one present mention decides, then one uncertain, then one absent. Uncertain and not mentioned leave the
label empty: unknown. The words lie in one TOML file per language; the language of a report is the one whose common
words it holds most of. A rule of this kind errs: the sentence that decided stands beside the label, to be checked.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from training.errors import CohortError

SHIPPED = Path(__file__).resolve().parent / "terms"
LANGUAGES = ("en", "de")
REACH = 14  # tokens between a trigger and a finding; beyond it they do not belong together
NEAR = 5  # the same for triggers that stand close to what they are about
HEADING_WORDS = 5
MAX_SENTENCE = 400  # characters of it in the table
TOKEN = re.compile(r"[^\W_]+(?:[./][^\W_]+)*|[;,:?]")
BREAK = re.compile(r"(?<=[.!?])\s+|\n\s*\n|\n\s*(?=[-•*–]\s|\d+[.)]\s)")

Phrase = tuple[str, ...]


class Decision(StrEnum):
    """What a report says."""

    PRESENT = "present"
    ABSENT = "absent"
    UNCERTAIN = "uncertain"
    NOT_MENTIONED = "not mentioned"

    @property
    def flag(self) -> bool | None:
        """The label; None is unknown."""
        return {Decision.PRESENT: True, Decision.ABSENT: False}.get(self)


@dataclass(frozen=True)
class Judgement:
    """A decision and the sentence that led to it; empty where the finding is not mentioned."""

    decision: Decision
    sentence: str = ""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Triggers(_Section):
    """Phrases that change what a finding near them means; `terms/en.toml` explains each list."""

    negated_before: tuple[str, ...]
    negated_adjacent: tuple[str, ...]
    negated_after: tuple[str, ...]
    answers: tuple[str, ...]
    uncertain_before: tuple[str, ...]
    uncertain_after: tuple[str, ...]
    historical_before: tuple[str, ...]
    neutral: tuple[str, ...]
    clause_end: tuple[str, ...]


class Sections(_Section):
    """Headings of sections that tell findings, and of those that do not."""

    read: tuple[str, ...]
    skip: tuple[str, ...]


class Abbreviations(_Section):
    """Words whose full stop ends no sentence."""

    words: tuple[str, ...]


class Terms(_Section):
    """The words of one language."""

    language: str
    markers: tuple[str, ...]
    findings: Mapping[str, tuple[str, ...]]
    triggers: Triggers
    sections: Sections
    abbreviations: Abbreviations


def shipped(language: str) -> Path:
    """The file of a language that comes with the software."""
    return SHIPPED / f"{language}.toml"


def read_terms(path: Path) -> Terms:
    """A file of terms. Raises CohortError with every complaint."""
    try:
        return Terms.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise CohortError(f"{path} is no file of report terms: {error}") from error


def judge(text: str, languages: Sequence[Terms]) -> dict[str, Judgement]:
    """Each finding of the report's language → what the report says about it."""
    terms = language_of(text, languages)
    said: dict[str, list[Judgement]] = {finding: [] for finding in terms.findings}
    for sentence in sentences(text, terms):
        for finding, judgement in _mentions(sentence, terms):
            said[finding].append(judgement)
    return {finding: _decisive(mentions) for finding, mentions in said.items()}


def language_of(text: str, languages: Sequence[Terms]) -> Terms:
    """The language that knows most of the text's words: common ones and findings; the first of those equal."""
    tokens = _tokens(text)

    def known(terms: Terms) -> int:
        named = sum(len(list(_places(tokens, words))) for words in terms.findings.values())
        return named + sum(token in terms.markers for token in tokens)

    return max(languages, key=known)


def _decisive(mentions: Sequence[Judgement]) -> Judgement:
    for decision in (Decision.PRESENT, Decision.UNCERTAIN, Decision.ABSENT):
        for mention in mentions:
            if mention.decision is decision:
                return mention
    return Judgement(Decision.NOT_MENTIONED)


def sentences(text: str, terms: Terms) -> Iterator[str]:
    """The sentences of the sections that tell findings."""
    for part in _told_parts(text, terms.sections):
        pieces = [" ".join(piece.split()) for piece in BREAK.split(part)]
        held = ""
        for piece in filter(None, pieces):
            held = f"{held} {piece}".strip()
            last = held.rsplit(" ", 1)[-1].rstrip(".").lower().lstrip("(")
            if held.endswith(".") and last in terms.abbreviations.words:
                continue
            yield held
            held = ""
        if held:
            yield held


def _told_parts(text: str, sections: Sections) -> list[str]:
    """The text of each section without those to be skipped.

    A known heading ends the section before it, and so does any line of few words that ends in a colon.
    """
    parts: list[list[str]] = [[]]
    skipping = False
    for line in text.replace("\r", "").split("\n"):
        name, _, rest = line.partition(":")
        heading = " ".join(name.lower().replace("-", " ").split())
        alone = not line.count(":") and heading == " ".join(line.lower().replace("-", " ").split()).rstrip(".")
        unknown = line.rstrip().endswith(":") and 0 < len(heading.split()) <= HEADING_WORDS
        if unknown or ((line.count(":") or alone) and heading in (*sections.read, *sections.skip)):
            skipping = heading in sections.skip
            parts.append([])
            line = rest
        if not skipping:
            parts[-1].append(line)
    return ["\n".join(lines) for lines in parts]


@dataclass(frozen=True)
class _Trigger:
    """Tokens first … last − 1 and the lists of `Triggers` that the phrase is in."""

    first: int
    last: int
    roles: frozenset[str]


def _mentions(sentence: str, terms: Terms) -> Iterator[tuple[str, Judgement]]:
    tokens = _tokens(sentence)
    triggers = _triggers(tokens, terms.triggers)
    for finding, words in terms.findings.items():
        for first, last in _places(tokens, words):
            decision = _decide(tokens, first, last, triggers)
            yield finding, Judgement(decision, sentence[:MAX_SENTENCE])


def _tokens(text: str) -> list[str]:
    return [token.lower().rstrip(".") for token in TOKEN.findall(re.sub(r"(?<=\w)[-‐‑–](?=\w)", " ", text))]


def _places(tokens: Sequence[str], words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where one of the phrases stands, the longest at each place."""
    phrases = sorted((_phrase(word) for word in words), key=len, reverse=True)
    start = 0
    while start < len(tokens):
        found = next((p for p in phrases if _stands_at(tokens, start, p)), None)
        if found is not None:
            yield start, start + len(found)
        start += len(found) if found is not None else 1


def _phrase(text: str) -> Phrase:
    return tuple(text.lower().split())


def _stands_at(tokens: Sequence[str], start: int, phrase: Phrase) -> bool:
    here = tokens[start : start + len(phrase)]
    return len(here) == len(phrase) and all(_fits(token, word) for token, word in zip(here, phrase, strict=True))


def _fits(token: str, word: str) -> bool:
    """A leading or trailing * stands for anything."""
    core = word.strip("*")
    if word.startswith("*") and word.endswith("*") and core:
        return core in token
    if word.endswith("*"):
        return token.startswith(core)
    return token.endswith(core) if word.startswith("*") else token == word


def _triggers(tokens: Sequence[str], lists: Triggers) -> list[_Trigger]:
    """Every trigger, the longest at each place; its words serve no second one."""
    roles: dict[Phrase, set[str]] = {}
    for role in Triggers.model_fields:
        for text in getattr(lists, role):
            roles.setdefault(_phrase(text), set()).add(role)
    found: list[_Trigger] = []
    for first, last in _places(tokens, [" ".join(phrase) for phrase in roles]):
        found.append(_Trigger(first, last, frozenset(roles[tuple(tokens[first:last])])))
    return found


def _decide(tokens: Sequence[str], first: int, last: int, triggers: Sequence[_Trigger]) -> Decision:
    """What the triggers around the tokens first … last − 1 make of a mention."""
    before, after = _clause(first, last, triggers)
    words_before = [(t, tokens[t.last : first]) for t in before]
    words_after = [(t, tokens[last : t.first]) for t in after]

    def near(role: str) -> bool:
        return any(role in t.roles and "," not in gap and len(gap) <= NEAR for t, gap in words_before)

    def follows(role: str) -> bool:
        return any(role in t.roles and _same_subject(gap) for t, gap in words_after)

    enumerated = any("negated_before" in t.roles and len(gap) <= REACH for t, gap in words_before)
    answered = any("answers" in t.roles and _answers(tokens, last, t) for t in after)
    if near("uncertain_before") or follows("uncertain_after"):
        return Decision.UNCERTAIN
    if enumerated or answered or near("negated_adjacent") or follows("negated_after"):
        return Decision.ABSENT
    return Decision.UNCERTAIN if near("historical_before") else Decision.PRESENT


def _clause(first: int, last: int, triggers: Sequence[_Trigger]) -> tuple[list[_Trigger], list[_Trigger]]:
    """The triggers before and after a mention in its clause."""
    before = [t for t in triggers if t.last <= first]
    after = [t for t in triggers if t.first >= last]
    for place, trigger in enumerate(reversed(before)):
        if "clause_end" in trigger.roles:
            before = before[len(before) - place :]
            break
    for place, trigger in enumerate(after):
        if "clause_end" in trigger.roles:
            after = after[:place]
            break
    return before, after


def _same_subject(gap: Sequence[str]) -> bool:
    """Whether what follows is still about the mention: after a last comma nothing else may be named."""
    if len(gap) > REACH:
        return False
    return "," not in gap or gap[-1] == ","


def _answers(tokens: Sequence[str], last: int, trigger: _Trigger) -> bool:
    """ "Consolidation: none", and then the clause ends."""
    directly = set(tokens[last : trigger.first]) <= {":"}
    return directly and (trigger.last == len(tokens) or tokens[trigger.last] in {",", ";"})
