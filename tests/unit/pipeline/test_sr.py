"""The report, read back from bytes: every number, whose it is, and what must stand beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from pipeline import RESEARCH_USE_ONLY, codes, seg, sr, uids
from pipeline.arrays import LesionMasks
from pipeline.types import Analysis, Flag, Lung, ObjectReference, Profile, Region, ResultContext, ResultKind
from tests.fixtures.results import make_analysis, make_context, no_lesions, through_bytes, without_left_lung

BINARY, LABELMAP, LUNGS = Profile(), Profile(seg="LABELMAP"), Profile(lungs_seg=True)
NONE, KEYS = Profile(seg="NONE"), Profile(key_slices=True)
SIDES = {"51440002": Region.BOTH, "24028007": Region.RIGHT, "7771000": Region.LEFT}


@dataclass(frozen=True)
class Num:
    """A NUM item: in the group of which tracking identifier, of which side."""

    group: str
    region: Region
    value: float
    exact: float
    unit: str


def report(analysis: Analysis, profile: Profile = BINARY, **changes: object) -> Dataset:
    """The SR of a set with its SEG objects, through bytes and back."""
    context = make_context(profile=profile, **changes)
    return through_bytes(sr.build(analysis, with_segmentations(analysis, context)))


def with_segmentations(analysis: Analysis, context: ResultContext) -> ResultContext:
    built = {
        ResultKind.LESIONS: seg.build(analysis, context),
        ResultKind.LUNGS: seg.build_lungs(analysis, context),
    }
    return replace(context, segmentations={kind: ds for kind, ds in built.items() if ds is not None})


def items(item: Dataset) -> list[Dataset]:
    """Every content item, depth first."""
    below = [each for child in item.get("ContentSequence", ()) for each in items(child)]
    return [item, *below]


def named(item: Dataset, name: str) -> list[Dataset]:
    """Children with a concept name of that code value or meaning."""
    return [
        child
        for child in item.get("ContentSequence", ())
        if name in (child.ConceptNameCodeSequence[0].CodeValue, child.ConceptNameCodeSequence[0].CodeMeaning)
    ]


def groups(ds: Dataset) -> list[Dataset]:
    return [group for container in named(ds, "126010") for group in named(container, "125007")]


def nums(ds: Dataset) -> dict[str, list[Num]]:
    """NUM items by the code value of their name."""
    found: dict[str, list[Num]] = {}
    for group in groups(ds):
        for item in group.ContentSequence:
            if item.ValueType != "NUM":
                continue
            measured = item.MeasuredValueSequence[0]
            (site,) = named(item, "Finding Site")
            (side,) = named(site, "Laterality")
            number = Num(
                named(group, "Tracking Identifier")[0].TextValue,
                SIDES[side.ConceptCodeSequence[0].CodeValue],
                float(measured.NumericValue),
                float(measured.FloatingPointValue),
                measured.MeasurementUnitsCodeSequence[0].CodeValue,
            )
            found.setdefault(item.ConceptNameCodeSequence[0].CodeValue, []).append(number)
    return found


def texts(ds: Dataset, name: str) -> list[str]:
    (container,) = named(ds, "Qualitative Evaluations")
    return [item.TextValue for item in named(container, name)]


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return make_analysis(flags=(Flag("TRUNCATED", "The lungs touch the first slice."),))


@pytest.mark.parametrize("profile", [BINARY, LABELMAP, LUNGS, NONE, KEYS])
def test_numbers_are_those_of_the_voxels(analysis: Analysis, profile: Profile) -> None:
    """Counted here from the masks, not taken from `Scores`."""
    found = nums(report(analysis, profile))
    labels, lesions = analysis.lungs.labels, analysis.lesions
    voxel_ml = 14.0 * 4.5 * 4.5 / 1000
    sides = {
        Region.BOTH: labels > 0,
        Region.RIGHT: labels == Lung.RIGHT,
        Region.LEFT: labels == Lung.LEFT,
    }
    for region, lung in sides.items():
        infected, dense = (int((mask & lung).sum()) for mask in (lesions.infection, lesions.consolidation))
        expected = {
            codes.SEVERITY_SCORE: 100 * infected / lung.sum(),
            codes.CONSOLIDATION_SCORE: 100 * dense / lung.sum(),
            codes.GGO_SCORE: 100 * (infected - dense) / lung.sum(),
            codes.LUNG_VOLUME: voxel_ml * lung.sum(),
            codes.LUNG_ATTENUATION: analysis.volume.hu[lung].mean(),
        }
        for name, value in expected.items():
            numbers = [number for number in found[name.value] if number.region == region]
            assert numbers
            for number in numbers:
                assert number.exact == pytest.approx(value, rel=1e-12)
                assert number.value == pytest.approx(value, rel=1e-5)
    volumes = [(number.group, number.region, number.exact) for number in found[codes.VOLUME.value]]
    own = {
        "Opacity": lesions.infection,
        "Consolidation": lesions.consolidation,
        "Ground glass opacity": lesions.ggo,
        "Right lung": labels > 0,
        "Left lung": labels > 0,
    }
    for group, region, value in volumes:
        assert value == pytest.approx(voxel_ml * (own[group] & sides[region]).sum(), rel=1e-12)


def test_left_and_right_are_not_exchanged() -> None:
    """Lesions in the left lung only: the right scores nothing."""

    def left_only(masks: LesionMasks) -> LesionMasks:
        left = np.zeros_like(masks.infection)
        left[..., left.shape[2] // 2 :] = True  # canonical columns run from right to left
        return LesionMasks(masks.infection & left, masks.consolidation & left)

    severity = {
        number.region: number.value for number in nums(report(make_analysis(lesions=left_only)))["SEVERITY"]
    }
    assert severity[Region.RIGHT] == 0
    assert severity[Region.LEFT] > severity[Region.BOTH] > 0


@pytest.mark.parametrize(
    ("profile", "templates", "subjects"),
    [
        (BINARY, ["1411"] * 2, ["Opacity", "Consolidation"]),
        (LUNGS, ["1411"] * 4, ["Opacity", "Consolidation", "Right lung", "Left lung"]),
        (LABELMAP, ["1411"] * 2, ["Ground glass opacity", "Consolidation"]),
        (NONE, ["1501"], ["Opacity"]),
    ],
)
def test_one_group_per_segment(
    analysis: Analysis, profile: Profile, templates: list[str], subjects: list[str]
) -> None:
    found = groups(report(analysis, profile))
    assert [group.ContentTemplateSequence[0].TemplateIdentifier for group in found] == templates
    assert [named(group, "Tracking Identifier")[0].TextValue for group in found] == subjects


def test_groups_name_their_segment_by_number_tracking_uid_and_series(analysis: Analysis) -> None:
    context = with_segmentations(analysis, make_context(profile=LUNGS))
    ds = through_bytes(sr.build(analysis, context))
    segments = {
        (str(built.SOPInstanceUID), segment.SegmentNumber): segment.TrackingUID
        for built in context.segmentations.values()
        for segment in built.SegmentSequence
    }
    named_segments = {}
    for group in groups(ds):
        (reference,) = named(group, "Referenced Segment")
        sop = reference.ReferencedSOPSequence[0]
        key = (str(sop.ReferencedSOPInstanceUID), sop.ReferencedSegmentNumber)
        named_segments[key] = named(group, "Tracking Unique Identifier")[0].UID
        assert analysis.volume.series_uid == named(group, "121232")[0].UID
        assert not named(group, "121233")  # no list of source images
    assert named_segments == segments


@pytest.mark.parametrize("profile", [BINARY, LABELMAP, LUNGS, NONE, KEYS])
def test_a_healthy_chest_has_explicit_zeros(profile: Profile) -> None:
    ds = report(make_analysis(lesions=no_lesions), profile)
    (group,) = groups(ds)
    assert group.ContentTemplateSequence[0].TemplateIdentifier == "1501"
    found = nums(ds)
    for name in (codes.SEVERITY_SCORE, codes.CONSOLIDATION_SCORE, codes.GGO_SCORE, codes.VOLUME, codes.GGO_VOLUME):
        assert {number.region: number.exact for number in found[name.value]} == dict.fromkeys(Region, 0.0)
    assert codes.ATTENUATION.value not in found  # nothing has no mean
    (container,) = named(ds, "Qualitative Evaluations")
    assert named(container, "SEVERITY_CLASS")[0].ConceptCodeSequence[0].CodeMeaning == "< 5 %"


def test_one_lesion_class_leaves_zeros_for_the_other() -> None:
    """No consolidation: its segment and group are absent, its figures stand in the first group."""
    only_ggo = make_analysis(lesions=lambda masks: LesionMasks(masks.infection, np.zeros_like(masks.infection)))
    ds = report(only_ggo)
    assert len(groups(ds)) == 1
    found = nums(ds)
    assert {number.value for number in found["CONSOL_VOLUME"]} == {0.0}
    assert {number.value for number in found["CONSOLIDATION"]} == {0.0}
    assert all(number.value > 0 for number in found["SEVERITY"])


@pytest.mark.parametrize("profile", [BINARY, LABELMAP, LUNGS, NONE, KEYS])
def test_a_missing_lung_gives_no_scores_and_no_mean(analysis: Analysis, profile: Profile) -> None:
    found = nums(report(without_left_lung(analysis), profile))
    for name in (codes.SEVERITY_SCORE, codes.CONSOLIDATION_SCORE, codes.GGO_SCORE):
        assert {number.region for number in found[name.value]} == {Region.BOTH, Region.RIGHT}
    assert {number.value for number in found["LUNG_VOLUME"] if number.region == Region.LEFT} == {0.0}
    assert Region.LEFT not in {number.region for number in found["LUNG_HU"]}


def test_units_are_ucum(analysis: Analysis) -> None:
    found = nums(report(analysis, KEYS))
    assert {number.unit for number in found["SEVERITY"]} == {"%"}
    assert {number.unit for number in found["118565006"]} == {"ml"}
    assert {number.unit for number in found["112031"]} == {"[hnsf'U]"}
    assert {number.unit for number in found["42798000"]} == {"mm2"}
    schemes = {
        item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodingSchemeDesignator
        for group in groups(report(analysis))
        for item in group.ContentSequence
        if item.ValueType == "NUM"
    }
    assert schemes == {"UCUM"}


def test_every_measurement_names_its_algorithm(analysis: Analysis) -> None:
    for group in groups(report(analysis, LUNGS)):
        for item in group.ContentSequence:
            if item.ValueType == "NUM":
                (name,) = named(item, "Algorithm Name")
                is_lung = "LUNG" in item.ConceptNameCodeSequence[0].CodeValue
                is_lung |= "lung" in named(group, "Tracking Identifier")[0].TextValue
                assert name.TextValue == ("dicomnode lungs" if is_lung else "dicomnode demo")
                assert named(item, "Algorithm Version")


def test_what_a_reader_must_know(analysis: Analysis) -> None:
    ds = report(analysis, completeness="64 of 64 instances by the sender's count", revision=2)
    assert RESEARCH_USE_ONLY in texts(ds, "INTENDED_USE")[0]
    assert texts(ds, "Quality Finding") == ["The lungs touch the first slice. [TRUNCATED]"]
    assert texts(ds, "MODEL") == [f"demo 1.2.0, SHA-256 {analysis.model.digest}"]
    assert texts(ds, "LUNG_METHOD") == ["built-in"]
    assert texts(ds, "COMPLETENESS") == ["64 of 64 instances by the sender's count"]
    assert texts(ds, "REVISION") == ["2"]
    assert "RESEARCH USE ONLY" in ds.SeriesDescription
    assert "rev 2" in ds.SeriesDescription
    everything = " ".join(str(item.get("TextValue", "")) for item in items(ds)).lower()
    assert "covid" not in everything
    assert "positive" not in everything


def test_flags_with_letters_beyond_ascii_do_not_break_the_character_set() -> None:
    flagged = make_analysis(
        flags=(Flag("A", "Schichtdicke 8 mm \u2013 zu gro\u00df"),),
        attributes={"SpecificCharacterSet": "ISO_IR 100"},
    )
    assert texts(report(flagged), "Quality Finding") == ["Schichtdicke 8 mm ? zu gro? [A]"]


def test_state_of_the_document(analysis: Analysis) -> None:
    ds = report(analysis)
    assert (ds.CompletionFlag, ds.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert (ds.ContentDate, ds.ContentTime) == ("20260301", "143005")
    assert ds.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99DCMNODE"
    assert uids.device(analysis.model) == named(ds, "121012")[0].UID
    assert named(ds, "121058")[0].ConceptCodeSequence[0].CodeValue == "25045-6"


def test_evidence_is_every_source_slice_and_every_seg(analysis: Analysis) -> None:
    context = with_segmentations(analysis, make_context(profile=LUNGS))
    ds = through_bytes(sr.build(analysis, context))
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == analysis.volume.headers[0].StudyInstanceUID
    evidence = {
        instance.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    assert evidence == {
        *(header.SOPInstanceUID for header in analysis.volume.headers),
        *(built.SOPInstanceUID for built in context.segmentations.values()),
    }
    (library,) = named(ds, "Image Library")
    assert len(named(named(library, "126200")[0], "260753009")) == len(analysis.volume.headers)


def test_a_lung_seg_without_lesions_is_named_as_source() -> None:
    ds = report(make_analysis(lesions=no_lesions), LUNGS)
    (source,) = [item for item in groups(ds)[0].ContentSequence if item.ValueType == "IMAGE"]
    assert source.ReferencedSOPSequence[0].ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"


def test_the_report_that_it_replaces(analysis: Analysis) -> None:
    assert "PredecessorDocumentsSequence" not in report(analysis)
    predecessor = ObjectReference("1.2.3", "1.2.4", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.5")
    (study,) = report(analysis, predecessor=predecessor).PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == ("1.2.3", "1.2.4")
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.5"


def test_the_request_where_it_is_known() -> None:
    request = Dataset()
    request.RequestedProcedureID, request.RequestedProcedureDescription = "RP1", "CT thorax"
    (item,) = report(make_analysis(attributes={"RequestAttributesSequence": [request]})).ReferencedRequestSequence
    assert (item.RequestedProcedureID, item.AccessionNumber) == ("RP1", "PHANTOM1")
    assert item.RequestedProcedureDescription == "CT thorax"
    assert item.StudyInstanceUID
    unknown = report(make_analysis(attributes={"AccessionNumber": ""}))
    assert "ReferencedRequestSequence" not in unknown


def test_the_performed_procedure() -> None:
    assert report(make_analysis()).PerformedProcedureCodeSequence[0].CodeValue == "169069000"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "THX", "99HOSP", "Thorax low dose"
    coded = report(make_analysis(attributes={"ProcedureCodeSequence": [code]}))
    assert coded.PerformedProcedureCodeSequence[0].CodeMeaning == "Thorax low dose"


def test_key_slices_are_outlined_on_their_source_images(analysis: Analysis) -> None:
    """The area in the report and the polygon's own area agree: no hole, no shift of half a pixel."""
    planar = [
        group
        for group in groups(report(analysis, KEYS))
        if group.ContentTemplateSequence[0].TemplateIdentifier == "1410"
    ]
    assert planar
    by_uid = {header.SOPInstanceUID: place for place, header in enumerate(analysis.volume.headers)}
    trackers = set()
    for group in planar:
        (region,) = named(group, "Image Region")
        points = np.array(region.GraphicData).reshape(-1, 2)
        assert (points[0] == points[-1]).all()
        x, y = points.T
        (area,) = named(group, "Area")
        polygon_mm2 = abs(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2 * 4.5 * 4.5
        assert float(area.MeasuredValueSequence[0].NumericValue) == pytest.approx(polygon_mm2, rel=1e-5)
        place = by_uid[region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID]
        masks = {"Opacity": analysis.lesions.infection, "Consolidation": analysis.lesions.consolidation}
        finding = named(group, "Finding")[0].ConceptCodeSequence[0].CodeMeaning
        pixels = analysis.volume.to_source(masks[finding])[place]
        middle = points[:-1].mean(axis=0).astype(int)
        assert pixels[middle[1], middle[0]]
        trackers.add(named(group, "Tracking Unique Identifier")[0].UID)
    assert len(trackers) == len(planar)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("number", ["", None, ["1", "2"]])
def test_outlines_on_images_without_a_number_are_named_by_their_place(number: Any) -> None:
    names = [
        named(group, "Tracking Identifier")[0].TextValue
        for group in groups(report(make_analysis(attributes={"InstanceNumber": number}), KEYS))
    ]
    told = [name for name in names if "region" in name]
    assert told
    assert all(re.fullmatch(r"\w+, slice \d+ from below, region \d", name) for name in told)


@pytest.mark.parametrize("profile", [replace(LUNGS, key_slices=True), replace(LABELMAP, key_slices=True)])
def test_each_tracked_segment_has_an_outline(analysis: Analysis, profile: Profile) -> None:
    """OHIF fails on a report in which one tracking UID has no SCOORD."""
    outlined, tracked = set(), set()
    for group in groups(report(analysis, profile)):
        uid = named(group, "Tracking Unique Identifier")[0].UID
        (outlined if named(group, "Image Region") else tracked).add(uid)
    assert len(tracked) == (4 if profile.lungs_seg else 2)
    assert tracked < outlined


def test_a_lesion_of_one_voxel_is_outlined() -> None:
    def one_voxel(masks: LesionMasks) -> LesionMasks:
        tiny = np.zeros_like(masks.infection)
        tiny[tuple(np.argwhere(masks.infection)[0])] = True
        return LesionMasks(tiny, np.zeros_like(tiny))

    volumetric, planar = groups(report(make_analysis(lesions=one_voxel), KEYS))
    trackers = {named(group, "Tracking Unique Identifier")[0].UID for group in (volumetric, planar)}
    assert len(trackers) == 1
    assert float(named(planar, "Area")[0].MeasuredValueSequence[0].NumericValue) == pytest.approx(4.5 * 4.5)


def test_building_twice_gives_the_same_content(analysis: Analysis) -> None:
    assert report(analysis, KEYS) == report(analysis, KEYS)
