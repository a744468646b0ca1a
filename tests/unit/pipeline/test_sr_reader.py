"""Result SRs read back: what was written comes out, everything else is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipeline import codes, priors, sr_reader
from pipeline.checks_sr import walk
from pipeline.priors import Priors
from pipeline.types import Analysis, ObjectReference, Profile, ResultKind
from tests.fixtures.results import build_set, make_analysis, make_context, make_prior, no_lesions, without_left_lung

PROFILES = (Profile(), Profile(seg="LABELMAP", lungs_seg=True), Profile(seg="NONE"), Profile(key_slices=True))


def report(analysis: Analysis, profile: Profile | None = None) -> Dataset:
    earlier = Priors((make_prior("2020-01-01", 0.9, 0.8),), "x")  # must not be taken for this examination
    context = make_context(profile=profile or Profile(), revision=3, priors=earlier)
    return build_set(analysis, context)[ResultKind.SR]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", ["ill", "healthy", "one lung"])
def test_what_was_written_is_read_back(profile: Profile, kind: str) -> None:
    analysis = make_analysis(lesions=no_lesions if kind == "healthy" else None)
    if kind == "one lung":
        analysis = without_left_lung(analysis)
    analysis = replace(analysis, resampling="slices closer than 4 mm to 5 mm, sigma 0.25: not needed")
    ds = report(analysis, profile)
    read = sr_reader.read(ds, "pacs")
    assert read.revision == 3
    assert read.prior.acquired == "2020-03-15T10:15:00"
    assert (read.prior.patient_id, read.prior.origin) == ("PHANTOM", "pacs")
    assert read.prior.technique == priors.technique(analysis)
    assert read.prior.report("default").sop_instance_uid == ds.SOPInstanceUID
    for region, shares in priors.shares(analysis.scores.regions).items():
        said = read.prior.shares[region]
        if shares.severity is None:
            assert said == shares
        else:
            assert said.severity == pytest.approx(shares.severity, rel=1e-5)
            assert said.consolidation == pytest.approx(shares.consolidation, rel=1e-5)


def test_a_study_of_an_old_device_can_be_read_back() -> None:
    read = sr_reader.read(report(make_analysis(attributes={"StudyInstanceUID": "1.2.840.01.5"})), "pacs")
    assert read.prior.study_uid == "1.2.840.01.5"


def item(ds: Dataset, code: str) -> Dataset:
    return next(i for i in walk(ds) if i.ConceptNameCodeSequence[0].CodeValue == code)


def change_model(ds: Dataset) -> None:
    statements = item(ds, codes.QUALITATIVE_EVALUATIONS.value)
    item(statements, codes.MODEL.value).TextValue = f"demo 1.2.0, SHA-256 {'cd' * 32}"


def say_twice(ds: Dataset) -> None:
    statements = item(ds, codes.QUALITATIVE_EVALUATIONS.value)
    statements.ContentSequence.append(item(statements, codes.MODEL.value))


def set_score(value: str) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        item(item(ds, "126010"), codes.SEVERITY_SCORE.value).MeasuredValueSequence[0].NumericValue = value

    return change


def change_unit(ds: Dataset) -> None:
    score = item(item(ds, "126010"), codes.SEVERITY_SCORE.value)
    score.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue = "1"


def take_measurements_away(ds: Dataset) -> None:
    ds.ContentSequence = [i for i in ds.ContentSequence if i is not item(ds, "126010")]


def nest(ds: Dataset) -> None:
    outer = item(ds, "126010")
    for _ in range(3000):
        inner = Dataset()
        inner.ValueType = "CONTAINER"
        outer.ContentSequence = Sequence([inner])
        outer = inner


def flood(ds: Dataset) -> None:
    container = item(ds, codes.QUALITATIVE_EVALUATIONS.value)
    container.ContentSequence = Sequence([container.ContentSequence[0]] * (sr_reader.MAX_ITEMS + 1))


def no_date(ds: Dataset) -> None:
    group = item(ds, codes.IMAGE_LIBRARY_GROUP.value)
    group.ContentSequence = Sequence([i for i in group.ContentSequence if i.ValueType not in ("DATE", "TIME")])
    ds.StudyDate = ""


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda ds: setattr(ds, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.33"), "not a Comprehensive 3D SR"),
        (lambda ds: setattr(ds, "Manufacturer", "Another"), "made by other software"),
        (lambda ds: delattr(ds, "ManufacturerModelName"), "made by other software"),
        (lambda ds: setattr(ds, "CompletionFlag", "PARTIAL"), "not complete"),
        (lambda ds: delattr(ds, "CodingSchemeIdentificationSequence"), "not declared"),
        (lambda ds: delattr(ds, "ContentTemplateSequence"), "cannot be read"),
        (lambda ds: delattr(ds, "ContentSequence"), "not named"),
        (lambda ds: setattr(ds, "SoftwareVersions", "dicomnode 99.0"), "contradict"),
        (lambda ds: setattr(ds, "DeviceUID", "1.2.3"), "contradict"),
        (lambda ds: setattr(ds, "StudyInstanceUID", ""), "StudyInstanceUID is no UID"),
        (change_model, "contradict"),
        (say_twice, "not named"),
        (set_score("99"), "contradict each other|do not make"),
        (set_score("-5"), "contradict each other|do not make"),
        (set_score("nan"), "contradict|do not make|cannot be read"),
        (change_unit, "without its unit"),
        (take_measurements_away, "no severity score"),
        (nest, "cannot be read|more than"),
        (flood, "more than 20000"),
        (no_date, "no date"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value")
def test_anything_else_is_refused(spoil: Callable[[Dataset], None], reason: str) -> None:
    ds = report(make_analysis())
    spoil(ds)
    with pytest.raises(sr_reader.NotAPrior, match=reason):
        sr_reader.read(ds, "pacs")


def test_an_older_report_without_acquisition_has_the_date_of_its_study() -> None:
    ds = report(make_analysis())
    no_date(ds)
    ds.StudyDate = "20200314"
    assert sr_reader.read(ds, "pacs").prior.acquired == "2020-03-14T10:15:00"


def test_of_several_reports_the_last_revision_counts_and_contradictions_none() -> None:
    analysis = make_analysis()
    first = sr_reader.read(report(analysis), "pacs")
    named = first.prior.report("")
    second = build_set(analysis, make_context(revision=4, predecessor=named))[ResultKind.SR]
    replacing = sr_reader.read(second, "pacs")
    assert replacing.replaces == {named.sop_instance_uid}
    chosen, contradicting = sr_reader.current([replacing, first])
    assert (list(chosen.values()), contradicting) == ([replacing], 0)
    assert sr_reader.current([first], retired={named.sop_instance_uid}) == ({}, 0)
    shares = make_prior("2020-01-01", 0.9, 0.1).shares
    other = replace(first.prior, shares=shares, reports={"": ObjectReference("1.2", "1.3", "1.4", "1.5")})
    chosen, contradicting = sr_reader.current([first, replace(first, prior=other)])
    assert (chosen, contradicting) == ({}, 1)
