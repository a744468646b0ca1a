"""Every pair of states: those of the table are let through, all others raise."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import pytest

from dicom_node.errors import IllegalTransition
from dicom_node.states import (
    DELIVERY_TRANSITIONS,
    JOB_TRANSITIONS,
    SERIES_TRANSITIONS,
    DeliveryState,
    JobState,
    SeriesState,
    check_transition,
)

# Written out again, as a person reads the rules: a slip in either place shows.
SERIES = """
receiving -> receiving complete incomplete not_analysed failed cancelled
complete -> receiving queued not_analysed cancelled
queued -> receiving analysed not_analysed failed cancelled
analysed -> receiving delivered failed cancelled queued not_analysed
delivered -> receiving queued not_analysed
incomplete -> receiving complete cancelled
not_analysed -> receiving complete queued cancelled
failed -> receiving complete queued analysed delivered not_analysed cancelled
cancelled -> receiving complete queued analysed
"""
JOBS = """
waiting -> running failed cancelled
running -> waiting done rejected failed cancelled
done ->
rejected -> waiting
failed -> waiting
cancelled -> waiting
"""
DELIVERIES = """
pending -> pending sent committed failed cancelled
sent -> sent pending committed failed cancelled
committed ->
failed -> pending committed cancelled
cancelled -> pending sent committed
"""


def _legal(text: str) -> set[tuple[str, str]]:
    lines = [line.split("->") for line in text.strip().splitlines()]
    return {(old.strip(), new) for old, news in lines for new in news.split()}


CASES = [
    (SERIES_TRANSITIONS, SeriesState, SERIES),
    (JOB_TRANSITIONS, JobState, JOBS),
    (DELIVERY_TRANSITIONS, DeliveryState, DELIVERIES),
]


@pytest.mark.parametrize(
    ("table", "old", "new", "legal"),
    [
        pytest.param(table, old, new, (old, new) in _legal(text), id=f"{states.__name__}-{old}-{new}")
        for table, states, text in CASES
        for old, new in product(states, states)
    ],
)
def test_every_pair_of_states(table: Mapping, old: SeriesState, new: SeriesState, legal: bool) -> None:
    if legal:
        check_transition(table, old, new)
    else:
        with pytest.raises(IllegalTransition, match=f"{old} does not lead to {new}"):
            check_transition(table, old, new)


@pytest.mark.parametrize(("table", "states"), [(table, states) for table, states, _ in CASES])
def test_every_state_has_a_row(table: Mapping, states: type) -> None:
    assert set(table) == set(states)
