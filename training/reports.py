"""What a radiology report says about a finding: present, absent, uncertain, or nothing.

Keywords with negation, after NegEx (Chapman et al., J Biomed Inform 34, 2001): a report is cut into sentences,
those of sections that tell no findings (indication, history, comparison) are left out (`training.report_text`), and
each finding is looked for by its words. Triggers before or after it decide, the longest match first; "no change" is
not read as "no":

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
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from training import report_text
from training.errors import CohortError
from training.report_text import Sections, folded

SHIPPED = Path(__file__).resolve().parent / "terms"
LANGUAGES = ("en", "de")
REACH = 14  # tokens between a trigger and a finding; beyond it they do not belong together
NEAR = 5  # the same for triggers that stand close to what they are about
SIGNS = frozenset(";,:?")
MAX_SENTENCE = 400  # characters of it in the table
TOKEN = re.compile(  # 2,5; v.a or r/o; words, also those of "atelectasis/consolidation"; signs
    r"\d+(?:[.,/]\d+)+|(?<![^\W_])[^\W\d_](?:[./][^\W\d_](?![^\W_]))+|[^\W_]+|[;,:?]"
)

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
    clause_start: tuple[str, ...] = ()


class Abbreviations(_Section):
    """Words whose full stop ends no sentence."""

    words: tuple[str, ...]


class Terms(_Section):
    """The words of one language."""

    language: str
    markers: tuple[str, ...]
    joints: tuple[str, ...] = ()
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
    for sentence in report_text.sentences(text, terms.sections, terms.abbreviations.words, terms.joints):
        for finding, judgement in _mentions(sentence, terms):
            said[finding].append(judgement)
    return {finding: _decisive(mentions) for finding, mentions in said.items()}


def language_of(text: str, languages: Sequence[Terms]) -> Terms:
    """The language that knows most of the text's words: common ones and findings; the first of those equal."""
    tokens = _tokens(text)

    def known(terms: Terms) -> int:
        markers = set(map(folded, terms.markers))
        named = sum(len(list(_places(tokens, _phrases(words)))) for words in terms.findings.values())
        return named + sum(token in markers for token in tokens)

    return max(languages, key=known)


def _decisive(mentions: Sequence[Judgement]) -> Judgement:
    for decision in (Decision.PRESENT, Decision.UNCERTAIN, Decision.ABSENT):
        for mention in mentions:
            if mention.decision is decision:
                return mention
    return Judgement(Decision.NOT_MENTIONED)


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
        places = [(first, first + len(phrase)) for first, phrase in _places(tokens, _phrases(words))]
        for (first, last), following in zip(places, [*places[1:], None], strict=False):
            if following is not None and _is_heading(tokens[last : following[0]]):
                continue
            decision = _decide(tokens, first, last, triggers)
            yield finding, Judgement(decision, sentence[:MAX_SENTENCE])


def _is_heading(gap: Sequence[str]) -> bool:
    """ "Consolidation: no consolidation": what lies between them; the latter says what there is."""
    return gap[:1] == [":"] and not {",", ";"} & set(gap)


def _tokens(text: str) -> list[str]:
    text = re.sub(r"(?<=\w)[-‐‑–](?=\w)", " ", unicodedata.normalize("NFKC", text))
    return [folded(token) for token in TOKEN.findall(text)]


def _places(tokens: Sequence[str], phrases: Sequence[Phrase]) -> Iterator[tuple[int, Phrase]]:
    """Where which of the phrases stands; of several at a place the first of them counts."""
    start = 0
    while start < len(tokens):
        found = next((p for p in phrases if _stands_at(tokens, start, p)), None)
        if found is not None:
            yield start, found
        start += len(found) if found is not None else 1


@cache
def _phrases(texts: tuple[str, ...]) -> list[Phrase]:
    """Longest first; of two as long that with fewer *."""
    phrases = dict.fromkeys(tuple(folded(text).split()) for text in texts)
    return sorted(phrases, key=lambda phrase: (-len(phrase), sum("*" in word for word in phrase)))


def _stands_at(tokens: Sequence[str], start: int, phrase: Phrase) -> bool:
    here = tokens[start : start + len(phrase)]
    return len(here) == len(phrase) and all(_fits(token, word) for token, word in zip(here, phrase, strict=True))


def _fits(token: str, word: str) -> bool:
    """A leading or trailing * stands for anything, a * by itself for any word."""
    if word == "*":
        return token not in SIGNS
    core = word.strip("*")
    if word.startswith("*") and word.endswith("*") and core:
        return core in token
    if word.endswith("*"):
        return token.startswith(core)
    return token.endswith(core) if word.startswith("*") else token == word


def _triggers(tokens: Sequence[str], lists: Triggers) -> list[_Trigger]:
    """Every trigger, the longest at each place; its words serve no second one."""
    roles = {role: _phrases(getattr(lists, role)) for role in Triggers.model_fields}
    every = _phrases(tuple(text for role in roles for text in getattr(lists, role)))
    return [
        _Trigger(
            first, first + len(phrase), frozenset(role for role, phrases in roles.items() if phrase in phrases)
        )
        for first, phrase in _places(tokens, every)
    ]


def _decide(tokens: Sequence[str], first: int, last: int, triggers: Sequence[_Trigger]) -> Decision:
    """What the triggers around the tokens first … last − 1 make of a mention."""
    before, after = _clause(first, last, triggers)
    words_before = [(t, tokens[t.last : first]) for t in before]
    passed_over = {t.first for t in after if "clause_start" in t.roles and t.last - t.first == 1}  # ", which has"
    words_after = [(t, [tokens[k] for k in range(last, t.first) if k not in passed_over]) for t in after]

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
        if trigger.roles & {"clause_end", "clause_start"}:
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
    """ "Consolidation: none" or "consolidation or ground glass: none", and then the clause ends."""
    gap = tokens[last : trigger.first]
    directly = set(gap) <= {":"} or (gap[-1] == ":" and not {",", ";", ":"} & set(gap[:-1]))
    return directly and (trigger.last == len(tokens) or tokens[trigger.last] in {",", ";"})
