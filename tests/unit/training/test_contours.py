"""SEG and RTSTRUCT on the grid of their CT: voxel for voxel, in every position, or refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, generate_uid

from pipeline import phantom, volume
from pipeline.arrays import CtVolume
from pipeline.types import PipelineSettings
from tests.fixtures import drawings
from training import contours, structures
from training.errors import CohortError

TABLE = structures.read()
SPEC = phantom.PhantomSpec(slices=12, rows=64, columns=64, slice_spacing_mm=9.0)
CHEST = phantom.make(SPEC)
MASKS = {
    "ggo": CHEST.lesions.ggo,
    "consolidation": CHEST.lesions.consolidation,
    "lung": CHEST.lungs.both,
}


@pytest.fixture
def ct(tmp_path: Path) -> CtVolume:
    return series(tmp_path)


def series(folder: Path, **options: Any) -> CtVolume:
    return volume.load(phantom.write_series(CHEST, folder / "ct", **options), PipelineSettings())


def expect_the_truth(drawn: contours.Drawn, ct: CtVolume) -> None:
    label, lung = contours.labels(drawn.drawings, ct)
    assert label is not None
    assert lung is not None
    np.testing.assert_array_equal(label, CHEST.lesions.infection.astype(int) + CHEST.lesions.consolidation)
    np.testing.assert_array_equal(lung > 0, CHEST.lungs.both)


POSITIONS = [
    {},
    {"patient_position": "FFP", "order": "shuffled"},
    {"patient_position": "HFDR"},
    {"orientation": (1, 0, 0, 0, -1, 0)},
    {"oblique_deg": (12.0, -7.0, 20.0)},
]


@pytest.mark.parametrize("options", POSITIONS)
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_a_seg_comes_back_voxel_for_voxel(tmp_path: Path, options: dict[str, Any], kind: str) -> None:
    ct = series(tmp_path, **options)
    path = drawings.as_seg(ct, MASKS, tmp_path / "seg.dcm", kind=kind)
    expect_the_truth(contours.read(path, ct, TABLE), ct)


def test_a_label_map_comes_back_voxel_for_voxel(tmp_path: Path, ct: CtVolume) -> None:
    masks = {name: MASKS[name] for name in ("ggo", "consolidation")}
    path = drawings.as_seg(ct, masks, tmp_path / "seg.dcm", kind="LABELMAP")
    label, lung = contours.labels(contours.read(path, ct, TABLE).drawings, ct)
    assert lung is None
    np.testing.assert_array_equal(label, CHEST.lesions.infection.astype(int) + CHEST.lesions.consolidation)


@pytest.mark.parametrize("options", POSITIONS)
def test_an_rt_struct_comes_back_voxel_for_voxel(tmp_path: Path, options: dict[str, Any]) -> None:
    ct = series(tmp_path, **options)
    masks = {"GGO right": MASKS["ggo"], "Konsolidierung": MASKS["consolidation"], "Lung": MASKS["lung"]}
    path = drawings.as_rt_struct(ct, masks, tmp_path / "rt.dcm")
    drawn = contours.read(path, ct, TABLE)
    assert drawn.others == ()
    expect_the_truth(drawn, ct)


def square(low: float, high: float, slice_: float) -> np.ndarray[Any, Any]:
    return np.array([(low, low, slice_), (high, low, slice_), (high, high, slice_), (low, high, slice_)])


def test_a_contour_in_a_contour_is_a_hole_and_two_rois_are_both_drawn(tmp_path: Path, ct: CtVolume) -> None:
    rois = {
        "GGO 1": [square(9.5, 30.5, 4.0), square(14.5, 19.5, 4.0)],
        "GGO 2": [square(15.5, 17.5, 4.2)],
        "heart": [square(1, 5, 2)],
    }
    path = drawings.write(drawings.rt_struct(ct, rois), tmp_path / "rt.dcm", RTStructureSetStorage)
    drawn = contours.read(path, ct, TABLE)
    label, _ = contours.labels(drawn.drawings, ct)
    assert drawn.others == ("heart",)
    assert label is not None
    assert label[4].sum() == 21 * 21 - 5 * 5 + 2 * 2
    assert label.sum() == label[4].sum()


def refused(path: Path, ct: CtVolume) -> str:
    with pytest.raises(CohortError) as told:
        contours.read(path, ct, TABLE)
    return str(told.value)


@pytest.mark.parametrize(
    ("contour", "says"),
    [
        (square(10, 20, 40), "outside the image"),
        (square(60, 80, 3), "outside the image"),
        (square(-9, 5, 3), "outside the image"),
        (square(10, 20, 3)[:2], "fewer than three points"),
        (square(10, 20, 3) + [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3)], "not parallel"),
    ],
)
def test_a_contour_that_does_not_fit_is_refused(
    tmp_path: Path, ct: CtVolume, contour: np.ndarray[Any, Any], says: str
) -> None:
    ds = drawings.rt_struct(ct, {"GGO": [contour]})
    assert says in refused(drawings.write(ds, tmp_path / "rt.dcm", RTStructureSetStorage), ct)


def test_what_belongs_to_another_image_is_refused(tmp_path: Path, ct: CtVolume) -> None:
    other = series(tmp_path / "other", uid_seed="other")
    assert "frame of reference" in refused(drawings.as_seg(other, MASKS, tmp_path / "seg.dcm"), ct)
    assert "frame of reference" in refused(drawings.as_rt_struct(other, MASKS, tmp_path / "rt.dcm"), ct)
    finer = phantom.make(phantom.PhantomSpec(slices=12, rows=48, columns=48, slice_spacing_mm=9.0))
    again = volume.load(phantom.write_series(finer, tmp_path / "finer"), PipelineSettings())
    masks = {"ggo": finer.lesions.infection}
    assert "another grid" in refused(drawings.as_seg(again, masks, tmp_path / "finer.dcm"), ct)
    longer = phantom.make(phantom.PhantomSpec(slices=30, rows=64, columns=64, slice_spacing_mm=9.0))
    again = volume.load(phantom.write_series(longer, tmp_path / "longer"), PipelineSettings())
    masks = {"ggo": longer.lesions.infection}
    assert "outside the image" in refused(drawings.as_seg(again, masks, tmp_path / "longer.dcm"), ct)


def drawn_on(series_uid: str, ct: CtVolume, rois: dict[str, Any], folder: Path) -> Path:
    """An RTSTRUCT that names this series."""
    ds = drawings.rt_struct(ct, rois)
    referenced = Dataset()
    referenced.RTReferencedStudySequence = [Dataset()]
    referenced.RTReferencedStudySequence[0].RTReferencedSeriesSequence = [Dataset()]
    referenced.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = series_uid
    ds.ReferencedFrameOfReferenceSequence = [referenced]
    return drawings.write(ds, folder / "rt.dcm", RTStructureSetStorage)


def test_a_drawing_on_thinner_or_thicker_slices_of_the_study_is_refused(tmp_path: Path, ct: CtVolume) -> None:
    """Of one frame of reference with the CT: thin contours would cut each other out, thick ones leave gaps."""

    def rt(*slices: float, series: str) -> Path:
        return drawn_on(series, ct, {"GGO": [square(10.5, 20.5, one) for one in slices]}, tmp_path)

    own = str(ct.headers[0].SeriesInstanceUID)
    assert "thinner slices" in refused(rt(4.0, 4.2, 4.4, series="1.2.3"), ct)
    assert "thicker slices" in refused(rt(1.0, 4.0, 7.0, series="1.2.3"), ct)
    for path in (rt(1.0, 4.0, 7.0, series=own), rt(3.9, 5.0, 6.05, series="1.2.3")):
        (drawing,) = contours.read(path, ct, TABLE).drawings
        assert drawing.mask.sum() == 3 * 10 * 10
    seg = pydicom.dcmread(drawings.as_seg(ct, {"lung": MASKS["lung"] & SPARSE}, tmp_path / "seg.dcm"))
    assert contours.read(tmp_path / "seg.dcm", ct, TABLE).drawings
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"
    seg.save_as(tmp_path / "seg.dcm")
    assert "thicker slices" in refused(tmp_path / "seg.dcm", ct)


@pytest.mark.parametrize("step_mm", [1.25, 0.7])
@pytest.mark.parametrize("first", [1.0, 1.5])
@pytest.mark.parametrize("jitter", [0.0, 1e-6, 0.02])
def test_two_rois_on_thicker_slices_are_refused_as_one_is(
    tmp_path: Path, step_mm: float, first: float, jitter: float
) -> None:
    """Means of many points on one plane differ in their last digits, also half-way between two slices."""
    spec = phantom.PhantomSpec(slices=24, rows=64, columns=64, slice_spacing_mm=step_mm)
    folder = tmp_path / "ct"
    ct = volume.load(phantom.write_series(phantom.make(spec), folder), PipelineSettings())
    planes = [first + 4 * k for k in range(5)]
    rois = {
        "GGO": [square(10.5, 20.5, one - jitter) for one in planes],
        "consolidation": [np.repeat(square(12.5, 33.5, one + jitter), 9, axis=0) for one in planes],
    }
    for taken in ({"GGO": rois["GGO"]}, rois):
        assert "thicker slices" in refused(drawn_on("1.2.3", ct, taken, tmp_path), ct)
    own = str(ct.headers[0].SeriesInstanceUID)
    assert len(contours.read(drawn_on(own, ct, rois, tmp_path), ct, TABLE).drawings) == 2


def test_a_hole_lies_in_the_slice_of_what_it_cuts(tmp_path: Path) -> None:
    """Also where both lie half-way between two slices, but for the last digit."""
    spec = phantom.PhantomSpec(slices=24, rows=64, columns=64, slice_spacing_mm=0.7)
    ct = volume.load(phantom.write_series(phantom.make(spec), tmp_path / "ct"), PipelineSettings())
    planes = [k + 0.5 for k in range(2, 20, 4)]
    hole = [np.repeat(square(14.5, 18.5, one), 7, axis=0) + (0, 0, 2e-6) for one in planes]
    rois = {"GGO": [square(10.5, 20.5, one) for one in planes] + hole}
    (drawing,) = contours.read(drawn_on("", ct, rois, tmp_path), ct, TABLE).drawings
    assert drawing.mask.sum() == len(planes) * (10 * 10 - 4 * 4)


SPARSE = (np.arange(12) % 3 == 0)[:, None, None]


@pytest.mark.parametrize(
    ("name", "value"),
    [("Lunge rechts", "lung"), ("Lungenflügel li.", "lung"), ("Lungenarterie", None), ("Lungenrundherd", None)],
)
def test_names_of_structures(name: str, value: str | None) -> None:
    assert TABLE.value(name, (), "MANUAL") == value


def test_what_a_network_drew_is_not_taken(tmp_path: Path, ct: CtVolume) -> None:
    path = drawings.as_seg(ct, MASKS, tmp_path / "seg.dcm", algorithm="AUTOMATIC")
    drawn = contours.read(path, ct, TABLE)
    assert (drawn.drawings, drawn.others) == ((), ("ggo", "consolidation", "lung"))
    rt = drawings.as_rt_struct(ct, MASKS, tmp_path / "rt.dcm", algorithm="AUTOMATIC")
    assert contours.read(rt, ct, TABLE).drawings == ()


def test_codes_count_where_names_say_nothing(tmp_path: Path, ct: CtVolume) -> None:
    labels = {name: f"Segment {k}" for k, name in enumerate(MASKS)}
    path = drawings.as_seg(ct, MASKS, tmp_path / "seg.dcm", labels=labels)
    expect_the_truth(contours.read(path, ct, TABLE), ct)


def test_the_newer_drawing_counts(tmp_path: Path, ct: CtVolume) -> None:
    old = drawings.as_rt_struct(ct, {"GGO": MASKS["lung"]}, tmp_path / "1.dcm", StructureSetDate="20250101")
    new = drawings.as_rt_struct(ct, {"GGO": MASKS["ggo"]}, tmp_path / "2.dcm", StructureSetDate="20260101")
    drawn = [one for path in (new, old) for one in contours.read(path, ct, TABLE).drawings]
    label, _ = contours.labels(drawn, ct)
    np.testing.assert_array_equal(label, MASKS["ggo"])


@pytest.mark.parametrize("damage", ["cut", "text", "points", "frames"])
def test_a_damaged_object_is_refused_with_its_name(tmp_path: Path, ct: CtVolume, damage: str) -> None:
    path = drawings.as_seg(ct, MASKS, tmp_path / "drawn.dcm")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-5000])
    elif damage == "text":
        path.write_text("no DICOM")
    elif damage == "points":
        ds = drawings.rt_struct(ct, {"GGO": [square(10, 20, 3)]})
        ds.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2", "3", "4"]
        drawings.write(ds, path, RTStructureSetStorage)
    else:
        ds = pydicom.dcmread(path)
        ds.NumberOfFrames = 1_000_000
        ds.SOPInstanceUID = generate_uid()
        ds.save_as(path)
    assert refused(path, ct)


@pytest.mark.parametrize("content", ["", "[[structures]]\nvalue = 'heart'", "algorithms = 1"])
def test_a_table_of_structures_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "table.toml").write_text(content)
    with pytest.raises(CohortError, match="no table of structures"):
        structures.read(tmp_path / "table.toml")
