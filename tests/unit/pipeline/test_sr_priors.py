"""Earlier results in the report: every figure, the change, references that resolve, and nothing taken for now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import highdicom
import pytest
from pydicom.dataset import Dataset

from pipeline import checks, codes
from pipeline.checks_sr import numbers, walk
from pipeline.errors import ResultError
from pipeline.priors import Priors, Shares
from pipeline.types import Region, ResultKind
from tests.fixtures.results import build_set, make_analysis, make_context, make_prior, no_lesions, without_left_lung

FOUND = Priors(
    (
        make_prior("2019-12-01T08:30:00", 0.30, 0.10),
        make_prior(
            "2020-01-15",
            0.20,
            0.05,
            shares={**dict.fromkeys(Region, Shares(0.2, 0.05)), Region.LEFT: Shares(None, None)},
        ),
    ),
    "this node, 2 earlier results of this patient",
)


def items(ds: Dataset, code: str) -> list[Dataset]:
    return [item for item in walk(ds) if item.ConceptNameCodeSequence[0].CodeValue == code]


def report(priors: Priors | None = FOUND, healthy: bool = False) -> Dataset:
    analysis = make_analysis(lesions=no_lesions if healthy else None)
    return build_set(analysis, make_context(priors=priors))[ResultKind.SR]


@pytest.mark.parametrize("healthy", [False, True])
def test_every_prior_has_date_study_report_and_figures(healthy: bool) -> None:
    ds = report(healthy=healthy)
    first, second = items(ds, codes.PREVIOUS_FINDINGS.value)
    assert [item.Date for item in first.ContentSequence if item.ValueType == "DATE"] == ["20191201"]
    assert [item.Time for item in first.ContentSequence if item.ValueType == "TIME"] == ["083000"]
    assert [item.ValueType for item in second.ContentSequence].count("TIME") == 0
    (reference,) = [item for item in first.ContentSequence if item.ValueType == "COMPOSITE"]
    named = reference.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert named == FOUND.results[0].reports["default"].sop_instance_uid
    figures = {(number.name, number.region): number.value for number in numbers(first)}
    assert figures[codes.SEVERITY_SCORE.value, Region.BOTH] == 30
    assert figures[codes.CONSOLIDATION_SCORE.value, Region.LEFT] == 10
    assert not [number for number in numbers(second) if number.region is Region.LEFT]


def test_changes_are_those_since_the_latest_prior_in_percentage_points() -> None:
    analysis = make_analysis()
    (derived,) = items(report(), codes.DERIVED_MEASUREMENTS.value)
    change = {(number.name, number.region): number.value for number in numbers(derived)}
    now = analysis.scores.regions[Region.BOTH].severity_score
    assert now is not None
    assert change[codes.SEVERITY_CHANGE.value, Region.BOTH] == pytest.approx(100 * (now - 0.2), rel=1e-5)
    assert (codes.SEVERITY_CHANGE.value, Region.LEFT) not in change
    assert len(change) == 4


def test_the_evidence_of_this_study_has_nothing_of_another_one() -> None:
    ds = report()
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == ds.StudyInstanceUID
    others = {study.StudyInstanceUID for study in ds.PertinentOtherEvidenceSequence}
    assert others == {prior.study_uid for prior in FOUND.results}


def test_a_reader_of_measurement_groups_sees_this_examination_alone() -> None:
    plain, with_priors = report(None), report()
    read = [highdicom.sr.MeasurementReport.from_sequence([ds]) for ds in (plain, with_priors)]
    counts = [len(document.get_volumetric_roi_measurement_groups()) for document in read]
    assert counts[0] == counts[1] == 2


def test_without_priors_it_says_where_they_were_looked_for() -> None:
    for priors, words in ((None, "not looked for"), (Priors(search="this node, no earlier results"), "no earlier")):
        ds = report(priors)
        assert words in items(ds, codes.PRIOR_SEARCH.value)[0].TextValue
        assert not items(ds, codes.PREVIOUS_FINDINGS.value)
        assert not items(ds, codes.DERIVED_MEASUREMENTS.value)
        assert "PertinentOtherEvidenceSequence" not in ds


def test_what_is_not_comparable_is_said() -> None:
    sharp = replace(FOUND.results[0].technique, kernel="B70f")
    ds = report(Priors((make_prior("2020-01-01", 0.1, 0.0, technique=sharp),), "x"))
    (told,) = items(ds, codes.COMPARABILITY.value)
    assert told.TextValue == "other kernel (B70f (sharp), now B40f (soft))"


def test_a_lung_that_is_not_measured_now_has_no_change_either() -> None:
    ds = build_set(without_left_lung(make_analysis()), make_context(priors=FOUND))[ResultKind.SR]
    (derived,) = items(ds, codes.DERIVED_MEASUREMENTS.value)
    assert {number.region for number in numbers(derived)} == {Region.BOTH, Region.RIGHT}


def test_a_lung_that_was_measured_in_one_of_the_two_only_is_said() -> None:
    """The left lung has become all opaque and is not found: the score of both falls, which is no improvement."""
    whole, half = make_analysis(), without_left_lung(make_analysis())
    both = make_prior("2020-01-01", 0.2, 0.1)
    one = replace(both, shares={**both.shares, Region.LEFT: Shares(None, None)})
    for analysis, prior, told in (
        (half, both, ["left lung not measured now"]),
        (whole, one, ["left lung not measured then"]),
        (half, one, []),
        (whole, both, []),
    ):
        ds = build_set(analysis, make_context(priors=Priors((prior,), "x")))[ResultKind.SR]
        assert [item.TextValue for item in items(ds, codes.COMPARABILITY.value)] == told


def other_figure(ds: Dataset) -> None:
    previous = items(ds, codes.PREVIOUS_FINDINGS.value)[0]
    item = items(previous, codes.SEVERITY_SCORE.value)[0]
    item.MeasuredValueSequence[0].NumericValue = "12"


def other_change(ds: Dataset) -> None:
    items(ds, codes.SEVERITY_CHANGE.value)[0].MeasuredValueSequence[0].NumericValue = "1"


def other_date(ds: Dataset) -> None:
    next(
        i for i in items(ds, codes.PREVIOUS_FINDINGS.value)[0].ContentSequence if i.ValueType == "DATE"
    ).Date = "20180101"


def no_evidence(ds: Dataset) -> None:
    del ds.PertinentOtherEvidenceSequence


def one_less(ds: Dataset) -> None:
    ds.ContentSequence = [i for i in ds.ContentSequence if i is not items(ds, codes.PREVIOUS_FINDINGS.value)[1]]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (other_figure, "severity of both of 2019-12-01T08:30:00 is 12"),
        (other_change, "the change of severity of both is 1"),
        (other_date, "an earlier result of 2019-12-01T08:30:00 is dated 20180101"),
        (no_evidence, "not the pertinent other evidence"),
        (one_less, "1 earlier results are shown, 2 were given"),
    ],
)
def test_the_checks_find_what_is_wrong(spoil: Callable[[Dataset], None], complaint: str) -> None:
    analysis = make_analysis()
    made = build_set(analysis, make_context(priors=FOUND))
    segmentations = {ResultKind.LESIONS: made[ResultKind.LESIONS]}
    for ds in made.values():
        checks.check(ds, analysis, segmentations, priors=FOUND)
    spoil(made[ResultKind.SR])
    with pytest.raises(ResultError, match=complaint):
        checks.check(made[ResultKind.SR], analysis, segmentations, priors=FOUND)


def test_a_report_with_priors_that_were_not_given_is_refused() -> None:
    analysis = make_analysis()
    made = build_set(analysis, make_context(priors=FOUND))
    for kind in (ResultKind.SR, ResultKind.PICTURE):
        with pytest.raises(ResultError):
            checks.check(made[kind], analysis, {})
