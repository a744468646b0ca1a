"""Which earlier results an analysis is given: of the same patient, earlier, the same in every attempt."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from dicom_node.errors import IllegalTransition
from dicom_node.ledger import Ages, CurrentCt, JobRecord, Ledger, PriorRules, SeriesIdentity, Verdict
from dicom_node.result_file import QUARANTINED
from dicom_node.states import JobState, SeriesState
from pipeline.priors import Priors
from pipeline.types import AnalysisOutcome, Region, ResultKind
from tests.fixtures.samples import RESULTS, START, again, at, complete, deliver, filing, outcome, queue, receive

RULES = PriorRules(max_count=6, max_age_days=400)
HERE = {"default": "default"}
FIRST, SECOND, THIRD = "1.1", "1.2", "1.3"  # studies; the series of each is STUDY.1


def identity(study: str, day: str, **changes: Any) -> SeriesIdentity:
    values = {"patient_id": "P1", "patient_name": "Doe^Jane", "study_date": day}
    return SeriesIdentity(f"{study}.1", study, **(values | changes))


def arrive(ledger: Ledger, study: str, day: str, birth_date: str = "", **changes: Any) -> None:
    """A whole series of a study, chosen for analysis."""
    header = {"StudyInstanceUID": study, "StudyDate": day, "PatientBirthDate": birth_date}
    receive(ledger, f"{study}.1", identity=identity(study, day, **changes), header=header)
    complete(ledger, f"{study}.1")
    queue(ledger, f"{study}.1")


def claim(ledger: Ledger, study: str, now: datetime = START) -> JobRecord:
    claimed = ledger.claim_job(now)
    assert claimed is not None
    assert claimed[1].study_uid == study
    return claimed[0]


def report(day: str, severity: float = 0.25) -> dict[str, Any]:
    figures = {"severity_score": severity, "consolidation_score": severity / 5}
    return {
        **figures,
        "right": figures,
        "left": {"severity_score": None, "consolidation_score": None},
        "acquired": f"{day[:4]}-{day[4:6]}-{day[6:]}T10:00:00",
        "model": {"name": "demo", "version": "1", "digest": "ab" * 32},
        "lungs_method": "built-in",
        "technique": {
            "model": {"name": "demo", "version": "1", "digest": "ab" * 32},
            "lungs": "built-in",
            "resampling": "none",
            "kernel": "B40f",
            "thickness_mm": 5.0,
        },
    }


def finish(ledger: Ledger, study: str, content: dict[str, Any]) -> None:
    job = claim(ledger, study)
    made = AnalysisOutcome(content, outcome(job.revision, series_uid=f"{study}.1").objects)
    assert ledger.job_done(job, made, RESULTS, HERE, START)


def analysed(ledger: Ledger, study: str, day: str, severity: float = 0.25, **changes: Any) -> None:
    arrive(ledger, study, day, **changes)
    finish(ledger, study, report(day, severity))


def given(ledger: Ledger, study: str, day: str, rules: PriorRules = RULES, **changes: Any) -> Priors:
    """What the analysis of a study is given that arrives now."""
    birth_date = changes.get("birth_date", "")
    arrive(ledger, study, day, **changes)
    acquired = f"{day[:4]}-{day[4:6]}-{day[6:]}T10:00:00" if day else ""
    return ledger.fix_priors(claim(ledger, study), CurrentCt(acquired, birth_date), rules, START)


def test_an_earlier_study_of_the_patient_is_a_prior_with_figures_report_and_technique(ledger: Ledger) -> None:
    analysed(ledger, FIRST, "20260101", 0.3)
    found = given(ledger, SECOND, "20260201")
    (prior,) = found.results
    assert found.search == "1 earlier result of this patient; looked for in this node"
    assert (prior.study_uid, prior.acquired) == (FIRST, "2026-01-01T10:00:00")
    assert prior.shares[Region.BOTH].severity == 0.3
    assert prior.shares[Region.LEFT].severity is None
    assert prior.technique.kernel == "B40f"
    assert prior.report("default").sop_instance_uid == f"9.{FIRST}.1.1.0.{list(ResultKind).index(ResultKind.SR)}"
    assert prior.report("other") == prior.report("default")


@pytest.mark.parametrize(
    "changes",
    [
        {"patient_id": "P2"},
        {"patient_id": "p1"},
        {"patient_id_issuer": "OTHER"},
        {"patient_id": ""},
        {"patient_id": " "},
        {"patient_id": "P" * 65},
    ],
    ids=["other ID", "other case", "other issuer", "no ID", "blank ID", "too long an ID"],
)
def test_never_of_another_patient_whatever_the_name(ledger: Ledger, changes: dict[str, str]) -> None:
    analysed(ledger, FIRST, "20260101")
    assert given(ledger, SECOND, "20260201", **changes).results == ()


@pytest.mark.parametrize("patient_id", ["", " ", "P" * 65, "P" * 300])
def test_an_id_that_tells_nobody_apart_joins_nobody(ledger: Ledger, patient_id: str) -> None:
    analysed(ledger, FIRST, "20260101", patient_id=patient_id)
    found = given(ledger, SECOND, "20260201", patient_id=patient_id)
    assert found.results == ()
    assert "no PatientID" in found.search


def test_the_same_id_with_another_birth_date_is_another_patient(ledger: Ledger) -> None:
    analysed(ledger, FIRST, "20260101", birth_date="19500101")
    found = given(ledger, SECOND, "20260201", birth_date="19800101")
    assert found.results == ()
    assert "1 left out: same PatientID, other birth date" in found.search


def test_the_same_id_with_the_same_birth_date_is_the_same_patient(ledger: Ledger) -> None:
    analysed(ledger, FIRST, "20260101", birth_date="19500101")
    assert len(given(ledger, THIRD, "20260301", birth_date="19500101").results) == 1


def test_later_studies_and_the_study_itself_are_no_priors(ledger: Ledger) -> None:
    analysed(ledger, THIRD, "20260301")
    analysed(ledger, FIRST, "20260101")
    assert [prior.study_uid for prior in given(ledger, SECOND, "20260201").results] == [FIRST]


def test_earlier_revisions_of_the_same_study_are_no_priors(ledger: Ledger) -> None:
    analysed(ledger, FIRST, "20260101")
    ledger.file_instances([filing(4, f"{FIRST}.1", identity=identity(FIRST, "20260101"))], at(1))
    complete(ledger, f"{FIRST}.1")
    queue(ledger, f"{FIRST}.1")
    job = claim(ledger, FIRST)
    assert job.revision == 2
    assert ledger.fix_priors(job, CurrentCt("2026-01-01T10:00:00", ""), RULES, START).results == ()


def test_an_analysis_done_later_of_an_earlier_ct_is_ordered_by_the_ct(ledger: Ledger) -> None:
    analysed(ledger, SECOND, "20260115")
    analysed(ledger, FIRST, "20260101")
    found = given(ledger, THIRD, "20260301")
    assert [prior.study_uid for prior in found.results] == [FIRST, SECOND]


def test_a_cancelled_result_is_no_prior(ledger: Ledger) -> None:
    analysed(ledger, FIRST, "20260101")
    ledger.cancel(f"{FIRST}.1", START)
    assert given(ledger, SECOND, "20260201").results == ()


def test_a_superseded_result_is_no_prior(ledger: Ledger) -> None:
    analysed(ledger, FIRST, "20260101")
    ledger.file_instances([filing(4, f"{FIRST}.1", identity=identity(FIRST, "20260101"))], at(1))
    assert ledger.series(f"{FIRST}.1").state is SeriesState.RECEIVING
    assert given(ledger, SECOND, "20260201").results == ()


def test_a_result_of_which_an_object_went_to_quarantine_is_no_prior(ledger: Ledger) -> None:
    analysed(ledger, FIRST, "20260101")
    delivery = ledger.due_deliveries("default", START)[0]
    ledger.delivery_failed(delivery.id, START, f"{QUARANTINED} its bytes were changed")
    assert given(ledger, SECOND, "20260201").results == ()


def test_a_result_that_a_destination_refused_is_a_prior_all_the_same(ledger: Ledger) -> None:
    analysed(ledger, FIRST, "20260101")
    delivery = ledger.due_deliveries("default", START)[0]
    ledger.delivery_failed(delivery.id, START, "the PACS refuses it")
    assert len(given(ledger, SECOND, "20260201").results) == 1


def test_a_result_that_cannot_be_read_is_counted_and_left_out(ledger: Ledger) -> None:
    arrive(ledger, FIRST, "20260101")
    finish(ledger, FIRST, {"severity_score": 0.1})
    found = given(ledger, SECOND, "20260201")
    assert found.results == ()
    assert "1 left out: not readable" in found.search


def test_a_result_of_a_version_that_kept_less_is_a_prior_of_its_study_date(ledger: Ledger) -> None:
    arrive(ledger, FIRST, "20260101")
    content = report("20260101")
    del content["acquired"], content["technique"]
    finish(ledger, FIRST, content)
    (prior,) = given(ledger, SECOND, "20260201").results
    assert (prior.acquired, prior.technique.kernel) == ("2026-01-01", "")
    assert prior.technique.lungs == "built-in"


def test_how_many_and_how_far_back(ledger: Ledger) -> None:
    for number, day in enumerate(("20240101", "20260101", "20260102", "20260103"), start=1):
        analysed(ledger, f"1.{number}0", day)
    found = given(ledger, SECOND, "20260201", PriorRules(max_count=2, max_age_days=400))
    assert [prior.acquired[:10] for prior in found.results] == ["2026-01-02", "2026-01-03"]
    assert "2 left out as too old or too many" in found.search


def test_without_a_date_nothing_is_earlier(ledger: Ledger) -> None:
    analysed(ledger, FIRST, "20260101")
    assert "neither an acquisition nor a study date" in given(ledger, SECOND, "").search


def test_every_attempt_is_given_the_same(ledger: Ledger) -> None:
    analysed(ledger, FIRST, "20260115")
    found = given(ledger, SECOND, "20260201")
    analysed(ledger, THIRD, "20260101")
    assert ledger.recover_jobs(at(5), max_attempts=3) == 1
    again_claimed = claim(ledger, SECOND, at(6))
    assert again_claimed.attempts == 2
    current = CurrentCt("2026-02-01T10:00:00", "")
    assert ledger.fix_priors(again_claimed, current, RULES, at(6)) == found
    told = [event.reason for event in ledger.details(f"{SECOND}.1").events]
    assert told.count("earlier results: 1 earlier result of this patient; looked for in this node") == 1


def test_studies_of_one_patient_are_analysed_in_the_order_of_their_dates(ledger: Ledger) -> None:
    arrive(ledger, SECOND, "20260201")
    arrive(ledger, FIRST, "20260101")
    arrive(ledger, THIRD, "20260101", patient_id="P2")
    first = claim(ledger, FIRST)
    claim(ledger, THIRD)
    assert ledger.claim_job(START) is None  # SECOND waits for what FIRST will say
    made = AnalysisOutcome(report("20260101"), outcome(first.revision, series_uid=first.series_uid).objects)
    assert ledger.job_done(first, made, RESULTS, HERE, START)
    job = claim(ledger, SECOND)
    found = ledger.fix_priors(job, CurrentCt("2026-02-01T10:00:00", ""), RULES, START)
    assert [prior.study_uid for prior in found.results] == [FIRST]


def test_an_earlier_study_that_failed_holds_nobody_up(ledger: Ledger) -> None:
    arrive(ledger, FIRST, "20260101")
    arrive(ledger, SECOND, "20260201")
    assert ledger.job_failed(claim(ledger, FIRST), "no lungs", START)
    claim(ledger, SECOND)


def correct_patient(ledger: Ledger, study: str, day: str) -> None:
    """The images of a study come again under another patient's ID."""
    header = {"StudyInstanceUID": study, "StudyDate": day}
    changed = identity(study, day, patient_id="P9")
    corrected = [
        again(ledger, number, Verdict.CORRECTED, f"{study}.1", identity=changed, header=header)
        for number in (1, 2, 3)
    ]
    ledger.file_instances(corrected, at(10))


