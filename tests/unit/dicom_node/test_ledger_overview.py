"""What the status page asks of the ledger: pages by key in both directions, search, today, backlogs."""

from __future__ import annotations

import pytest

from dicom_node.ledger import Ledger, SeriesIdentity
from dicom_node.states import SeriesState
from tests.fixtures.samples import SERIES, analyse, analysed, at, complete, deliver, filing, receive


def uids(number: int) -> list[str]:
    """So many series, all with their last instance at one of three times."""
    return [f"{SERIES}.{index}" for index in range(number)]


@pytest.fixture
def seven(ledger: Ledger) -> list[str]:
    """Newest first."""
    for index, uid in enumerate(uids(7)):
        receive(ledger, uid, 1, at(index // 3), study_uid=uid)
    return [record.series_uid for record in ledger.list_series()]


def test_pages_by_key_show_every_series_once_in_both_directions(ledger: Ledger, seven: list[str]) -> None:
    first = ledger.page_of_series(limit=3)
    second = ledger.page_of_series(older_than=first.records[-1].place, limit=3)
    third = ledger.page_of_series(older_than=second.records[-1].place, limit=3)
    pages = (first, second, third)
    assert [record.series_uid for page in pages for record in page.records] == seven
    assert [(page.has_newer, page.has_older) for page in pages] == [(False, True), (True, True), (True, False)]
    back = ledger.page_of_series(newer_than=third.records[0].place, limit=3)
    assert back == second
    assert ledger.page_of_series(newer_than=second.records[0].place, limit=3).records == first.records
    last = ledger.page_of_series(oldest=True, limit=3)
    assert [record.series_uid for record in last.records] == seven[-3:]
    assert (last.has_newer, last.has_older) == (True, False)
    everything = ledger.page_of_series(limit=7)
    assert (len(everything.records), everything.has_older) == (7, False)


def test_a_page_of_one_state(ledger: Ledger, seven: list[str]) -> None:
    complete(ledger, seven[2])
    page = ledger.page_of_series(state=SeriesState.COMPLETE)
    assert [record.series_uid for record in page.records] == [seven[2]]
    assert ledger.page_of_series(state=SeriesState.FAILED).records == ()


def test_by_whom_a_series_is_found(ledger: Ledger) -> None:
    identity = SeriesIdentity(SERIES, "1.2.3", "P1", accession_number="A1", patient_name="Doe^John")
    ledger.file_instances([filing(1, identity=identity)], at(0))
    for text in (SERIES, "1.2.3", "P1", "A1"):
        assert [record.series_uid for record in ledger.search(text, by_patient=True).records] == [SERIES]
    for text in ("P1", "A1", "Doe^John", "P", "", "%", "' OR 1=1 --", "\x00"):
        assert ledger.search(text, by_patient=False).records == ()


def test_what_came_since(ledger: Ledger) -> None:
    receive(ledger, f"{SERIES}.1", 2, at(0), study_uid="1.1")
    receive(ledger, f"{SERIES}.2", 3, at(100), study_uid="1.2")
    complete(ledger, f"{SERIES}.2")
    counts = ledger.states_since(at(50))
    assert (counts[SeriesState.COMPLETE], counts[SeriesState.RECEIVING]) == (1, 0)
    assert (ledger.instances_since(at(50)), ledger.instances_since(at(0))) == (3, 5)


def test_a_backlog_says_what_waits_since_when_and_why(ledger: Ledger) -> None:
    assert [item.pending for item in ledger.backlogs(["pacs"])] == [0]
    analysed(ledger)
    first, second, third = ledger.due_deliveries("pacs", at(1))
    ledger.delivery_postponed(first.id, at(60), at(2), "PACS does not answer.")
    ledger.delivery_failed(second.id, at(3), "refused")
    ledger.delivery_sent(third.id, at(4))
    (found,) = ledger.backlogs(["pacs"])
    assert (found.pending, found.sent, found.failed) == (1, 1, 1)
    assert (found.oldest_at, found.next_attempt_at, found.last_success_at) == (at(0), at(60), None)
    assert (found.last_error, found.last_error_at) == ("refused", at(3))
    ledger.delivery_committed(third.id, at(5))
    (found, other) = ledger.backlogs(["pacs", "other"])
    assert (found.sent, found.last_success_at) == (0, at(5))
    assert (other.pending, other.last_error, other.last_success_at) == (0, "", None)


def test_a_destination_that_has_everything_lacks_nothing(ledger: Ledger) -> None:
    receive(ledger)
    complete(ledger)
    analyse(ledger, now=at(1))
    deliver(ledger, now=at(2))
    (found,) = ledger.backlogs(["pacs"])
    assert (found.pending, found.sent, found.failed, found.last_error) == (0, 0, 0, "")
    assert found.last_success_at == at(2)
