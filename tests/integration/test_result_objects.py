"""Result sets from series on disk, judged by public validators and readers; left and right in every position."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from pipeline import phantom, seg, volume
from pipeline.arrays import LesionMasks, LungMask
from pipeline.others import OtherSeries
from pipeline.phantom_series import PATIENT_POSITIONS, rotation
from pipeline.priors import Priors
from pipeline.types import Analysis, Flag, PipelineSettings, Profile, ResultContext, ResultKind
from tests.fixtures import validators
from tests.fixtures.results import (
    SMALL,
    analysis_of,
    build_set,
    make_analysis,
    make_context,
    make_prior,
    no_lesions,
    through_bytes,
    without_left_lung,
)
from tests.fixtures.seg_reader import as_mask, segment_points

SETTINGS = PipelineSettings(min_slices=5, max_slice_spacing_mm=20.0, max_oblique_deg=30.0)
FULL = Profile(lungs_seg=True, key_slices=True, slice_pictures=True, pdf=True)
FLAGS = (Flag("TRUNCATED", "The lungs touch the first slice."), Flag("KERNEL", "The kernel is sharp."))
Tool = Callable[[str], str]
Sets = Callable[[str], tuple[Analysis, dict[ResultKind, Path], Path]]
CASES: Mapping[str, tuple[Profile, bool]] = {
    "default": (Profile(), False),
    "full": (FULL, False),
    "label map": (Profile(seg="LABELMAP", lungs_seg=True), False),
    "every frame": (Profile(empty_frames=True), False),
    "no SEG": (Profile(seg="NONE"), False),
    "healthy": (Profile(), True),
    "healthy with lungs": (FULL, True),
    "one lung": (FULL, False),
    "one lung, no SEG": (Profile(seg="NONE"), False),
}


def analyse(folder: Path, healthy: bool = False, spec: phantom.PhantomSpec = SMALL, **options: Any) -> Analysis:
    """A phantom written as a series and read again; its masks are the truth."""
    drawn = phantom.make(spec)
    ct = volume.load(phantom.write_series(drawn, folder / "ct", **options), SETTINGS)
    lesions = no_lesions(drawn.lesions) if healthy else drawn.lesions
    return analysis_of(ct, LungMask(drawn.lungs.labels, "built-in"), lesions, FLAGS)


def write_set(analysis: Analysis, context: ResultContext, folder: Path) -> dict[ResultKind, Path]:
    folder.mkdir(exist_ok=True)
    paths = {}
    for kind, ds in build_set(analysis, context).items():
        paths[kind] = folder / f"{kind}.dcm"
        pydicom.dcmwrite(paths[kind], ds, enforce_file_format=True)
    return paths


def fullest_slice(masks: LesionMasks) -> LesionMasks:
    """The lesions of one slice only."""
    kept = np.zeros_like(masks.infection)
    kept[masks.infection.sum(axis=(1, 2)).argmax()] = True
    return LesionMasks(masks.infection & kept, masks.consolidation & kept)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    """Result sets by the name of their case, each made once; the folder holds the source series in `ct`."""
    made: dict[str, tuple[Analysis, dict[ResultKind, Path], Path]] = {}

    def make(case: str) -> tuple[Analysis, dict[ResultKind, Path], Path]:
        if case not in made:
            profile, healthy = CASES[case]
            folder = tmp_path_factory.mktemp("set")
            analysis = analyse(folder, healthy)
            if case.startswith("one lung"):
                analysis = without_left_lung(analysis)
            made[case] = analysis, write_set(analysis, make_context(profile=profile), folder / "out"), folder
        return made[case]

    return make


@pytest.mark.parametrize("case", CASES)
def test_dciodvfy_has_no_complaint(sets: Sets, tool: Tool, case: str) -> None:
    known = validators.OF_A_LABEL_MAP if case == "label map" else ()
    for path in sets(case)[1].values():
        assert validators.dciodvfy(tool, path, *known) == []


@pytest.mark.parametrize("case", ["full", "label map", "healthy"])
def test_dcentvfy_finds_one_patient_one_study_and_every_reference(sets: Sets, tool: Tool, case: str) -> None:
    _, paths, folder = sets(case)
    assert validators.dcentvfy(tool, [*sorted((folder / "ct").iterdir()), *paths.values()]) == []


def test_dciodvfy_would_find_a_fault(sets: Sets, tool: Tool, tmp_path: Path) -> None:
    ds = pydicom.dcmread(sets("default")[1][ResultKind.LESIONS])
    del ds.SegmentSequence[0].SegmentAlgorithmType
    pydicom.dcmwrite(tmp_path / "spoilt.dcm", ds)
    assert validators.dciodvfy(tool, tmp_path / "spoilt.dcm")


@pytest.mark.parametrize(("lesions", "template"), [(fullest_slice, "1411"), (no_lesions, "1501")])
def test_pixelmed_validates_the_templates(
    tool: Tool, tmp_path: Path, lesions: Callable[[LesionMasks], LesionMasks], template: str
) -> None:
    """Small reports, as it takes long for each content item: TID 1411 with 1410 in one, TID 1501 in the other."""
    analysis = make_analysis(replace(SMALL, slices=6, slice_spacing_mm=50.0), FLAGS, lesions)
    beside = (OtherSeries(1, "localizer"), OtherSeries(None, "2 slices only"))
    context = make_context(profile=Profile(key_slices=True), others=beside)
    report = build_set(analysis, context)[ResultKind.SR]
    pydicom.dcmwrite(tmp_path / "sr.dcm", report, enforce_file_format=True)
    assert f"Template Identifier                 CS: '{template}'" in str(report)
    assert validators.pixelmed(tool, tmp_path / "sr.dcm") == []


@pytest.mark.parametrize("lesions", [fullest_slice, no_lesions])
def test_validators_have_no_complaint_about_earlier_results(
    tool: Tool, tmp_path: Path, lesions: Callable[[LesionMasks], LesionMasks]
) -> None:
    analysis = make_analysis(replace(SMALL, slices=6, slice_spacing_mm=50.0), FLAGS, lesions)
    found = Priors((make_prior("2019-01-02T08:00:00", 0.3, 0.1), make_prior("2019-02-02", 0.2, 0.0)), "this node")
    for kind, ds in build_set(analysis, make_context(priors=found)).items():
        path = tmp_path / f"{kind}.dcm"
        pydicom.dcmwrite(path, ds, enforce_file_format=True)
        assert validators.dciodvfy(tool, path) == []
    assert validators.pixelmed(tool, tmp_path / "sr.dcm") == []
    assert "Previous Findings" in validators.dsrdump(tool, tmp_path / "sr.dcm")


@pytest.mark.parametrize("case", ["default", "healthy"])
def test_dsrdump_shows_a_report_that_a_person_can_read(sets: Sets, tool: Tool, case: str) -> None:
    shown = validators.dsrdump(tool, sets(case)[1][ResultKind.SR])
    assert "Research use only, not for diagnostic use" in shown
    assert 'Severity score: opaque / lung volume")="' in shown
    assert "The lungs touch the first slice. [TRUNCATED]" in shown
    if case == "healthy":
        assert 'Severity score: opaque / lung volume")="0" (%' in shown


def test_dcmqi_reads_the_report(sets: Sets, tool: Tool, tmp_path: Path) -> None:
    analysis, paths, _ = sets("full")
    read = validators.tid1500reader(tool, paths[ResultKind.SR], tmp_path / "sr.json")
    by_tracker = {group["TrackingIdentifier"]: group for group in reversed(read["Measurements"])}  # the first wins
    assert {"Opacity", "Consolidation", "Right lung", "Left lung"} <= set(by_tracker)
    assert by_tracker["Opacity"]["ReferencedSegment"] == 1
    assert by_tracker["Opacity"]["SourceSeriesForImageSegmentation"] == analysis.volume.series_uid
    first = by_tracker["Opacity"]["measurementItems"][0]
    assert first["quantity"]["CodeMeaning"] == "Volume"
    counted = np.count_nonzero(analysis.lesions.infection) * analysis.volume.voxel_volume_ml
    assert float(first["value"]) == pytest.approx(counted, rel=1e-5)


@pytest.mark.parametrize("case", ["default", "every frame", "label map", "full"])
def test_dcmqi_gives_back_the_masks_voxel_for_voxel(sets: Sets, tool: Tool, case: str, tmp_path: Path) -> None:
    analysis, paths, _ = sets(case)
    expected = {
        "Opacity": analysis.lesions.infection,
        "Consolidation": analysis.lesions.consolidation,
        "Ground glass opacity": analysis.lesions.ggo,
        "Right lung": analysis.lungs.labels == 1,
        "Left lung": analysis.lungs.labels == 2,
    }
    read = {}
    for kind in {ResultKind.LESIONS, ResultKind.LUNGS} & set(paths):
        read |= validators.segimage2itkimage(tool, paths[kind], tmp_path / kind)
    assert len(read) == {"default": 2, "every frame": 2, "label map": 4, "full": 4}[case]
    for label, image in read.items():
        np.testing.assert_array_equal(on_grid(image, analysis), expected[label])


def on_grid(image: SimpleITK.Image, analysis: Analysis) -> np.ndarray:
    """An ITK image as a canonical mask, by the LPS positions of its voxels alone."""
    slices, rows, columns = np.nonzero(SimpleITK.GetArrayViewFromImage(image))
    indices = np.stack([columns, rows, slices], axis=1) * np.array(image.GetSpacing())
    points = np.array(image.GetOrigin()) + indices @ np.array(image.GetDirection()).reshape(3, 3).T
    return as_mask(points, analysis.volume.affine, analysis.volume.hu.shape)


GEOMETRIES: Mapping[str, dict[str, Any]] = {
    **{position: {"patient_position": position} for position in PATIENT_POSITIONS},
    "descending": {"order": "descending"},
    "shuffled": {"order": "shuffled"},
    "shuffled feet first prone": {"order": "shuffled", "patient_position": "FFP"},
    "negative row step": {"orientation": (-1, 0, 0, 0, 1, 0)},
    "negative column step": {"orientation": (1, 0, 0, 0, -1, 0)},
    "oblique": {"oblique_deg": (7.0, -4.0, 11.0)},
    "oblique feet first": {"oblique_deg": (-12.0, 5.0, -6.0), "patient_position": "FFS", "order": "shuffled"},
    "unequal pixels": {"spec": replace(SMALL, rows=36, pixel_spacing_mm=(9.0, 4.5))},
}


@pytest.mark.parametrize("profile", [FULL, Profile(seg="LABELMAP", lungs_seg=True)], ids=["BINARY", "LABELMAP"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_masks_lie_voxel_exact_and_left_stays_left(tmp_path: Path, geometry: str, profile: Profile) -> None:
    """The truth lives in patient space, where the phantom was drawn; the SEG is read there too."""
    options = dict(GEOMETRIES[geometry])
    spec = options.pop("spec", SMALL)
    drawn = phantom.make(spec)
    analysis = analyse(tmp_path, spec=spec, **options)
    context = make_context(profile=profile)
    points = {}
    for built in (seg.build(analysis, context), seg.build_lungs(analysis, context)):
        assert built is not None
        points |= segment_points(through_bytes(built))
    to_patient = rotation(options.get("oblique_deg", (0.0, 0.0, 0.0))) @ drawn.affine
    truth = {
        "Opacity": drawn.lesions.infection,
        "Consolidation": drawn.lesions.consolidation,
        "Ground glass opacity": drawn.lesions.ggo,
        "Right lung": drawn.lungs.labels == 1,
        "Left lung": drawn.lungs.labels == 2,
    }
    points.pop("Background", None)
    assert len(points) >= 4
    for label, found in points.items():
        np.testing.assert_array_equal(as_mask(found, to_patient, drawn.hu.shape), truth[label], err_msg=label)
    assert points["Right lung"][:, 0].mean() < 0 < points["Left lung"][:, 0].mean()  # LPS: x grows to the left


MISSING = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "SeriesNumber",
    "Manufacturer",
    "PositionReferenceIndicator",
    "SpecificCharacterSet",
    "SliceThickness",
    "BodyPartExamined",
)


def test_headers_with_missing_tags_give_valid_objects(tool: Tool, tmp_path: Path) -> None:
    analysis = analyse(tmp_path, attributes=dict.fromkeys(MISSING))
    for path in write_set(analysis, make_context(profile=FULL), tmp_path / "out").values():
        assert validators.dciodvfy(tool, path, *validators.FROM_THE_SOURCE) == []


def test_headers_with_invalid_values_give_valid_objects(tool: Tool, tmp_path: Path) -> None:
    def spoil(_: int, ds: Dataset) -> None:
        ds.PatientSex = "U"
        for keyword, value in (("PatientBirthDate", "unknown"), ("StudyTime", "9:30"), ("PatientAge", "58")):
            ds[keyword] = pydicom.DataElement(keyword, dictionary_VR(keyword), value, validation_mode=0)

    analysis = analyse(tmp_path, edit=spoil)
    for path in write_set(analysis, make_context(), tmp_path / "out").values():
        assert validators.dciodvfy(tool, path, *validators.FROM_THE_SOURCE) == []


@pytest.mark.parametrize(
    ("terms", "name"),
    [
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO_IR 127", "قباني^لنزار"),
        ("ISO_IR 100", "Müller^Zoë"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
    ],
    ids=["Korean", "Arabic", "Latin-1", "UTF-8"],
)
def test_names_of_any_alphabet_reach_every_object(tmp_path: Path, terms: Any, name: str) -> None:
    analysis = analyse(tmp_path, attributes={"SpecificCharacterSet": terms, "PatientName": name})
    for ds in build_set(analysis, make_context(profile=FULL)).values():
        assert str(ds.PatientName) == name
        assert ds.SpecificCharacterSet == terms


@pytest.mark.data
@pytest.mark.parametrize("series", ["philips-a0001-s2", "siemens-a0002-b40f"])
def test_a_real_series_gives_valid_objects(shared_data: Path, tool: Tool, tmp_path: Path, series: str) -> None:
    """Two vendors' headers; the masks are made up of what is dense and what is air, they are not looked at."""
    files = sorted((shared_data / "ct" / series).glob("*.dcm"))
    ct = volume.load(files, PipelineSettings())
    labels = np.zeros(ct.hu.shape, np.uint8)
    rows, columns = slice(150, 350), ct.hu.shape[2] // 2
    labels[5:-5, rows, 100:columns][ct.hu[5:-5, rows, 100:columns] < -700] = 1
    labels[5:-5, rows, columns:-100][ct.hu[5:-5, rows, columns:-100] < -700] = 2
    infection = (labels > 0) & (ct.hu > -850)
    lesions = LesionMasks(infection, infection & (ct.hu > -800))
    analysis = analysis_of(ct, LungMask(labels, "test"), lesions)
    paths = write_set(analysis, make_context(profile=FULL), tmp_path / "out")
    for path in paths.values():
        assert validators.dciodvfy(tool, path, *validators.FROM_THE_SOURCE) == []
    read = validators.segimage2itkimage(tool, paths[ResultKind.LESIONS], tmp_path / "itk")
    np.testing.assert_array_equal(on_grid(read["Opacity"], analysis), infection)
