"""Versions of one SOP instance in the ledger: sent again, taken back, in conflict within and across series."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from dicom_node.ledger import Filing, InstanceRecord, Ledger, SeriesIdentity, Verdict
from dicom_node.states import DeliveryState, InstanceState, SeriesState
from pipeline.types import AnalysisOutcome
from tests.fixtures.samples import (
    RESULTS,
    SERIES,
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

S, D, N = SeriesState, DeliveryState, InstanceState
OTHER = "1.2.3.2"
UID = f"{SERIES}.1"


def _versions(ledger: Ledger) -> list[InstanceRecord]:
    """Of the instance that all these tests are about, oldest row first."""
    return ledger.kept_instances([UID])[UID]


def _states(ledger: Ledger) -> list[InstanceState]:
    return [version.state for version in _versions(ledger)]


def _resent(ledger: Ledger, number: int, verdict: Verdict) -> Filing:
    """The version of that place comes once more, judged against the one that counts."""
    version = _versions(ledger)[number]
    current = next(record for record in _versions(ledger) if record.state is N.CURRENT)
    patient = SeriesIdentity.of(version.header, version.series_uid, "CT")
    return filing(
        1,
        identity=patient,
        dataset_sha256=version.dataset_sha256,
        path=version.path,
        header=version.header,
        verdict=verdict,
        replaces=None if verdict is Verdict.KNOWN else current.id,
    )


def _correct(ledger: Ledger, patient_id: str, now: datetime) -> None:
    header = {"StudyInstanceUID": STUDY, "PatientID": patient_id}
    identity = SeriesIdentity.of(header, SERIES, "CT")
    ledger.file_instances([again(ledger, 1, Verdict.CORRECTED, header=header, identity=identity)], now)


def _contradict(ledger: Ledger, now: datetime, series_uid: str = SERIES, study_uid: str = STUDY) -> None:
    """The same SOP instance with other pixels, perhaps under another SeriesInstanceUID."""
    header = {"StudyInstanceUID": study_uid, "PatientID": "P9"}
    identity = SeriesIdentity.of(header, series_uid, "CT")
    ledger.file_instances([again(ledger, 1, Verdict.CONFLICTING, header=header, identity=identity)], now)


def _turn_down(ledger: Ledger, series_uid: str = SERIES) -> None:
    assert ledger.settle(ledger.series(series_uid), S.NOT_ANALYSED, "conflicting instance", at(20))


def test_a_correction_that_is_taken_back_ends_with_the_first_version(ledger: Ledger) -> None:
    analysed(ledger)
    _correct(ledger, "WRONG", at(1))
    complete(ledger)
    analyse(ledger, now=at(2))
    assert ledger.series(SERIES).identity.patient_id == "WRONG"
    ledger.file_instances([_resent(ledger, 0, Verdict.CORRECTED)], at(3))
    assert _states(ledger) == [N.CURRENT, N.SUPERSEDED], "no version is kept twice"
    assert _versions(ledger)[0].received_at == at(3)
    record = ledger.series(SERIES)
    assert (record.state, record.revision, record.identity.patient_id) == (S.RECEIVING, 3, "P1")
    assert not any(result.current for result in ledger.details(SERIES).results)
    assert {delivery.state for delivery in ledger.details(SERIES).deliveries} == {D.CANCELLED}
    told = [event.reason for event in ledger.details(SERIES).events]
    assert f"{UID} came again: corrected" in told
    assert "corrected header" in told[-1]


def test_a_correction_may_go_to_and_fro(ledger: Ledger) -> None:
    receive(ledger)
    _correct(ledger, "WRONG", at(1))
    for seconds, number in ((2, 0), (3, 1), (4, 0), (5, 1)):
        ledger.file_instances([_resent(ledger, number, Verdict.CORRECTED)], at(seconds))
        assert [version.state is N.CURRENT for version in _versions(ledger)] == [number == 0, number == 1]
    assert ledger.series(SERIES).identity.patient_id == "WRONG"
    assert ledger.series(SERIES).instances == 3


def test_a_conflicting_version_that_comes_again_is_kept_once_and_received_last(ledger: Ledger) -> None:
    receive(ledger)
    _contradict(ledger, at(1))
    _turn_down(ledger)
    before = ledger.series(SERIES)
    ledger.file_instances([_resent(ledger, 1, Verdict.CONFLICTING)], at(30))
    assert _states(ledger) == [N.CURRENT, N.CONFLICTING]
    assert _versions(ledger)[1].received_at == at(30)
    assert ledger.series(SERIES) == before, "there was a conflict before"


def test_a_version_that_lost_a_conflict_and_comes_again_is_in_conflict_again(ledger: Ledger) -> None:
    receive(ledger)
    _contradict(ledger, at(1))
    _turn_down(ledger)
    ledger.retry(SERIES, at(21))
    complete(ledger, now=at(22))
    ledger.file_instances([_resent(ledger, 0, Verdict.CONFLICTING)], at(23))
    assert _states(ledger) == [N.CONFLICTING, N.CURRENT]
    assert ledger.series(SERIES).state is S.RECEIVING
    _turn_down(ledger)
    ledger.retry(SERIES, at(24))
    assert _states(ledger) == [N.CURRENT, N.SUPERSEDED]
    assert ledger.series(SERIES).identity.patient_id == "P1"


def test_a_recoded_version_that_comes_again_is_kept_once(ledger: Ledger) -> None:
    analysed(ledger)
    ledger.file_instances([again(ledger, 1, Verdict.RECODED)], at(1))
    before = ledger.series(SERIES)
    ledger.file_instances([_resent(ledger, 1, Verdict.RECODED)], at(2))
    assert _states(ledger) == [N.CURRENT, N.SUPERSEDED]
    assert ledger.series(SERIES) == before


@pytest.mark.parametrize("verdict", [Verdict.KNOWN, Verdict.RECODED])
@pytest.mark.parametrize("clock_s", [9, 1, -50])
def test_retry_takes_the_version_received_last_even_if_it_is_the_first(
    ledger: Ledger, verdict: Verdict, clock_s: float
) -> None:
    """Whatever the clock says at the time: it may have been put back."""
    receive(ledger)
    _contradict(ledger, at(1))
    if verdict is Verdict.KNOWN:
        ledger.file_instances([_resent(ledger, 0, verdict)], at(clock_s))
    else:
        ledger.file_instances([again(ledger, 1, verdict)], at(clock_s))
    _turn_down(ledger)
    assert ledger.retry(SERIES, at(21)).identity.patient_id == "P1"
    assert _states(ledger)[:2] == [N.CURRENT, N.SUPERSEDED]


def test_retry_takes_a_conflicting_version_that_came_after_another_one(ledger: Ledger) -> None:
    receive(ledger)
    _contradict(ledger, at(1))
    _contradict(ledger, at(2))
    ledger.file_instances([_resent(ledger, 1, Verdict.CONFLICTING)], at(3))
    _turn_down(ledger)
    ledger.retry(SERIES, at(21))
    assert _states(ledger) == [N.SUPERSEDED, N.CURRENT, N.SUPERSEDED]


@pytest.mark.parametrize("asked", [SERIES, OTHER])
def test_a_conflict_across_series_is_resolved_from_either(ledger: Ledger, asked: str) -> None:
    receive(ledger)
    receive(ledger, OTHER)
    _contradict(ledger, at(9), OTHER)
    for series_uid in (SERIES, OTHER):
        _turn_down(ledger, series_uid)
    ledger.retry(asked, at(21))
    assert _states(ledger) == [N.SUPERSEDED, N.CURRENT]
    assert {ledger.series(uid).state for uid in (SERIES, OTHER)} == {S.RECEIVING}
    assert [ledger.series(uid).instances for uid in (SERIES, OTHER)] == [2, 4]
    assert ledger.series(OTHER).identity.patient_id == "P9"
    assert ledger.series(SERIES).identity.patient_id == "P1", "what it lost says nothing of it any more"
    for series_uid in (SERIES, OTHER):
        kept = ledger.current_instances(series_uid)
        assert {record.state for record in kept} == {N.CURRENT}
        reasons = [event.reason for event in ledger.details(series_uid).events]
        assert "of 1 conflicting instance(s) those received last count, as a person asked" in reasons
    assert [ledger.series(uid).preferred for uid in (SERIES, OTHER)] == [asked == SERIES, asked == OTHER]


def test_a_conflict_across_series_may_be_won_by_the_first_version(ledger: Ledger) -> None:
    receive(ledger)
    _contradict(ledger, at(9), OTHER)
    ledger.file_instances([_resent(ledger, 0, Verdict.KNOWN)], at(10))
    for series_uid in (SERIES, OTHER):
        _turn_down(ledger, series_uid)
    ledger.retry(SERIES, at(21))
    assert _states(ledger) == [N.CURRENT, N.SUPERSEDED]
    assert [ledger.series(uid).instances for uid in (SERIES, OTHER)] == [3, 0]
    assert ledger.current_instances(OTHER) == []
    complete(ledger)
    analyse(ledger, now=at(22))
    deliver(ledger, now=at(22))
    assert ledger.series(SERIES).state is S.DELIVERED


def test_a_series_follows_the_version_that_won_into_its_study(ledger: Ledger) -> None:
    receive(ledger, count=1)
    analysed(ledger, OTHER)
    _contradict(ledger, at(1), study_uid="7.7")
    _turn_down(ledger)
    record = ledger.retry(SERIES, at(22))
    assert (record.state, record.study_uid, record.preferred) == (S.RECEIVING, "7.7", True)
    assert any(event.reason == f"moved from study {STUDY}" for event in ledger.details(SERIES).events)
    assert ledger.series(OTHER).state is S.ANALYSED, "the study that it left keeps its choice"


def test_what_was_sent_into_a_study_that_the_series_left_is_for_a_person_to_reject(ledger: Ledger) -> None:
    """A rejection note would have to be in that study, for the patient that it was wrong for."""
    analysed(ledger)
    deliver(ledger)
    sent = len(ledger.details(SERIES).results)
    moved = SeriesIdentity(SERIES, "7.7", patient_id="P9")
    header = {"StudyInstanceUID": "7.7", "SeriesInstanceUID": SERIES, "PatientID": "P9"}
    came = [again(ledger, number, Verdict.CORRECTED) for number in (1, 2, 3)]
    ledger.file_instances([replace(one, identity=moved, header=header) for one in came], at(10))
    told = f"objects of earlier revisions are left in the PACS, reject them there: {sent} in study {STUDY}"
    assert f"moved from study {STUDY}; {told}" in [event.reason for event in ledger.details(SERIES).events]
    complete(ledger, now=at(20))
    queue(ledger, now=at(20))
    claimed = ledger.claim_job(at(21))
    assert claimed is not None
    objects = [
        replace(one, reference=replace(one.reference, study_uid="7.7"))
        for one in outcome(claimed[0].revision).objects
    ]
    made = AnalysisOutcome({}, tuple(objects))
    assert ledger.job_done(claimed[0], made, RESULTS, {"pacs": "default"}, at(22))
    assert ledger.series(SERIES).reason == told
    deliver(ledger, now=at(23))
    assert (ledger.series(SERIES).state, ledger.series(SERIES).reason) == (S.DELIVERED, told)


def test_what_was_sent_and_is_superseded_is_named_for_a_rejection_note(ledger: Ledger) -> None:
    first = analysed(ledger)
    assert ledger.superseded(first) == {}
    due = ledger.due_deliveries("pacs", at(0))
    for delivery in due[:2]:  # the third was never sent
        ledger.delivery_sent(delivery.id, at(0))
    ledger.file_instances([filing(9)], at(0))
    complete(ledger)
    second = analyse(ledger)
    sent = {delivery.sop_instance_uid for delivery in due[:2]}
    assert {each.sop_instance_uid for each in ledger.superseded(second)["default"]} == sent
    assert ledger.superseded(first) == {}  # the newer set counts


def test_what_was_put_on_the_wire_may_be_there_although_no_answer_came(ledger: Ledger) -> None:
    analysed(ledger)
    first, *others = ledger.due_deliveries("pacs", at(0))
    assert ledger.begin_delivery(first.id, at(0)), "the node dies before the answer"
    ledger.file_instances([filing(9)], at(0))
    assert not any(ledger.begin_delivery(delivery.id, at(0)) for delivery in (first, *others)), "superseded"
    complete(ledger)
    second = analyse(ledger)
    (named,) = ledger.superseded(second)["default"]
    assert named.sop_instance_uid == first.sop_instance_uid
