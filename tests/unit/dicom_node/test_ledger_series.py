"""Series in the ledger: made, reopened, superseded, listed, retried and cancelled. On both databases."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from datetime import datetime

import pytest
from sqlalchemy import create_engine, text

from dicom_node.errors import IllegalTransition, NodeError, NotFound, PermanentError, TransientError
from dicom_node.ledger import Choice, Ledger, SeriesIdentity, SeriesRecord, Verdict
from dicom_node.states import DeliveryState, InstanceState, JobState, SeriesState
from tests.fixtures.samples import (
    SERIES,
    START,
    STUDY,
    again,
    analyse,
    analysed,
    at,
    complete,
    deliver,
    filing,
    queue,
    receive,
)

S, J, D, N = SeriesState, JobState, DeliveryState, InstanceState
OTHER = "1.2.3.2"


def _state(ledger: Ledger, series_uid: str = SERIES) -> tuple[SeriesState, int]:
    record = ledger.series(series_uid)
    return record.state, record.revision


def _story(ledger: Ledger, subject: str = "series", series_uid: str = SERIES) -> list[tuple[str, str]]:
    events = ledger.details(series_uid).events
    return [(event.old_state, event.new_state) for event in events if event.subject == subject]


def test_first_instances_make_the_series(ledger: Ledger) -> None:
    receive(ledger, count=3, now=at(5))
    record = ledger.series(SERIES)
    assert record.state is S.RECEIVING
    assert (record.instances, record.revision, record.candidate) == (3, 1, False)
    assert record.identity == SeriesIdentity(SERIES, STUDY, "P1", calling_ae="CT")
    assert record.created_at == record.last_instance_at == at(5)
    (event,) = ledger.details(SERIES).events
    assert (event.at, event.new_state, event.reason) == (at(5), "receiving", "first instance, from CT")


def test_every_instance_moves_the_quiet_time(ledger: Ledger) -> None:
    receive(ledger, count=1)
    before = ledger.series(SERIES)
    ledger.file_instances([filing(2)], at(9))
    after = ledger.series(SERIES)
    assert (after.last_instance_at, after.instances) == (at(9), 2)
    assert after.version > before.version


def test_a_known_instance_changes_nothing(ledger: Ledger) -> None:
    receive(ledger)
    before = ledger.details(SERIES)
    ledger.file_instances([filing(1, verdict=Verdict.KNOWN)], at(9))
    assert ledger.details(SERIES) == before


def test_a_recoded_instance_changes_no_series(ledger: Ledger) -> None:
    analysed(ledger)
    before = ledger.series(SERIES)
    ledger.file_instances([again(ledger, 1, Verdict.RECODED)], at(9))
    assert ledger.series(SERIES) == before
    assert ledger.details(SERIES).instances == {N.CURRENT: 3, N.SUPERSEDED: 1, N.CONFLICTING: 0}


def test_a_correction_reopens_and_the_series_follows_the_new_header(ledger: Ledger) -> None:
    analysed(ledger)
    right = SeriesIdentity(SERIES, STUDY, "P2", patient_name="Right^Patient", accession_number="A7")
    ledger.file_instances([again(ledger, 1, Verdict.CORRECTED, identity=right)], at(9))
    details = ledger.details(SERIES)
    assert (details.series.state, details.series.revision) == (S.RECEIVING, 2)
    assert details.series.identity == right
    assert details.instances == {N.CURRENT: 3, N.SUPERSEDED: 1, N.CONFLICTING: 0}
    assert {delivery.state for delivery in details.deliveries} == {D.CANCELLED}
    assert not any(result.current for result in details.results)
    assert "corrected header" in details.events[-1].reason


def test_conflicting_pixels_are_kept_beside_the_first(ledger: Ledger) -> None:
    analysed(ledger)
    ledger.file_instances([again(ledger, 2, Verdict.CONFLICTING)], at(9))
    assert _state(ledger) == (S.RECEIVING, 2)
    kept = ledger.current_instances(SERIES)
    assert [record.state for record in kept] == [N.CURRENT, N.CURRENT, N.CONFLICTING, N.CURRENT]


def test_a_conflict_across_series_is_seen_from_both(ledger: Ledger) -> None:
    receive(ledger)
    (stranger,) = [again(ledger, 1, Verdict.CONFLICTING)]
    moved = dataclasses.replace(stranger, identity=SeriesIdentity(OTHER, STUDY))
    ledger.file_instances([moved], at(9))
    for series_uid in (SERIES, OTHER):
        assert N.CONFLICTING in {record.state for record in ledger.current_instances(series_uid)}
        assert ledger.series(series_uid).last_instance_at == at(9)


def test_an_instance_corrected_into_another_series_reopens_both(ledger: Ledger) -> None:
    analysed(ledger)
    analysed(ledger, OTHER, destinations={})
    moved = dataclasses.replace(
        again(ledger, 1, Verdict.CORRECTED), identity=SeriesIdentity(OTHER, STUDY, "P1", calling_ae="CT")
    )
    ledger.file_instances([moved], at(9))
    assert ledger.series(SERIES).instances == 2
    assert ledger.series(OTHER).instances == 4
    assert (_state(ledger), _state(ledger, OTHER)) == ((S.RECEIVING, 2), (S.RECEIVING, 2))


def test_a_verdict_against_a_superseded_instance_is_refused(ledger: Ledger) -> None:
    receive(ledger)
    stale = again(ledger, 1, Verdict.CORRECTED)
    ledger.file_instances([stale], at(1))
    with pytest.raises(TransientError, match="not current any more"):
        ledger.file_instances([dataclasses.replace(stale, dataset_sha256="f" * 64)], at(2))
    assert ledger.series(SERIES).last_instance_at == at(1)


def test_a_file_that_is_kept_already_is_not_kept_twice(ledger: Ledger) -> None:
    receive(ledger)
    with pytest.raises(PermanentError):
        ledger.file_instances([filing(9), filing(1)], at(1))
    assert ledger.series(SERIES).instances == 3, "the batch is one transaction"


@pytest.mark.parametrize("ending", [S.COMPLETE, S.INCOMPLETE, S.NOT_ANALYSED])
def test_a_late_instance_reopens_what_was_settled(ledger: Ledger, ending: SeriesState) -> None:
    receive(ledger)
    assert ledger.settle(ledger.series(SERIES), ending, "because", at(1))
    ledger.file_instances([filing(4)], at(2))
    assert _state(ledger) == (S.RECEIVING, 1), "nothing was handed to analysis yet"
    assert _story(ledger) == [("", "receiving"), ("receiving", str(ending)), (str(ending), "receiving")]


def test_a_late_instance_cancels_the_job_that_waits(ledger: Ledger) -> None:
    receive(ledger)
    complete(ledger)
    queue(ledger)
    ledger.file_instances([filing(4)], at(2))
    details = ledger.details(SERIES)
    assert _state(ledger) == (S.RECEIVING, 2)
    assert [job.state for job in details.jobs] == [J.CANCELLED]
    assert ledger.claim_job(at(3)) is None


@pytest.mark.parametrize("delivered", [False, True])
def test_a_late_instance_supersedes_results(ledger: Ledger, delivered: bool) -> None:
    analysed(ledger)
    if delivered:
        deliver(ledger)
    assert _state(ledger) == (S.DELIVERED if delivered else S.ANALYSED, 1)
    ledger.file_instances([filing(4)], at(2))
    details = ledger.details(SERIES)
    assert _state(ledger) == (S.RECEIVING, 2)
    assert {delivery.state for delivery in details.deliveries} == {D.COMMITTED if delivered else D.CANCELLED}
    assert not any(result.current for result in details.results)


def test_a_stale_decision_is_not_written(ledger: Ledger) -> None:
    receive(ledger)
    seen = ledger.series(SERIES)
    ledger.file_instances([filing(4)], at(1))
    assert not ledger.settle(seen, S.COMPLETE, "", at(2), completeness="whole")
    assert ledger.series(SERIES).state is S.RECEIVING


def test_selection_is_refused_when_another_series_came(ledger: Ledger) -> None:
    receive(ledger)
    complete(ledger)
    seen = tuple(ledger.list_series(study_uid=STUDY))
    receive(ledger, OTHER)
    assert not ledger.select(Choice(seen[0], "why", {}, seen), at(1))
    assert _state(ledger)[0] is S.COMPLETE


def test_the_others_are_turned_down_with_a_reason(ledger: Ledger) -> None:
    for series_uid in (SERIES, OTHER):
        receive(ledger, series_uid)
        complete(ledger, series_uid)
    assert ledger.complete_studies() == [STUDY]
    queue(ledger)
    assert ledger.series(OTHER).reason == f"{SERIES} was chosen"
    assert (_state(ledger)[0], _state(ledger, OTHER)[0]) == (S.QUEUED, S.NOT_ANALYSED)
    assert ledger.complete_studies() == []


def test_a_better_series_takes_the_place_of_the_one_analysed(ledger: Ledger) -> None:
    analysed(ledger)
    receive(ledger, OTHER)
    complete(ledger, OTHER)
    queue(ledger, OTHER)
    details = ledger.details(SERIES)
    assert details.series.state is S.NOT_ANALYSED
    assert {delivery.state for delivery in details.deliveries} == {D.CANCELLED}
    assert not any(result.current for result in details.results)
    analyse_again = ledger.claim_job(at(1))
    assert analyse_again is not None
    assert analyse_again[1].series_uid == OTHER


def test_a_rejected_choice_lets_the_next_best_try(ledger: Ledger) -> None:
    for series_uid in (SERIES, OTHER):
        receive(ledger, series_uid)
        complete(ledger, series_uid)
    queue(ledger)
    claimed = ledger.claim_job(at(1))
    assert claimed is not None
    assert ledger.job_rejected(claimed[0], "no lungs found", at(2))
    assert (ledger.series(SERIES).state, ledger.series(SERIES).reason) == (S.NOT_ANALYSED, "no lungs found")
    assert _state(ledger, OTHER)[0] is S.COMPLETE
    assert not ledger.series(SERIES).candidate


def test_a_series_that_leaves_its_study_lets_the_others_try(ledger: Ledger) -> None:
    for series_uid in (SERIES, OTHER):
        receive(ledger, series_uid)
        complete(ledger, series_uid)
    queue(ledger)
    moved = SeriesIdentity(SERIES, "7.7", "P2")
    ledger.file_instances([again(ledger, 1, Verdict.CORRECTED, identity=moved)], at(3))
    assert ledger.series(SERIES).study_uid == "7.7"
    assert _state(ledger)[0] is S.RECEIVING
    assert _state(ledger, OTHER)[0] is S.COMPLETE


# --- by a person ---


@pytest.mark.parametrize("state", [S.RECEIVING, S.COMPLETE, S.QUEUED])
def test_nothing_under_way_is_retried(ledger: Ledger, state: SeriesState) -> None:
    receive(ledger)
    if state is not S.RECEIVING:
        complete(ledger)
    if state is S.QUEUED:
        queue(ledger)
    with pytest.raises(IllegalTransition, match="under way"):
        ledger.retry(SERIES, at(1))
    assert _state(ledger)[0] is state


def test_retry_of_a_failed_analysis_keeps_the_revision(ledger: Ledger) -> None:
    receive(ledger)
    complete(ledger)
    queue(ledger)
    claimed = ledger.claim_job(at(1))
    assert claimed is not None
    assert ledger.job_failed(claimed[0], "the model is not there", at(2))
    assert ledger.series(SERIES).reason == "the model is not there"
    record = ledger.retry(SERIES, at(3))
    assert (record.state, record.revision, record.preferred) == (S.RECEIVING, 1, True)
    complete(ledger)
    queue(ledger)
    (job,) = ledger.details(SERIES).jobs
    assert (job.id, job.state, job.attempts, job.created_at) == (claimed[0].id, J.WAITING, 0, START)


def test_retry_of_a_failed_delivery_sends_again(ledger: Ledger) -> None:
    analysed(ledger)
    first, second, third = ledger.due_deliveries("pacs", START)
    ledger.delivery_failed(first.id, at(1), "AE not recognised")
    assert ledger.series(SERIES).state is S.FAILED
    assert "not delivered to pacs: AE not recognised" in ledger.series(SERIES).reason
    record = ledger.retry(SERIES, at(50))
    assert (record.state, record.reason, record.revision) == (S.ANALYSED, "", 1)
    due = ledger.due_deliveries("pacs", at(50))
    assert [delivery.id for delivery in due] == [first.id, second.id, third.id]
    assert {delivery.first_pending_at for delivery in due} == {at(50)}


@pytest.mark.parametrize("failed", [True, False])
def test_retry_analyses_again_where_a_result_file_is_damaged(ledger: Ledger, failed: bool) -> None:
    analysed(ledger)
    first = ledger.due_deliveries("pacs", START)[0]
    if failed:
        ledger.delivery_failed(first.id, at(1), "the result file cannot be read")
    damaged = [r.id for r in ledger.details(SERIES).results if r.sop_instance_uid == first.sop_instance_uid]
    record = ledger.retry(SERIES, at(2), damaged)
    assert (record.state, record.revision) == (S.RECEIVING, 2)
    assert ledger.due_deliveries("pacs", at(2)) == []
    complete(ledger)
    analyse(ledger, now=at(3))
    assert {item.revision for item in ledger.due_deliveries("pacs", at(3))} == {2}


@pytest.mark.parametrize("named", [("pacs", "old"), ("pacs", "new")])
def test_retry_analyses_again_where_what_failed_has_nowhere_to_go(ledger: Ledger, named: Sequence[str]) -> None:
    analysed(ledger, destinations={"pacs": "default", "old": "default"})
    deliver(ledger)
    assert ledger.abandon_unknown(["pacs"], at(1)) == 3
    record = ledger.retry(SERIES, at(2), destinations=named)
    expected = (S.ANALYSED, 1) if "old" in named else (S.RECEIVING, 2)
    assert (record.state, record.revision) == expected
    assert bool(ledger.due_deliveries("old", at(2))) is ("old" in named)


def test_a_damaged_file_that_was_delivered_already_is_no_matter(ledger: Ledger) -> None:
    analysed(ledger)
    first, second, _ = ledger.due_deliveries("pacs", START)
    ledger.delivery_sent(first.id, START)
    ledger.delivery_failed(second.id, at(1), "refused")
    damaged = [r.id for r in ledger.details(SERIES).results if r.sop_instance_uid == first.sop_instance_uid]
    assert ledger.retry(SERIES, at(2), damaged).state is S.ANALYSED


def test_retry_of_a_delivered_series_makes_a_new_revision(ledger: Ledger) -> None:
    analysed(ledger)
    deliver(ledger)
    record = ledger.retry(SERIES, at(1))
    assert (record.state, record.revision) == (S.RECEIVING, 2)
    complete(ledger)
    analyse(ledger, now=at(2))
    assert [job.revision for job in ledger.details(SERIES).jobs] == [1, 2]


def test_retry_waits_for_a_commitment_that_is_out(ledger: Ledger) -> None:
    analysed(ledger)
    for delivery in ledger.due_deliveries("pacs", START):
        ledger.delivery_sent(delivery.id, START)
    with pytest.raises(IllegalTransition, match="commit"):
        ledger.retry(SERIES, at(1))


def test_retry_takes_what_was_received_last_of_conflicting_instances(ledger: Ledger) -> None:
    receive(ledger)
    header = {"StudyInstanceUID": STUDY, "PatientID": "P9", "PatientName": "Kim"}
    ledger.file_instances([again(ledger, 2, Verdict.CONFLICTING, header=header)], at(1))
    assert ledger.settle(ledger.series(SERIES), S.NOT_ANALYSED, "conflicting instance", at(2))
    newest = next(record for record in ledger.current_instances(SERIES) if record.state is N.CONFLICTING)
    record = ledger.retry(SERIES, at(3))
    assert record.identity.patient_id == "P9"
    kept = ledger.current_instances(SERIES)
    assert {item.state for item in kept} == {N.CURRENT}
    assert newest.id in {item.id for item in kept}
    assert len(kept) == 3


def test_a_person_prefers_one_series_of_a_study(ledger: Ledger) -> None:
    for series_uid in (SERIES, OTHER):
        receive(ledger, series_uid)
        complete(ledger, series_uid)
    queue(ledger)
    ledger.retry(OTHER, at(1))
    assert [ledger.series(uid).preferred for uid in (SERIES, OTHER)] == [False, True]


@pytest.mark.parametrize("state", [S.RECEIVING, S.COMPLETE, S.QUEUED, S.ANALYSED, S.NOT_ANALYSED])
def test_cancel_stops_what_is_not_done(ledger: Ledger, state: SeriesState) -> None:
    if state is S.ANALYSED:
        analysed(ledger)
    else:
        receive(ledger)
    if state in (S.COMPLETE, S.QUEUED):
        complete(ledger)
    if state is S.QUEUED:
        queue(ledger)
    if state is S.NOT_ANALYSED:
        ledger.settle(ledger.series(SERIES), S.NOT_ANALYSED, "no CT", at(1))
    record = ledger.cancel(SERIES, at(2))
    assert (record.state, record.reason) == (S.CANCELLED, "cancelled by a person")
    assert ledger.claim_job(at(3)) is None
    assert ledger.due_deliveries("pacs", at(3)) == []
    assert ledger.complete_studies() == []
    with pytest.raises(IllegalTransition):
        ledger.cancel(SERIES, at(4))


def test_a_delivered_series_is_not_cancelled(ledger: Ledger) -> None:
    analysed(ledger)
    deliver(ledger)
    with pytest.raises(IllegalTransition, match="nothing left to cancel"):
        ledger.cancel(SERIES, at(2))


def test_a_cancelled_series_stays_so_while_it_arrives_but_not_when_it_is_corrected(ledger: Ledger) -> None:
    receive(ledger)
    ledger.cancel(SERIES, at(1))
    ledger.file_instances([filing(4)], at(2))
    assert _state(ledger) == (S.CANCELLED, 1)
    ledger.file_instances([again(ledger, 4, Verdict.CORRECTED)], at(3))
    assert _state(ledger) == (S.RECEIVING, 1)


def test_retry_after_cancel_analyses_again(ledger: Ledger) -> None:
    """The cancelled results do not count any more: another series may have been chosen since."""
    analysed(ledger)
    ledger.cancel(SERIES, at(1))
    record = ledger.retry(SERIES, at(2))
    assert (record.state, record.revision, record.preferred) == (S.RECEIVING, 2, True)
    complete(ledger)
    analyse(ledger, now=at(3))
    deliver(ledger, now=at(3))
    assert ledger.series(SERIES).state is S.DELIVERED


# --- lists ---


@pytest.fixture
def twelve(ledger: Ledger) -> Ledger:
    """Series that differ in time, state, study and patient; two arrive at the same moment."""
    for number in range(12):
        identity = SeriesIdentity(f"5.{number}", f"6.{number % 3}", f"P{number}", accession_number=f"A{number % 2}")
        when = at(number - number % 2)
        ledger.file_instances([filing(1, f"5.{number}", identity=identity)], when)
        if number % 4 == 0:
            ledger.settle(ledger.series(f"5.{number}"), S.NOT_ANALYSED, "no CT", when)
    return ledger


def _all_pages(ledger: Ledger, size: int, states: tuple[SeriesState, ...] = ()) -> list[SeriesRecord]:
    found: list[SeriesRecord] = []
    while page := ledger.list_series(states=states, limit=size, before=found[-1] if found else None):
        found += page
    return found


@pytest.mark.parametrize("size", [1, 5, 50])
def test_pages_are_newest_first_and_skip_nothing(twelve: Ledger, size: int) -> None:
    assert [record.series_uid for record in _all_pages(twelve, size)] == [f"5.{n}" for n in range(11, -1, -1)]


def test_pages_of_one_state(twelve: Ledger) -> None:
    found = _all_pages(twelve, 2, (S.NOT_ANALYSED,))
    assert [record.series_uid for record in found] == ["5.8", "5.4", "5.0"]


@pytest.mark.parametrize(("text_", "count"), [("P3", 1), ("A1", 6), ("6.2", 4), ("5.7", 1), ("P", 0)])
def test_search_is_exact(twelve: Ledger, text_: str, count: int) -> None:
    assert len(twelve.list_series(text=text_)) == count


def test_counts_name_every_state(twelve: Ledger) -> None:
    expected = dict.fromkeys(S, 0) | {S.RECEIVING: 9, S.NOT_ANALYSED: 3}
    assert twelve.counts() == expected


def test_receiving_comes_longest_quiet_first(twelve: Ledger) -> None:
    times = [record.last_instance_at for record in twelve.receiving()]
    assert len(times) == 9
    assert times == sorted(times)


@pytest.mark.parametrize("method", ["series", "details"])
def test_an_unknown_series_is_not_found(ledger: Ledger, method: str) -> None:
    with pytest.raises(NotFound, match="never received"):
        getattr(ledger, method)("9.9")
    for change in (ledger.retry, ledger.cancel):
        with pytest.raises(NotFound):
            change("9.9", START)


def test_notes_are_among_the_recent_events(ledger: Ledger) -> None:
    receive(ledger)
    ledger.note("a file was set aside", at(1))
    ledger.note("a remark", at(2), series_uid=SERIES, subject="series")
    remark, aside, first = ledger.recent_events()
    assert (remark.series_uid, remark.subject, remark.at) == (SERIES, "series", at(2))
    assert (aside.series_uid, aside.subject, aside.reason) == (None, "node", "a file was set aside")
    assert first.new_state == "receiving"
    assert len(ledger.recent_events(limit=1)) == 1


# --- hostile values, time, threads ---


def test_hostile_texts_are_kept_as_far_as_a_database_can(ledger: Ledger) -> None:
    nasty = SeriesIdentity(
        SERIES, STUDY, "P\x00\ud800" + "x" * 70_000, patient_name="김^Zoë'; DROP TABLE series;--"
    )
    ledger.file_instances([filing(1, identity=nasty, header={"PatientName": "a\x00b\ud800"})], START)
    record = ledger.series(SERIES)
    assert record.identity.patient_id == "P?" + "x" * 253 + "…"
    assert record.identity.patient_name == nasty.patient_name
    assert ledger.list_series(text=nasty.patient_id) == [record]


def test_a_naive_time_is_refused(ledger: Ledger) -> None:
    with pytest.raises(PermanentError, match="naive"):
        receive(ledger, now=datetime(2026, 1, 1))
    assert ledger.list_series() == []


def test_a_lost_table_is_told(database_url: str) -> None:
    ledger = Ledger(database_url)
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE event"))
    engine.dispose()
    # SQLite calls it an operational error, PostgreSQL a programming error: nobody's row is at fault in either.
    with pytest.raises(TransientError, match="event"):
        receive(ledger)
    assert ledger.list_series() == []
    ledger.close()


def test_many_threads_write_at_once(ledger: Ledger) -> None:
    failures: list[NodeError] = []
    barrier = threading.Barrier(4)

    def work(thread: int) -> None:
        barrier.wait()
        try:
            for number in range(10):
                ledger.file_instances([filing(thread * 100 + number)], at(number))
        except NodeError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert ledger.series(SERIES).instances == 40
    assert ledger.series(SERIES).version == 40, "no update was lost"