def given_anew(ledger: Ledger) -> Priors:
    """What the second study is given when it is analysed again."""
    complete(ledger, f"{SECOND}.1", at(20))
    queue(ledger, f"{SECOND}.1", at(20))
    return ledger.fix_priors(claim(ledger, SECOND), CurrentCt("2026-02-01T10:00:00", ""), RULES, at(20))


def test_a_prior_that_turns_out_to_be_another_patients_is_taken_out_of_what_shows_it(ledger: Ledger) -> None:
    analysed(ledger, FIRST, "20260101")
    assert len(given(ledger, SECOND, "20260201").results) == 1  # its analysis runs
    correct_patient(ledger, FIRST, "20260101")
    shown = ledger.details(f"{SECOND}.1")
    assert shown.series.state is SeriesState.RECEIVING
    assert shown.series.revision == 2
    assert shown.jobs[0].state is JobState.CANCELLED
    assert any("another patient's" in event.reason for event in shown.events)
    assert given_anew(ledger).results == ()


def come_again(ledger: Ledger, patient_id: str, verdict: Verdict, count: int = 3) -> None:
    """Instances of the first study, in a series and a study that the PACS has made anew."""
    new = SeriesIdentity("1.9.1", "1.9", patient_id=patient_id, study_date="20260101")
    uids = {"StudyInstanceUID": "1.9", "SeriesInstanceUID": "1.9.1"}
    header = {**uids, "StudyDate": "20260101", "PatientID": patient_id}
    came = [again(ledger, number, verdict, f"{FIRST}.1") for number in range(1, count + 1)]
    ledger.file_instances([replace(one, identity=new, header=header) for one in came], at(10))


