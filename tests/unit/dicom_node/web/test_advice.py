"""What the page says about a destination, and what to do about what failed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dicom_node import config
from dicom_node.ledger import Backlog
from dicom_node.ledger_writer import RECALL_REMEDY
from dicom_node.states import SeriesState
from dicom_node.web import advice
from dicom_node.web.advice import Tone
from dicom_node.web.render import code, span
from tests.fixtures.records import series_record
from tests.fixtures.samples import START

NOTHING = Backlog("pacs", 0, 0, 0, None, None, None, "", None, None)
PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}


@pytest.mark.parametrize(
    ("changes", "tone", "words"),
    [
        ({}, Tone.GOOD, "nothing was sent yet"),
        ({"last_success_at": START}, Tone.GOOD, "has everything"),
        ({"sent": 1}, Tone.WAITS, "has still to commit"),
        ({"pending": 1}, Tone.WAITS, "is being sent to"),
        ({"pending": 1, "last_error": "away"}, Tone.BAD, "does not take objects at present"),
        ({"pending": 1, "failed": 1}, Tone.BAD, "refuses objects"),
    ],
)
def test_health_of_a_destination(changes: dict[str, object], tone: Tone, words: str) -> None:
    (destination,) = config.parse({"destinations": [PACS]}).destinations
    assert advice.health(Backlog(**{**vars(NOTHING), **changes}), destination, START) == (tone, words)


def test_a_destination_whose_window_is_shut_only_waits() -> None:
    local = START.astimezone()
    begin, end = local + timedelta(hours=2), local + timedelta(hours=3)
    window = f"{begin:%H:%M}-{end:%H:%M}"
    (destination,) = config.parse({"destinations": [{**PACS, "window": window}]}).destinations
    held = Backlog(**{**vars(NOTHING), "pending": 1, "last_error": "away"})
    assert advice.health(held, destination, START) == (Tone.WAITS, "pauses until its window opens")


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        (SeriesState.FAILED, "not delivered to pacs: refused", "only what has not arrived"),
        (SeriesState.FAILED, "given up after 3 attempt(s), the last: it took longer than 900 s", "deadline_s"),
        (SeriesState.FAILED, "given up after 3 attempt(s), the last: the worker process died", "batch_slices"),
        (SeriesState.FAILED, "given up after 3 attempt(s), the last: unexpected error", "The log"),
        (SeriesState.FAILED, f"a prior is another patient's; {RECALL_REMEDY}", "Reject in the PACS"),
        (SeriesState.FAILED, "no such model", "`dicomnode doctor`"),
        (SeriesState.INCOMPLETE, "gaps", "`dicomnode pull`"),
        (SeriesState.DELIVERED, "", ""),
    ],
)
def test_what_to_do(state: SeriesState, reason: str, words: str) -> None:
    found = advice.remedy(series_record(state=state, reason=reason))
    assert words in found
    assert bool(found) == bool(words)


def test_buttons_are_where_the_ledger_would_take_them() -> None:
    may = {state: series_record(state=state) for state in SeriesState}
    assert [state for state in SeriesState if not advice.may_retry(may[state])] == [
        SeriesState.RECEIVING,
        SeriesState.COMPLETE,
        SeriesState.QUEUED,
    ]
    assert not advice.may_retry(series_record(state=SeriesState.FAILED, reason=f"why; {RECALL_REMEDY}"))
    assert [state for state in SeriesState if not advice.may_cancel(may[state])] == [
        SeriesState.DELIVERED,
        SeriesState.CANCELLED,
    ]


def test_our_own_words_are_escaped_too() -> None:
    assert code("`a<b` & c") == "<code>a&lt;b</code> &amp; c"
    spans = [span(timedelta(seconds=seconds)) for seconds in (5, 90, 7300, 200_000)]
    assert spans == ["5 s", "1 min", "2 h", "2 d"]
