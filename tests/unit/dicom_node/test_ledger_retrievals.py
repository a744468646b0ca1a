"""What is to be fetched: asked for once, postponed, ended, abandoned; on both databases."""

from __future__ import annotations

import pytest

from dicom_node.errors import IllegalTransition
from dicom_node.ledger import Ledger, Wanted
from dicom_node.states import RETRIEVAL_TRANSITIONS, RetrievalState, check_transition
from tests.fixtures.samples import SERIES, STUDY, at, receive

R = RetrievalState
ONE, OTHER = Wanted(STUDY, SERIES), Wanted(STUDY, "1.2.3.2")


def test_asked_for_twice_is_one_retrieval(ledger: Ledger) -> None:
    first = ledger.request_retrievals("pacs", [ONE, OTHER, ONE], "a test", at(0))
    assert [item.series_uid for item in first] == [SERIES, "1.2.3.2", SERIES]
    assert first[0].id == first[2].id
    ledger.retrieval_postponed(first[0].id, at(500), at(1), "busy")
    (again,) = ledger.request_retrievals("pacs", [ONE], "another test", at(2))
    assert (again.id, again.why, again.next_attempt_at) == (first[0].id, "a test", at(2))
    (elsewhere,) = ledger.request_retrievals("vna", [ONE], "a test", at(2))
    assert elsewhere.id != again.id


def test_due_ones_come_in_order_those_that_failed_last(ledger: Ledger) -> None:
    one, other = ledger.request_retrievals("pacs", [ONE, OTHER], "a test", at(0))
    assert [item.id for item in ledger.due_retrievals("pacs", at(0))] == [one.id, other.id]
    ledger.retrieval_postponed(one.id, at(60), at(1), "busy")
    assert [item.id for item in ledger.due_retrievals("pacs", at(59))] == [other.id]
    assert [item.id for item in ledger.due_retrievals("pacs", at(60))] == [other.id, one.id]
    assert ledger.next_retrieval_at("pacs") == at(0)
    ledger.retrieval_ended(other.id, R.DONE, "", at(2))
    assert ledger.next_retrieval_at("pacs") == at(60)
    assert ledger.next_retrieval_at("vna") is None


def test_progress_counts_what_has_come_of_what_was_lacking(ledger: Ledger) -> None:
    (one,) = ledger.request_retrievals("pacs", [ONE], "a test", at(0))
    seen = [ledger.retrieval_progress(one.id, lacking, at(1)) for lacking in (20, 5, 8, 0)]
    assert [(item.wanted, item.fetched) for item in seen] == [(20, 0), (20, 15), (23, 15), (23, 23)]


def test_the_story_is_told_where_something_of_the_series_has_come(ledger: Ledger) -> None:
    receive(ledger)
    (one,) = ledger.request_retrievals("pacs", [ONE], "slices were missing", at(0))
    ledger.retrieval_progress(one.id, 2, at(1))
    ledger.retrieval_postponed(one.id, at(60), at(2), "busy")
    ledger.retrieval_progress(one.id, 0, at(61))
    ledger.retrieval_ended(one.id, R.DONE, "", at(62))
    details = ledger.details(SERIES)
    told = [event.reason for event in details.events if event.subject == "retrieval"]
    assert told == [
        "to be fetched from pacs: slices were missing",
        "0 of 2 instance(s) fetched from pacs: busy",
        "2 of 2 instance(s) fetched from pacs",
    ]
    (kept,) = details.retrievals
    assert (kept.state, kept.attempts, kept.finished_at) == (R.DONE, 1, at(62))
    assert ledger.retrievals_of(SERIES) == [kept] == ledger.retrievals([kept.id])


def test_what_has_ended_stays_so_and_can_be_asked_for_anew(ledger: Ledger) -> None:
    (one,) = ledger.request_retrievals("pacs", [ONE], "a test", at(0))
    ledger.retrieval_ended(one.id, R.FAILED, "AE title unknown", at(1))
    with pytest.raises(IllegalTransition):
        ledger.retrieval_ended(one.id, R.DONE, "", at(2))
    (again,) = ledger.request_retrievals("pacs", [ONE], "a test", at(3))
    assert again.id != one.id
    assert [item.state for item in ledger.retrievals_of(SERIES)] == [R.FAILED, R.WAITING]


def test_a_source_that_is_gone_from_the_config(ledger: Ledger) -> None:
    ledger.request_retrievals("pacs", [ONE], "a test", at(0))
    ledger.request_retrievals("old", [ONE, OTHER], "a test", at(0))
    assert ledger.abandon_unknown_sources(["pacs"], at(1)) == 2
    assert {item.source: item.state for item in ledger.retrievals_of(SERIES)} == {
        "pacs": R.WAITING,
        "old": R.FAILED,
    }
    assert "has no source 'old' any more" in ledger.retrievals_of(SERIES)[-1].reason


def test_known_series_are_found_whatever_their_number(ledger: Ledger) -> None:
    receive(ledger)
    asked = [f"1.2.{number}" for number in range(1200)]
    assert ledger.series_known([*asked, SERIES]).keys() == {SERIES}
    assert ledger.series_known([SERIES])[SERIES].instances == 3


@pytest.mark.parametrize("old", RetrievalState)
@pytest.mark.parametrize("new", RetrievalState)
def test_every_transition(old: RetrievalState, new: RetrievalState) -> None:
    if old is R.WAITING:
        check_transition(RETRIEVAL_TRANSITIONS, old, new)
    else:
        with pytest.raises(IllegalTransition):
            check_transition(RETRIEVAL_TRANSITIONS, old, new)
