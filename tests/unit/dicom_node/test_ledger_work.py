"""Jobs and deliveries in the ledger, on both databases."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from dicom_node.errors import IllegalTransition, NotFound
from dicom_node.ledger import Delivery, JobRecord, Ledger, Verdict
from dicom_node.states import DeliveryState, JobState, SeriesState
from pipeline.types import ResultKind
from tests.fixtures.samples import (
    RESULTS,
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
    outcome,
    queue,
    receive,
)

S, J, D = SeriesState, JobState, DeliveryState
OTHER = "1.2.3.2"


@pytest.fixture
def running(ledger: Ledger) -> JobRecord:
    """A series whose job runs."""
    receive(ledger)
    complete(ledger)
    queue(ledger, now=at(1))
    claimed = ledger.claim_job(at(2))
    assert claimed is not None
    return claimed[0]


def _states(ledger: Ledger) -> tuple[SeriesState, JobState]:
    return ledger.series(SERIES).state, ledger.details(SERIES).jobs[-1].state


# --- jobs ---


def test_an_attempt_is_counted_before_the_work(ledger: Ledger, running: JobRecord) -> None:
    assert ledger.job(running.id) == running
    assert (running.state, running.attempts, running.created_at, running.started_at) == (J.RUNNING, 1, at(1), at(2))
    assert ledger.claim_job(at(3)) is None


def test_jobs_are_claimed_oldest_first(ledger: Ledger) -> None:
    for series_uid, study_uid in ((OTHER, "4.1"), (SERIES, "4.2")):
        receive(ledger, series_uid, study_uid=study_uid)
        complete(ledger, series_uid)
        queue(ledger, series_uid)
    claimed = [ledger.claim_job(at(1)), ledger.claim_job(at(1)), ledger.claim_job(at(1))]
    assert [pair and pair[1].series_uid for pair in claimed] == [OTHER, SERIES, None]


def test_an_unknown_job_is_not_found(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        ledger.job(77)


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_an_interrupted_job_is_tried_again_and_then_given_up(
    ledger: Ledger, running: JobRecord, attempts: int
) -> None:
    for attempt in range(1, attempts):
        assert ledger.job_interrupted(running, "the worker died", at(10 * attempt), max_attempts=3)
        assert ledger.job(running.id).reason == f"attempt {attempt}: the worker died"
        claimed = ledger.claim_job(at(10 * attempt + 1))
        assert claimed is not None
        assert claimed[0].attempts == attempt + 1
        running = claimed[0]
    assert ledger.job_interrupted(running, "the worker died", at(99), max_attempts=3)
    if attempts < 3:
        assert _states(ledger) == (S.QUEUED, J.WAITING)
    else:
        assert _states(ledger) == (S.FAILED, J.FAILED)
        assert ledger.series(SERIES).reason == "given up after 3 attempt(s), the last: the worker died"


@pytest.mark.parametrize(("limit", "expected"), [(2, (S.QUEUED, J.WAITING)), (1, (S.FAILED, J.FAILED))])
def test_a_restart_finds_jobs_that_ran(
    ledger: Ledger, running: JobRecord, limit: int, expected: tuple[SeriesState, JobState]
) -> None:
    assert ledger.recover_jobs(at(5), limit) == 1
    assert _states(ledger) == expected
    assert "the node stopped while it ran" in ledger.job(running.id).reason
    assert ledger.recover_jobs(at(6), limit) == 0


def test_a_node_that_stops_takes_the_attempt_back(ledger: Ledger, running: JobRecord) -> None:
    assert ledger.job_returned(running, at(5))
    assert (ledger.job(running.id).attempts, _states(ledger)) == (0, (S.QUEUED, J.WAITING))


def test_a_failed_analysis_says_why(ledger: Ledger, running: JobRecord) -> None:
    assert ledger.job_failed(running, "weights are missing: set analysis.model", at(5))
    assert _states(ledger) == (S.FAILED, J.FAILED)
    assert ledger.series(SERIES).reason == "weights are missing: set analysis.model"
    assert ledger.job(running.id).finished_at == at(5)


@pytest.mark.parametrize("ending", ["done", "rejected", "failed", "interrupted", "returned"])
def test_the_outcome_of_a_cancelled_job_is_discarded(ledger: Ledger, running: JobRecord, ending: str) -> None:
    ledger.file_instances([filing(4)], at(3))
    before = ledger.details(SERIES)
    calls = {
        "done": lambda: ledger.job_done(running, outcome(), RESULTS, {"pacs": "default"}, at(4)),
        "rejected": lambda: ledger.job_rejected(running, "x", at(4)),
        "failed": lambda: ledger.job_failed(running, "x", at(4)),
        "interrupted": lambda: ledger.job_interrupted(running, "x", at(4), 3),
        "returned": lambda: ledger.job_returned(running, at(4)),
    }
    assert calls[ending]() is False
    assert ledger.details(SERIES) == before
    assert before.results == ()


def test_an_outcome_of_an_earlier_claim_does_not_count(ledger: Ledger, running: JobRecord) -> None:
    """Cancelled and asked for again, while the first worker still runs."""
    ledger.cancel(SERIES, at(3))
    ledger.retry(SERIES, at(4))
    complete(ledger)
    queue(ledger)
    second = ledger.claim_job(at(5))
    assert second is not None
    assert second[0].id == running.id
    assert not ledger.job_interrupted(running, "killed", at(6), 3)
    assert not ledger.job_done(running, outcome(), RESULTS, {"pacs": "default"}, at(6))
    assert ledger.job_done(second[0], outcome(), RESULTS, {"pacs": "default"}, at(7))


def test_results_and_deliveries_are_written_together(ledger: Ledger, running: JobRecord) -> None:
    where = {"pacs": "default", "viewer": "labelmap", "second": "default"}
    assert ledger.job_done(running, outcome(1, ["default", "labelmap"]), RESULTS, where, at(4))
    details = ledger.details(SERIES)
    assert _states(ledger) == (S.ANALYSED, J.DONE)
    assert details.jobs[0].report == {"severity_score": 0.25, "series_uid": SERIES}
    assert len(details.results) == 6
    assert all(result.current and not Path(result.path).is_absolute() for result in details.results)
    found = sorted((delivery.destination, delivery.profile, delivery.kind) for delivery in details.deliveries)
    kinds = sorted([ResultKind.LESIONS, ResultKind.PICTURE, ResultKind.SR])
    assert found == [(name, where[name], kind) for name in sorted(where) for kind in kinds]
    assert {delivery.next_attempt_at for delivery in details.deliveries} == {at(4)}


def test_an_outcome_with_a_path_elsewhere_is_not_half_written(ledger: Ledger, running: JobRecord) -> None:
    with pytest.raises(ValueError, match="not in the subpath"):
        ledger.job_done(running, outcome(), Path("/elsewhere"), {"pacs": "default"}, at(4))
    assert _states(ledger) == (S.QUEUED, J.RUNNING)
    assert ledger.details(SERIES).results == ()


def test_without_destinations_the_results_stay_and_it_says_so(ledger: Ledger) -> None:
    analysed(ledger, destinations={})
    record = ledger.series(SERIES)
    assert record.state is S.ANALYSED
    assert "no destination is configured" in record.reason
    assert ledger.details(SERIES).deliveries == ()


# --- predecessors ---


def _next_job(ledger: Ledger, series_uid: str = SERIES) -> int:
    complete(ledger, series_uid)
    queue(ledger, series_uid)
    claimed = ledger.claim_job(at(50))
    assert claimed is not None
    return claimed[0].id


@pytest.mark.parametrize("sent", [True, False])
def test_only_an_sr_that_was_sent_is_a_predecessor(ledger: Ledger, sent: bool) -> None:
    analysed(ledger)
    if sent:
        deliver(ledger)
    sr = next(result for result in ledger.details(SERIES).results if result.kind is ResultKind.SR)
    ledger.file_instances([filing(4)], at(2))
    found = ledger.predecessors(_next_job(ledger))
    assert {profile: item.sop_instance_uid for profile, item in found.items()} == (
        {"default": sr.sop_instance_uid} if sent else {}
    )


def test_without_deliveries_an_earlier_sr_is_a_predecessor(ledger: Ledger) -> None:
    analysed(ledger, destinations={})
    ledger.file_instances([filing(4)], at(2))
    assert set(ledger.predecessors(_next_job(ledger))) == {"default"}


def test_the_series_chosen_before_gives_the_predecessor(ledger: Ledger) -> None:
    analysed(ledger)
    deliver(ledger)
    sr = next(result for result in ledger.details(SERIES).results if result.kind is ResultKind.SR)
    receive(ledger, OTHER)
    found = ledger.predecessors(_next_job(ledger, OTHER))
    assert found["default"].sop_instance_uid == sr.sop_instance_uid


def test_the_newest_of_several_is_the_predecessor(ledger: Ledger) -> None:
    analysed(ledger)
    deliver(ledger)
    ledger.file_instances([filing(4)], at(2))
    complete(ledger)
    analyse(ledger, now=at(3))
    deliver(ledger, now=at(3))
    ledger.file_instances([filing(5)], at(4))
    newest = [result for result in ledger.details(SERIES).results if result.kind is ResultKind.SR][-1]
    assert newest.revision == 2
    assert ledger.predecessors(_next_job(ledger))["default"].sop_instance_uid == newest.sop_instance_uid


def test_where_a_destination_has_another_profile_now_it_has_what_it_was_sent_replaced(ledger: Ledger) -> None:
    analysed(ledger, destinations={"pacs": "default", "viewer": "labelmap"})
    deliver(ledger)
    deliver(ledger, "viewer")
    uids = {(one.profile, one.kind): one.sop_instance_uid for one in ledger.details(SERIES).results}
    ledger.file_instances([filing(4)], at(2))
    job = _next_job(ledger)
    for changed in ("pacs", "viewer"):
        now = {"pacs": "default", "viewer": "labelmap", changed: "new"}
        had = {"pacs": "default", "viewer": "labelmap"}[changed]
        assert ledger.predecessors(job, now)["new"].sop_instance_uid == uids[had, ResultKind.SR]
        named = {each.sop_instance_uid for each in ledger.superseded(job, now)["new"]}
        assert named == {uid for (profile, _), uid in uids.items() if profile == had}
    for profile in ("default", "labelmap"):  # one that has a set of its own follows that
        found = ledger.predecessors(job, {"pacs": profile, "viewer": profile})
        assert found[profile].sop_instance_uid == uids[profile, ResultKind.SR]
        both = ledger.superseded(job, {"pacs": profile, "viewer": profile})[profile]
        assert {each.sop_instance_uid for each in both} == set(uids.values())


def test_a_series_analysed_a_second_time_gets_a_new_revision(ledger: Ledger) -> None:
    analysed(ledger)
    receive(ledger, OTHER)
    complete(ledger, OTHER)
    analyse(ledger, OTHER, now=at(1))
    ledger.retry(SERIES, at(2))
    complete(ledger)
    analyse(ledger, now=at(3))
    assert [job.revision for job in ledger.details(SERIES).jobs] == [1, 2]
    assert ledger.series(OTHER).state is S.NOT_ANALYSED
    current = [result for uid in (SERIES, OTHER) for result in ledger.details(uid).results if result.current]
    assert {result.revision for result in current} == {2}


# --- deliveries ---


def _due(ledger: Ledger, now: datetime = START, destination: str = "pacs") -> list[Delivery]:
    return ledger.due_deliveries(destination, now)


def _delivery(ledger: Ledger, delivery_id: int) -> Delivery:
    return next(item for item in ledger.details(SERIES).deliveries if item.id == delivery_id)


def test_the_sr_comes_last_and_sets_oldest_first(ledger: Ledger) -> None:
    analysed(ledger)
    receive(ledger, OTHER, study_uid="4.1")
    complete(ledger, OTHER)
    analyse(ledger, OTHER)
    found = [(delivery.source_series_uid, delivery.kind) for delivery in _due(ledger)]
    kinds = [ResultKind.LESIONS, ResultKind.PICTURE, ResultKind.SR]
    assert found == [(series_uid, kind) for series_uid in (SERIES, OTHER) for kind in kinds]
    assert len(ledger.due_deliveries("pacs", START, limit=2)) == 2
    assert _due(ledger, destination="elsewhere") == []


def test_the_sr_waits_for_an_object_that_was_postponed(ledger: Ledger) -> None:
    analysed(ledger)
    lesions, picture, sr = _due(ledger)
    ledger.delivery_postponed(lesions.id, at(30), at(1), "connection refused")
    assert [delivery.id for delivery in _due(ledger, at(2))] == [picture.id]
    assert [delivery.id for delivery in _due(ledger, at(30))] == [lesions.id, picture.id, sr.id]


def test_the_sr_of_another_destination_does_not_wait(ledger: Ledger) -> None:
    analysed(ledger, destinations={"pacs": "default", "second": "default"})
    ledger.delivery_postponed(_due(ledger)[0].id, at(30), at(1), "connection refused")
    assert len(_due(ledger, at(2), "second")) == 3


def test_a_postponed_delivery_counts_its_attempts(ledger: Ledger) -> None:
    analysed(ledger)
    first = _due(ledger)[0]
    ledger.delivery_postponed(first.id, at(30), at(1), "connection refused")
    ledger.delivery_postponed(first.id, at(90), at(31), "connection refused again")
    found = _delivery(ledger, first.id)
    assert (found.attempts, found.reason, found.first_pending_at) == (2, "connection refused again", START)
    assert found.next_attempt_at == at(90)
    events = [event for event in ledger.details(SERIES).events if event.subject_id == first.id]
    assert [event.at for event in events if event.subject == "delivery"] == [START, at(1), at(31)]
    assert ledger.next_delivery_at("pacs") == START


def test_next_times_are_none_where_nothing_waits(ledger: Ledger) -> None:
    assert ledger.next_delivery_at("pacs") is None
    analysed(ledger)
    assert ledger.next_delivery_at("pacs") == START
    deliver(ledger)
    assert ledger.next_delivery_at("pacs") is None


def test_the_last_commitment_makes_the_series_delivered(ledger: Ledger) -> None:
    analysed(ledger, destinations={"pacs": "default", "second": "default"})
    for destination in ("pacs", "second"):
        assert ledger.series(SERIES).state is S.ANALYSED
        deliver(ledger, destination, at(5))
    assert ledger.series(SERIES).state is S.DELIVERED
    assert {item.committed_at for item in ledger.details(SERIES).deliveries} == {at(5)}


def test_a_report_that_comes_twice_changes_nothing(ledger: Ledger) -> None:
    analysed(ledger)
    deliver(ledger)
    before = ledger.details(SERIES)
    ledger.delivery_committed(before.deliveries[0].id, at(9))
    assert ledger.details(SERIES) == before


def test_a_warning_is_kept(ledger: Ledger) -> None:
    analysed(ledger)
    first = _due(ledger)[0]
    ledger.delivery_sent(first.id, at(1), warning="B000: coercion of data elements")
    found = _delivery(ledger, first.id)
    assert (found.state, found.warning, found.sent_at) == (D.SENT, "B000: coercion of data elements", at(1))


def test_commitment_is_asked_for_by_transaction(ledger: Ledger) -> None:
    analysed(ledger)
    ids = [delivery.id for delivery in _due(ledger)]
    with pytest.raises(IllegalTransition, match="what was sent"):
        ledger.open_transaction(ids, "2.25.1", at(1))
    for delivery_id in ids:
        ledger.delivery_sent(delivery_id, at(1))
    ledger.open_transaction(ids[:2], "2.25.1", at(5))
    found = ledger.deliveries_of_transaction("2.25.1")
    assert [delivery.id for delivery in found] == ids[:2]
    assert {delivery.asked_at for delivery in found} == {at(5)}
    assert ledger.deliveries_of_transaction("2.25.2") == []
    assert [delivery.id for delivery in ledger.sent_deliveries("pacs", at(4))] == ids[2:]
    assert [delivery.id for delivery in ledger.sent_deliveries("pacs", at(5))] == ids


def test_what_the_peer_lost_is_sent_again(ledger: Ledger) -> None:
    analysed(ledger)
    first = _due(ledger)[0]
    ledger.delivery_sent(first.id, at(1))
    ledger.resend(first.id, at(7), "not committed: no such object")
    found = _delivery(ledger, first.id)
    assert (found.state, found.next_attempt_at, found.attempts) == (D.PENDING, at(7), 1)
    ledger.delivery_sent(first.id, at(8))
    assert _delivery(ledger, first.id).transaction_uid is None


def test_what_was_superseded_is_not_sent_again(ledger: Ledger) -> None:
    analysed(ledger)
    first, second, _ = _due(ledger)
    ledger.delivery_sent(first.id, at(1))
    ledger.file_instances([filing(4)], at(2))
    ledger.resend(first.id, at(7), "not committed")
    assert _delivery(ledger, first.id).state is D.CANCELLED
    # The sender had it on the wire when it was cancelled: the peer has it, and that is written.
    ledger.delivery_sent(second.id, at(3))
    ledger.delivery_committed(second.id, at(4))
    assert _delivery(ledger, second.id).state is D.COMMITTED
    assert ledger.series(SERIES).state is S.RECEIVING


@pytest.mark.parametrize("ending", ["postponed", "failed"])
def test_a_cancelled_delivery_stays_so_whatever_its_sender_meets(ledger: Ledger, ending: str) -> None:
    analysed(ledger)
    first = _due(ledger)[0]
    ledger.file_instances([again(ledger, 1, Verdict.CORRECTED)], at(2))
    if ending == "failed":
        ledger.delivery_failed(first.id, at(3), "refused")
    else:
        ledger.delivery_postponed(first.id, at(9), at(3), "busy")
    assert _delivery(ledger, first.id).state is D.CANCELLED
    assert ledger.series(SERIES).state is S.RECEIVING


def test_a_superseded_delivery_that_fails_does_not_fail_the_series(ledger: Ledger) -> None:
    analysed(ledger)
    old = _due(ledger)[0]
    ledger.delivery_sent(old.id, at(1))
    ledger.file_instances([filing(4)], at(2))
    complete(ledger)
    analyse(ledger, now=at(3))
    ledger.delivery_failed(old.id, at(4), "not committed for good")
    assert ledger.series(SERIES).state is S.ANALYSED


def test_a_late_report_heals_a_failed_delivery(ledger: Ledger) -> None:
    analysed(ledger)
    first, *rest = _due(ledger)
    ledger.delivery_sent(first.id, at(1))
    ledger.delivery_failed(first.id, at(2), "no answer for 72 h")
    assert ledger.series(SERIES).state is S.FAILED
    for delivery in rest:
        ledger.delivery_sent(delivery.id, at(3))
        ledger.delivery_committed(delivery.id, at(3))
    assert ledger.series(SERIES).state is S.FAILED
    ledger.delivery_committed(first.id, at(4))
    assert ledger.series(SERIES).state is S.DELIVERED


def test_every_transition_left_an_event(ledger: Ledger) -> None:
    analysed(ledger)
    deliver(ledger)
    details = ledger.details(SERIES)
    series = [(event.old_state, event.new_state) for event in details.events if event.subject == "series"]
    assert series == [
        ("", "receiving"),
        ("receiving", "complete"),
        ("complete", "queued"),
        ("queued", "analysed"),
        ("analysed", "delivered"),
    ]
    jobs = [(event.old_state, event.new_state) for event in details.events if event.subject == "job"]
    assert jobs == [("", "waiting"), ("waiting", "running"), ("running", "done")]
    for delivery in details.deliveries:
        story = [e.new_state for e in details.events if e.subject == "delivery" and e.subject_id == delivery.id]
        assert story == ["pending", "sent", "committed"]
    assert details.series.study_uid == STUDY