def test_so_it_is_where_the_correction_brings_another_series_uid(ledger: Ledger) -> None:
    """As archives do that make a new study of what they correct."""
    analysed(ledger, FIRST, "20260101")
    assert len(given(ledger, SECOND, "20260201").results) == 1
    made = AnalysisOutcome(report("20260201"), outcome(1, series_uid=f"{SECOND}.1").objects)
    assert ledger.job_done(ledger.job(ledger.details(f"{SECOND}.1").jobs[0].id), made, RESULTS, HERE, START)
    deliver(ledger, "default")
    come_again(ledger, "P9", Verdict.CORRECTED)
    shown = ledger.details(f"{SECOND}.1")
    assert (shown.series.state, shown.series.revision) == (SeriesState.RECEIVING, 2)
    assert [event.reason for event in shown.events if "another patient's" in event.reason]
    assert given_anew(ledger).results == ()


def test_a_conflict_that_nobody_has_decided_takes_nothing_out(ledger: Ledger) -> None:
    """As one slice with a SOPInstanceUID that two senders gave."""
    analysed(ledger, FIRST, "20260101")
    assert len(given(ledger, SECOND, "20260201").results) == 1
    come_again(ledger, "P9", Verdict.CONFLICTING, count=1)
    assert ledger.series(f"{SECOND}.1").revision == 1
    assert ledger.settle(ledger.series("1.9.1"), SeriesState.NOT_ANALYSED, "a conflict", at(11))
    ledger.retry("1.9.1", at(12))  # a person decides for the one that came last
    assert ledger.series(f"{SECOND}.1").revision == 2


