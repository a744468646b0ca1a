"""Each check is made to fail once: a built object is spoilt in one way, and the complaint names it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from pipeline import checks, checks_sr
from pipeline.errors import ResultError
from pipeline.types import Analysis, Profile, ResultKind
from tests.fixtures.results import build_set, make_analysis, make_context, no_lesions, without_left_lung

K = ResultKind
PROFILES = {
    "default": Profile(),
    "full": Profile(lungs_seg=True, key_slices=True),
    "label map": Profile(seg="LABELMAP", lungs_seg=True),
    "every frame": Profile(empty_frames=True),
    "no SEG": Profile(seg="NONE"),
}


def segmentations(built: dict[ResultKind, Dataset]) -> dict[ResultKind, Dataset]:
    return {kind: ds for kind, ds in built.items() if kind in (K.LESIONS, K.LUNGS)}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("healthy", [False, True])
def test_what_is_built_passes(profile: Profile, healthy: bool) -> None:
    analysis = make_analysis(lesions=no_lesions if healthy else None)
    built = dict(build_set(analysis, make_context(profile=profile)))
    assert K.SR in built
    assert (K.LESIONS in built) == (not healthy and profile.seg != "NONE")
    for ds in built.values():
        assert list(checks.complaints(ds, analysis, segmentations(built))) == []
        checks.check(ds, analysis)


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return make_analysis()


@pytest.fixture(scope="module")
def built(analysis: Analysis) -> dict[ResultKind, Dataset]:
    return dict(build_set(analysis, make_context(profile=Profile(lungs_seg=True, key_slices=True))))


def first_group(ds: Dataset) -> Dataset:
    (container,) = [item for item in ds.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010"]
    return container.ContentSequence[0]


def first_number(ds: Dataset) -> Dataset:
    return next(item for item in first_group(ds).ContentSequence if item.ValueType == "NUM")


def set_value(ds: Dataset) -> None:
    first_number(ds).MeasuredValueSequence[0].NumericValue = "123.4"


def set_unit(ds: Dataset) -> None:
    first_number(ds).MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue = "mm3"


def exchange_sides(ds: Dataset) -> None:
    for item in checks_sr.walk(ds):
        for value in item.get("ConceptCodeSequence", ()):
            value.CodeValue = {"24028007": "7771000", "7771000": "24028007"}.get(value.CodeValue, value.CodeValue)


def drop_side(ds: Dataset) -> None:
    del first_number(ds).ContentSequence


def drop_numbers(ds: Dataset) -> None:
    group = first_group(ds)
    group.ContentSequence = [item for item in group.ContentSequence if item.ValueType != "NUM"]


def rename_measurement(ds: Dataset) -> None:
    first_number(ds).ConceptNameCodeSequence[0].CodeValue = "BOGUS"


def drop_tracking(ds: Dataset) -> None:
    group = first_group(ds)
    group.ContentSequence = [item for item in group.ContentSequence if item.ValueType != "UIDREF"]


def change_tracking(ds: Dataset) -> None:
    for item in first_group(ds).ContentSequence:
        if item.ConceptNameCodeSequence[0].CodeValue == "112040":
            item.UID = "1.2.3"


def drop_evidence(ds: Dataset) -> None:
    ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence.pop()


def invent_evidence(ds: Dataset) -> None:
    series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    extra = deepcopy(series.ReferencedSOPSequence[0])
    extra.ReferencedSOPInstanceUID = "1.2.3"
    series.ReferencedSOPSequence.append(extra)


def empty_first_segment(ds: Dataset) -> None:
    ds.PixelData = b"\0" * len(ds.PixelData)


def flip_a_voxel(ds: Dataset) -> None:
    ds.PixelData = bytes([ds.PixelData[0] ^ 1]) + ds.PixelData[1:]


def cut_pixels(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData[:-2]


def move_a_frame(ds: Dataset) -> None:
    ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 0]


def refer_elsewhere(ds: Dataset) -> None:
    frame = ds.PerFrameFunctionalGroupsSequence[0]
    frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def change_type(ds: Dataset) -> None:
    ds.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue = "1234"


def drop_tracking_uid(ds: Dataset) -> None:
    del ds.SegmentSequence[0].TrackingUID


def setting(keyword: str, value: object) -> Callable[[Dataset], None]:
    def spoil(ds: Dataset) -> None:
        setattr(ds, keyword, value)

    return spoil


@pytest.mark.parametrize(
    ("kind", "spoil", "complaint"),
    [
        (K.SR, setting("PatientID", "OTHER"), "PatientID is not the source's"),
        (K.LESIONS, setting("PatientName", "Other^Name"), "PatientName is not the source's"),
        (K.PICTURE, setting("AccessionNumber", "1"), "AccessionNumber is not the source's"),
        (K.PICTURE, setting("StudyInstanceUID", "1.2"), "StudyInstanceUID is not the source's"),
        (K.SR, setting("SOPInstanceUID", ""), "SOPInstanceUID is missing"),
        (K.SR, setting("SeriesDescription", "Report"), "RESEARCH USE ONLY"),
        (K.SR, setting("ContributingEquipmentSequence", []), "the device"),
        (K.SR, setting("CompletionFlag", "PARTIAL"), "complete and unverified"),
        (K.SR, set_value, "measured was"),
        (K.SR, set_unit, "has the unit mm3"),
        (K.SR, exchange_sides, "measured was"),
        (K.SR, drop_side, "does not say of which lung"),
        (K.SR, drop_numbers, "is missing"),
        (K.SR, rename_measurement, "is not a figure of this report"),
        (K.SR, drop_tracking, "has no tracking UID"),
        (K.SR, change_tracking, "is another one in the SEG"),
        (K.SR, drop_evidence, "are not evidence"),
        (K.SR, invent_evidence, "neither source nor result"),
        (K.LESIONS, empty_first_segment, "is empty"),
        (K.LESIONS, flip_a_voxel, "its mask"),
        (K.LESIONS, cut_pixels, "of another number"),
        (K.LESIONS, move_a_frame, "does not lie where its source image lies"),
        (K.LESIONS, refer_elsewhere, "not of the source"),
        (K.LESIONS, change_type, "unknown type"),
        (K.LUNGS, drop_tracking_uid, "no tracking identifier"),
        (K.LESIONS, setting("FrameOfReferenceUID", "1.2"), "FrameOfReferenceUID"),
        (K.LESIONS, setting("Rows", 10), "frames of 10"),
        (K.PICTURE, setting("BurnedInAnnotation", "YES"), "BurnedInAnnotation"),
        (K.PICTURE, setting("Rows", 10), "do not fill the page"),
    ],
)
def test_each_fault_is_found(
    analysis: Analysis,
    built: dict[ResultKind, Dataset],
    kind: ResultKind,
    spoil: Callable[[Dataset], None],
    complaint: str,
) -> None:
    spoilt = deepcopy(built[kind])
    spoil(spoilt)
    others = segmentations(built)
    found = list(checks.complaints(spoilt, analysis, {**others, kind: spoilt} if kind in others else others))
    assert any(complaint in each for each in found), found
    with pytest.raises(ResultError, match=complaint.split(" is ")[0]):
        checks.check(spoilt, analysis, others)


def test_joining_the_series_of_the_source_is_found(analysis: Analysis, built: dict[ResultKind, Dataset]) -> None:
    spoilt = deepcopy(built[K.SR])
    spoilt.SeriesInstanceUID = analysis.volume.series_uid
    assert any("join the series" in each for each in checks.complaints(spoilt, analysis))


def test_an_object_of_other_masks_is_found(analysis: Analysis, built: dict[ResultKind, Dataset]) -> None:
    other = replace(analysis, lesions=no_lesions(analysis.lesions))
    assert any("its mask 0" in each for each in checks.complaints(built[K.LESIONS], other))
    fewer = replace(analysis.lungs, labels=np.ones_like(analysis.lungs.labels))
    assert any("Left lung" in each for each in checks.complaints(built[K.LUNGS], replace(analysis, lungs=fewer)))


def test_scores_are_left_out_just_where_they_were_not_measured(
    analysis: Analysis, built: dict[ResultKind, Dataset]
) -> None:
    one = without_left_lung(analysis)
    report = build_set(one, make_context())[K.SR]
    assert list(checks.complaints(report, one)) == []
    missing = [each for each in checks.complaints(report, analysis) if each.endswith("of left is missing")]
    assert len(missing) == 3
    invented = list(checks.complaints(built[K.SR], one))
    assert sum("of left is " in each and each.endswith("measured was None") for each in invented) >= 3


def test_a_study_uid_of_an_old_device_passes_and_one_that_is_none_does_not() -> None:
    """Reception takes leading zeros (PS3.5 9.1 forbids them): the results belong to that study all the same."""
    for uid, complaints in (("1.2.840.01.5", 0), ("1.2.840.x", 1), ("1." + "2" * 63, 1)):
        analysis = make_analysis(attributes={"StudyInstanceUID": uid, "FrameOfReferenceUID": "1.2.007"})
        for ds in build_set(analysis, make_context(profile=Profile(lungs_seg=True))).values():
            assert ds.StudyInstanceUID == uid
            assert ds.get("FrameOfReferenceUID", "1.2.007") == "1.2.007"
            assert len(list(checks.complaints(ds, analysis))) == complaints


def test_an_invalid_birth_date_may_be_blanked_but_not_changed() -> None:
    analysis = make_analysis()
    ds = build_set(analysis, make_context())[K.SR]
    ds.PatientBirthDate = ""
    assert list(checks.complaints(ds, analysis)) == []
    ds.PatientBirthDate = "20010101"
    assert any("PatientBirthDate" in each for each in checks.complaints(ds, analysis))
