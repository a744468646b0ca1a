"""SEG objects, read back from bytes: their pixels, segments, references and sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom.dataset import Dataset

from pipeline import checks, phantom, seg, uids
from pipeline.arrays import LesionMasks
from pipeline.subjects import Subject
from pipeline.types import Analysis, Profile, ResultContext
from tests.fixtures.results import SMALL, make_analysis, make_context, no_lesions, through_bytes
from tests.fixtures.seg_reader import as_mask, frame_pixels, segment_points

LABELMAP = Profile(seg="LABELMAP")


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return make_analysis()


def built(analysis: Analysis, context: ResultContext | None = None) -> Dataset:
    ds = seg.build(analysis, context or make_context())
    assert ds is not None
    return through_bytes(ds)


def without_consolidation(masks: LesionMasks) -> LesionMasks:
    return LesionMasks(masks.infection, np.zeros_like(masks.infection))


def only_consolidation(masks: LesionMasks) -> LesionMasks:
    return LesionMasks(masks.consolidation, masks.consolidation)


def test_binary_holds_infection_and_consolidation_that_overlap(analysis: Analysis) -> None:
    ds = built(analysis)
    masks = {
        label: as_mask(points, analysis.volume.affine, analysis.volume.hu.shape)
        for label, points in segment_points(ds).items()
    }
    assert list(masks) == ["Opacity", "Consolidation"]
    np.testing.assert_array_equal(masks["Opacity"], analysis.lesions.infection)
    np.testing.assert_array_equal(masks["Consolidation"], analysis.lesions.consolidation)
    assert (ds.SegmentationType, ds.SegmentsOverlap, ds.BitsAllocated) == ("BINARY", "YES", 1)


def test_labelmap_holds_ground_glass_and_consolidation_apart(analysis: Analysis) -> None:
    ds = built(analysis, make_context(profile=LABELMAP))
    masks = {
        label: as_mask(points, analysis.volume.affine, analysis.volume.hu.shape)
        for label, points in segment_points(ds).items()
        if label != "Background"
    }
    assert list(masks) == ["Ground glass opacity", "Consolidation"]
    np.testing.assert_array_equal(masks["Ground glass opacity"], analysis.lesions.ggo)
    np.testing.assert_array_equal(masks["Consolidation"], analysis.lesions.consolidation)
    assert (ds.SegmentationType, ds.SegmentsOverlap, ds.PixelPaddingValue) == ("LABELMAP", "NO", 0)
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"


def test_lungs_are_an_object_of_their_own(analysis: Analysis) -> None:
    context = make_context(profile=Profile(lungs_seg=True))
    lungs = seg.build_lungs(analysis, context)
    assert lungs is not None
    ds = through_bytes(lungs)
    masks = {
        label: as_mask(points, analysis.volume.affine, analysis.volume.hu.shape)
        for label, points in segment_points(ds).items()
    }
    np.testing.assert_array_equal(masks["Right lung"], analysis.lungs.labels == 1)
    np.testing.assert_array_equal(masks["Left lung"], analysis.lungs.labels == 2)
    sides = [
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning
        for segment in ds.SegmentSequence
    ]
    assert sides == ["Right", "Left"]
    lesions = built(analysis, context)
    assert len({ds.SeriesInstanceUID, lesions.SeriesInstanceUID}) == 2
    assert len({ds.SeriesNumber, lesions.SeriesNumber}) == 2


@pytest.mark.parametrize(
    ("profile", "lungs_wanted"),
    [(Profile(), False), (Profile(lungs_seg=True), True), (Profile(seg="NONE", lungs_seg=True), False)],
)
def test_lungs_only_where_the_profile_wants_them(analysis: Analysis, profile: Profile, lungs_wanted: bool) -> None:
    assert (seg.build_lungs(analysis, make_context(profile=profile)) is not None) == lungs_wanted


@pytest.mark.parametrize("profile", [Profile(), LABELMAP, Profile(seg="NONE"), Profile(empty_frames=True)])
def test_a_healthy_chest_has_no_lesion_seg(profile: Profile) -> None:
    assert seg.build(make_analysis(lesions=no_lesions), make_context(profile=profile)) is None


def test_the_profile_none_has_no_seg(analysis: Analysis) -> None:
    assert seg.build(analysis, make_context(profile=Profile(seg="NONE"))) is None


@pytest.mark.parametrize(
    ("kept", "profile", "labels"),
    [
        (without_consolidation, Profile(), ["Opacity"]),
        (only_consolidation, Profile(), ["Opacity", "Consolidation"]),
        (without_consolidation, LABELMAP, ["Ground glass opacity"]),
        (only_consolidation, LABELMAP, ["Consolidation"]),
    ],
)
def test_no_segment_is_empty(kept: object, profile: Profile, labels: list[str]) -> None:
    ds = built(make_analysis(lesions=kept), make_context(profile=profile))  # type: ignore[arg-type]
    points = {label: found for label, found in segment_points(ds).items() if label != "Background"}
    assert list(points) == labels
    assert all(len(found) for found in points.values())
    numbers = [segment.SegmentNumber for segment in ds.SegmentSequence if segment.SegmentLabel != "Background"]
    assert numbers == list(range(1, len(labels) + 1))


def test_frames_lie_only_where_there_is_something(analysis: Analysis) -> None:
    ds = built(analysis)
    assert frame_pixels(ds).any(axis=(1, 2)).all()
    lesions = analysis.lesions
    expected = [mask.any(axis=(1, 2)).sum() for mask in (lesions.infection, lesions.consolidation)]
    assert ds.NumberOfFrames == sum(expected)
    assert len(ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == expected[0]


@pytest.mark.parametrize(("mode", "frames"), [("BINARY", 2), ("LABELMAP", 1)])
def test_viewers_that_need_it_get_a_frame_for_every_slice(analysis: Analysis, mode: str, frames: int) -> None:
    ds = built(analysis, make_context(profile=Profile(seg=mode, empty_frames=True)))  # type: ignore[arg-type]
    assert ds.NumberOfFrames == frames * SMALL.slices
    assert len(ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SMALL.slices
    label = "Opacity" if mode == "BINARY" else "Consolidation"
    mask = as_mask(segment_points(ds)[label], analysis.volume.affine, analysis.volume.hu.shape)
    expected = analysis.lesions.infection if mode == "BINARY" else analysis.lesions.consolidation
    np.testing.assert_array_equal(mask, expected)


def test_each_frame_names_its_slice_and_its_place(analysis: Analysis) -> None:
    ds = built(analysis)
    by_uid = {header.SOPInstanceUID: header for header in analysis.volume.headers}
    indices = []
    for frame in ds.PerFrameFunctionalGroupsSequence:
        derivation = frame.DerivationImageSequence[0]
        source = by_uid[derivation.SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
        assert derivation.DerivationCodeSequence[0].CodeValue == "113076"
        assert derivation.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        indices.append(tuple(frame.FrameContentSequence[0].DimensionIndexValues))
    assert indices == sorted(set(indices))
    assert len(ds.DimensionIndexSequence) == len(indices[0]) == 2


def test_what_a_segment_says_of_itself(analysis: Analysis) -> None:
    context = make_context()
    ds = built(analysis, context)
    for segment, subject in zip(ds.SegmentSequence, (Subject.INFECTION, Subject.CONSOLIDATION), strict=True):
        assert segment.TrackingUID == uids.tracking(analysis, context, subject)
        assert segment.TrackingID == segment.SegmentLabel == subject.value
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
        assert segment.AnatomicRegionSequence[0].CodeValue == "39607008"
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert analysis.model.digest in algorithm.AlgorithmParameters
        assert len(segment.RecommendedDisplayCIELabValue) == 3
    types = [segment.SegmentedPropertyTypeCodeSequence[0].CodeValue for segment in ds.SegmentSequence]
    assert types == ["112001", "9656002"]


def test_what_the_object_takes_from_its_source(analysis: Analysis) -> None:
    source = analysis.volume.headers[0]
    ds = built(analysis, make_context(revision=3))
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber", "FrameOfReferenceUID"):
        assert ds[keyword].value == source[keyword].value
    assert ds.SeriesDescription == "Lung opacity SEG of series 2, rev 3 - RESEARCH USE ONLY"
    assert (ds.ContentDate, ds.ContentTime) == ("20260301", "143005")
    assert ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices == 14
    assert ds.DeviceUID == uids.device(analysis.model)
    ours = [item.DeviceUID for item in ds.ContributingEquipmentSequence if "DeviceUID" in item]
    assert ours == [uids.lung_device(analysis.model, analysis.lungs.method), ds.DeviceUID]


def test_times_follow_the_zone_of_the_source() -> None:
    analysis = make_analysis(attributes={"TimezoneOffsetFromUTC": "+0900"})
    ds = built(analysis)
    assert (ds.TimezoneOffsetFromUTC, ds.ContentDate, ds.ContentTime) == ("+0900", "20260301", "233005")


@pytest.mark.parametrize("value", ["0", "", None])
def test_a_slice_thickness_that_is_no_length_is_replaced(value: str | None) -> None:
    ds = built(make_analysis(attributes={"SliceThickness": value}))
    assert ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 14


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_positions_of_any_length_lie_where_they_did_in_16_characters() -> None:
    """PS3.5 6.2, VR DS: resampled and de-identified series have positions with all their digits."""
    analysis = make_analysis()
    for source in analysis.volume.headers:
        source.ImagePositionPatient = [f"{float(value) + 1 / 3:.20f}" for value in source.ImagePositionPatient]
    ds = built(analysis)
    for frame in ds.PerFrameFunctionalGroupsSequence:
        position = frame.PlanePositionSequence[0].get_item("ImagePositionPatient").value.decode()
        assert max(map(len, position.split("\\"))) <= 16
    assert list(checks.complaints(ds, analysis)) == []
    ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[2] += 1e-3
    assert len(list(checks.complaints(ds, analysis))) == 1


def test_lossy_compression_follows_the_source() -> None:
    lossy = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": 8,
        "LossyImageCompressionMethod": "ISO_10918_1",
    }
    ds = built(make_analysis(attributes=lossy))
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 8)
    assert built(make_analysis()).LossyImageCompression == "00"


def test_building_twice_gives_the_same_bytes(analysis: Analysis) -> None:
    contexts = [make_context(), make_context()]
    first, second = (seg.build(analysis, context) for context in contexts)
    assert first is not None
    assert second is not None
    assert encoded(first) == encoded(second)


def encoded(ds: Dataset) -> bytes:
    buffer = pydicom.filebase.DicomBytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def test_frames_that_do_not_fill_bytes_are_packed_without_gaps() -> None:
    """5 × 7 pixels: 35 bits a frame (PS3.5 8.1.1)."""
    drawn = phantom.make(replace(SMALL, slices=12, rows=21, columns=25))
    rng = np.random.default_rng(0)
    infection = rng.random(drawn.hu.shape) > 0.5
    analysis = make_analysis(
        replace(SMALL, slices=12, rows=21, columns=25),
        lesions=lambda _: LesionMasks(infection, infection & (rng.random(infection.shape) > 0.5)),
    )
    ds = built(analysis)
    assert (ds.Rows * ds.Columns) % 8
    mask = as_mask(segment_points(ds)["Opacity"], analysis.volume.affine, infection.shape)
    np.testing.assert_array_equal(mask, infection)


@settings(max_examples=50, deadline=None)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))))
def test_packing_is_the_inverse_of_unpacking(frames: np.ndarray) -> None:
    packed = seg.pack_bits(frames)
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    np.testing.assert_array_equal(bits[: frames.size].astype(bool), frames.ravel())
    assert len(packed) == -(-frames.size // 8)


def test_a_context_without_time_zone_is_refused(analysis: Analysis) -> None:
    naive = make_context(created=make_context().created.replace(tzinfo=None))
    with pytest.raises(ValueError, match="time zone"):
        seg.build(analysis, naive)