def test_the_same_patients_new_series_uid_reissues_nothing(ledger: Ledger) -> None:
    analysed(ledger, FIRST, "20260101")
    assert len(given(ledger, SECOND, "20260201").results) == 1
    come_again(ledger, "P1", Verdict.CORRECTED)
    assert ledger.series(f"{SECOND}.1").revision == 1


def test_a_correction_leaves_alone_what_does_not_show_it(ledger: Ledger) -> None:
    analysed(ledger, FIRST, "20260101")
    analysed(ledger, SECOND, "20260201")  # was given nothing: `fix_priors` was not asked
    correct_patient(ledger, FIRST, "20260101")
    assert ledger.series(f"{SECOND}.1").state is SeriesState.ANALYSED


def test_a_job_that_is_queued_again_by_a_person_is_given_what_there_is_then(ledger: Ledger) -> None:
    arrive(ledger, SECOND, "20260201")
    job = claim(ledger, SECOND)
    current = CurrentCt("2026-02-01T10:00:00", "")
    assert ledger.fix_priors(job, current, RULES, START).results == ()
    assert ledger.job_failed(job, "a fault", START)
    analysed(ledger, FIRST, "20260101")
    ledger.retry(f"{SECOND}.1", at(5))
    complete(ledger, f"{SECOND}.1", at(5))
    queue(ledger, f"{SECOND}.1", at(5))
    assert len(ledger.fix_priors(claim(ledger, SECOND), current, RULES, at(5)).results) == 1


def test_a_result_that_shows_another_patients_and_cannot_be_made_again_fails_visibly(ledger: Ledger) -> None:
    """Its CT was purged: a person has to reject it in the PACS."""
    analysed(ledger, FIRST, "20260101")
    assert len(given(ledger, SECOND, "20260201").results) == 1
    job = ledger.job(ledger.details(f"{SECOND}.1").jobs[0].id)
    made = AnalysisOutcome(report("20260201"), outcome(job.revision, series_uid=f"{SECOND}.1").objects)
    assert ledger.job_done(job, made, RESULTS, HERE, START)
    deliver(ledger, "default")
    assert ledger.mark_purged(f"{SECOND}.1", Ages(at(5), at(-5)), at(5)) is not None
    correct_patient(ledger, FIRST, "20260101")
    shown = ledger.details(f"{SECOND}.1")
    assert shown.series.state is SeriesState.FAILED
    assert "another patient's" in shown.series.reason
    assert "reject them" in shown.series.reason
    assert not any(result.current for result in shown.results)
    with pytest.raises(IllegalTransition, match="reject them"):
        ledger.retry(f"{SECOND}.1", at(15))  # the reason is all that says so
    assert ledger.details(f"{SECOND}.1").series == shown.series
    ledger.file_instances([filing(4, f"{SECOND}.1", identity=identity(SECOND, "20260201"))], at(20))
    assert ledger.series(f"{SECOND}.1").state is SeriesState.RECEIVING, "it was sent again"
