"""Several series of one study in the ledger: never two of them count, whatever fails or is cancelled."""

from __future__ import annotations

from datetime import datetime

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from dicom_node.ledger import Ledger
from dicom_node.states import DeliveryState, SeriesState
from tests.fixtures.samples import (
    SERIES,
    STUDY,
    analyse,
    analysed,
    at,
    complete,
    deliver,
    queue,
    receive,
)

S, D = SeriesState, DeliveryState
RIVAL = "1.2.3.2"


def _states(ledger: Ledger) -> dict[str, SeriesState]:
    return {record.series_uid: record.state for record in ledger.list_series(study_uid=STUDY)}


def _current(ledger: Ledger) -> list[tuple[str, int]]:
    """Series and revision of the result sets that count."""
    found = {
        (record.series_uid, result.revision)
        for record in ledger.list_series(study_uid=STUDY)
        for result in ledger.details(record.series_uid).results
        if result.current
    }
    return sorted(found)


def _fail_delivery(ledger: Ledger, now: datetime) -> None:
    for delivery in ledger.due_deliveries("pacs", now):
        ledger.delivery_failed(delivery.id, now, "AE not recognised")


@pytest.fixture
def rivals(ledger: Ledger) -> Ledger:
    """The results of one series wait to be sent, the other series of the study was turned down."""
    for series_uid in (SERIES, RIVAL):
        receive(ledger, series_uid)
        complete(ledger, series_uid)
    analyse(ledger)
    return ledger


def test_a_series_whose_delivery_failed_stays_chosen_when_another_comes(ledger: Ledger) -> None:
    analysed(ledger)
    _fail_delivery(ledger, at(1))
    receive(ledger, RIVAL, now=at(2))
    complete(ledger, RIVAL, now=at(3))
    queue(ledger, now=at(4))
    assert _states(ledger) == {SERIES: S.FAILED, RIVAL: S.NOT_ANALYSED}
    assert ledger.claim_job(at(5)) is None
    assert _current(ledger) == [(SERIES, 1)]
    ledger.retry(SERIES, at(6))
    deliver(ledger, now=at(7))
    assert ledger.series(SERIES).state is S.DELIVERED


def test_a_better_series_takes_the_place_of_one_whose_delivery_failed(ledger: Ledger) -> None:
    analysed(ledger)
    _fail_delivery(ledger, at(1))
    receive(ledger, RIVAL, now=at(2))
    complete(ledger, RIVAL, now=at(3))
    analyse(ledger, RIVAL, now=at(4))
    assert _states(ledger) == {SERIES: S.NOT_ANALYSED, RIVAL: S.ANALYSED}
    assert _current(ledger) == [(RIVAL, 1)]
    deliver(ledger, now=at(5))
    assert ledger.series(RIVAL).state is S.DELIVERED


def test_rivals_of_a_series_whose_delivery_failed_are_not_released(rivals: Ledger) -> None:
    _fail_delivery(rivals, at(1))
    receive(rivals, "1.2.3.3", now=at(2))
    assert rivals.settle(rivals.series("1.2.3.3"), S.NOT_ANALYSED, "no CT", at(3))
    assert _states(rivals)[RIVAL] is S.NOT_ANALYSED
    assert rivals.complete_studies() == []


def test_the_database_refuses_a_second_current_result_set(database_url: str) -> None:
    ledger = Ledger(database_url)
    analysed(ledger)
    ledger.close()
    engine = create_engine(database_url)
    columns = "profile, kind, study_uid, series_uid, sop_class_uid, path, sha256, source_id"
    job = (
        "INSERT INTO job (series_id, revision, state, attempts, reason, created_at)"
        " SELECT series_id, 2, state, attempts, reason, created_at FROM job"
    )
    copy = (
        f"INSERT INTO result (job_id, sop_instance_uid, current, {columns})"
        f" SELECT job.id, 'copy of ' || sop_instance_uid, :current, {columns} FROM result, job WHERE revision = 2"
    )
    with engine.begin() as connection:
        connection.execute(text(job))
    with engine.connect() as connection, pytest.raises(IntegrityError):
        connection.execute(text(copy), {"current": True})
    with engine.begin() as connection:
        assert connection.execute(text(copy), {"current": False}).rowcount == 3, "nothing else is wrong with it"
    engine.dispose()


def test_cancel_gives_the_rivals_another_chance(rivals: Ledger) -> None:
    rivals.cancel(SERIES, at(1))
    assert _current(rivals) == []
    assert _states(rivals) == {SERIES: S.CANCELLED, RIVAL: S.COMPLETE}
    told = rivals.details(RIVAL).events[-1].reason
    assert told == f"series {SERIES} was cancelled by a person"


def test_cancel_of_one_that_was_not_chosen_changes_no_other(rivals: Ledger) -> None:
    rivals.cancel(RIVAL, at(1))
    assert _states(rivals) == {SERIES: S.ANALYSED, RIVAL: S.CANCELLED}
    assert _current(rivals) == [(SERIES, 1)]


def test_cancel_one_analyse_the_other_and_ask_for_the_first_again(rivals: Ledger) -> None:
    rivals.cancel(SERIES, at(1))
    analyse(rivals, RIVAL, now=at(2))
    assert _current(rivals) == [(RIVAL, 1)]
    assert rivals.retry(SERIES, at(3)).state is S.RECEIVING, "it goes through selection again"
    assert _current(rivals) == [(RIVAL, 1)], "until the other has taken its place"
    complete(rivals, now=at(4))
    analyse(rivals, now=at(5))
    assert _current(rivals) == [(SERIES, 2)]
    deliver(rivals, now=at(6))
    assert _states(rivals) == {SERIES: S.DELIVERED, RIVAL: S.NOT_ANALYSED}
    assert {item.state for item in rivals.details(RIVAL).deliveries} == {D.CANCELLED}


def test_what_was_on_its_way_when_it_was_cancelled_does_not_bring_the_series_back(rivals: Ledger) -> None:
    first = rivals.due_deliveries("pacs", at(1))[0]
    rivals.delivery_sent(first.id, at(1))
    rivals.cancel(SERIES, at(2))
    rivals.delivery_committed(first.id, at(3))
    assert rivals.series(SERIES).state is S.CANCELLED
    found = sorted(item.state for item in rivals.details(SERIES).deliveries)
    assert found == [D.CANCELLED, D.CANCELLED, D.COMMITTED]
