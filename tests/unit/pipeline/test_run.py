"""Files in, result set out: what lies in the folder afterwards, and what is passed over on the way in."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest

from pipeline import phantom, picture, run, series_files
from pipeline.errors import ResultError, SeriesRejected
from pipeline.types import AnalysisRequest, PipelineSettings, Profile, ResultKind

SPEC = phantom.PhantomSpec(slices=16, rows=64, columns=64, slice_spacing_mm=10.0)
HEALTHY = phantom.PhantomSpec(slices=16, rows=64, columns=64, slice_spacing_mm=10.0, lesions=())
CREATED = datetime(2026, 3, 1, 14, 30, tzinfo=UTC)
SETTINGS = PipelineSettings(device="cpu", threads=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return phantom.write_series(phantom.make(SPEC), tmp_path_factory.mktemp("ct"))


def request(files: list[Path], out: Path, *profiles: Profile) -> AnalysisRequest:
    return AnalysisRequest(tuple(files), out, SETTINGS, profiles or (Profile(),), CREATED, completeness="told so")


def test_one_set_per_profile_and_the_same_bytes_when_done_again(files: list[Path], tmp_path: Path) -> None:
    profiles = (Profile(), Profile("all", seg="LABELMAP", lungs_seg=True, key_slices=True))
    first = run.analyse_series(request(files, tmp_path, *profiles))
    kinds = {name: [o.kind for o in first.objects if o.profile == name] for name in ("default", "all")}
    assert kinds == {
        "default": [ResultKind.LESIONS, ResultKind.PICTURE, ResultKind.SR],
        "all": [ResultKind.LESIONS, ResultKind.LUNGS, ResultKind.PICTURE, ResultKind.SR],
    }
    assert len({o.reference.sop_instance_uid for o in first.objects}) == 7
    for item in first.objects:
        ds = pydicom.dcmread(item.path)
        assert str(ds.SOPInstanceUID) == item.reference.sop_instance_uid
    second = run.analyse_series(request(files, tmp_path, *profiles))
    assert [(o.reference, o.sha256) for o in second.objects] == [(o.reference, o.sha256) for o in first.objects]
    assert second.report == first.report


def test_nothing_of_an_earlier_set_is_left_and_nothing_else_is_touched(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("seg.dcm", "lungs.dcm", "notes.txt"):
        (out / name).write_text("of somebody else")
    result = run.process_folder(files, out, SETTINGS, Profile(seg="NONE", picture=False), CREATED)
    assert sorted(path.name for path in out.iterdir()) == ["notes.txt", "result.json", "sr.dcm"]
    assert (out / "notes.txt").read_text() == "of somebody else"
    assert json.loads((out / "result.json").read_text()) == result.report


def test_a_healthy_chest_gives_a_report_with_explicit_figures(tmp_path: Path) -> None:
    files = phantom.write_series(phantom.make(HEALTHY), tmp_path / "ct")
    outcome = run.analyse_series(request(files, tmp_path / "out"))
    assert outcome.report["severity_class"] == "< 5 %"
    assert ResultKind.SR in {item.kind for item in outcome.objects}


def test_the_report_has_the_promised_keys(files: list[Path], tmp_path: Path) -> None:
    report = run.process_folder(files, tmp_path, SETTINGS, Profile(), CREATED).report
    figures = {"severity_score", "consolidation_score", "lung_volume_ml", "infection_volume_ml"}
    figures |= {"consolidation_volume_ml"}
    assert figures | {"lungs_method", "model", "flags", "series_uid", "left", "right"} <= report.keys()
    assert figures <= report["left"].keys() and figures <= report["right"].keys()
    assert report["series_uid"] == str(pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)
    both = report["left"]["lung_volume_ml"] + report["right"]["lung_volume_ml"]
    assert both == pytest.approx(report["lung_volume_ml"])


def test_other_files_of_an_export_are_passed_over(tmp_path: Path) -> None:
    files = phantom.write_series(phantom.make(SPEC), tmp_path / "ct")
    (tmp_path / "README").write_text("not DICOM")
    localizer = pydicom.dcmread(files[0])
    localizer.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    localizer.SeriesInstanceUID = "1.2.3"
    localizer.save_as(tmp_path / "capture.dcm")
    del localizer.SeriesInstanceUID
    localizer.save_as(tmp_path / "DICOMDIR")
    (tmp_path / "._IM0001.dcm").write_bytes(b"\0\5\26\7 of macOS")
    (only,) = series_files.series_in(tmp_path).values()
    assert only == files


@pytest.mark.parametrize(("name", "length"), [("damaged", 200), ("damaged.dcm", 200), ("empty.DCM", 0)])
def test_a_damaged_file_is_told_for_it_may_be_a_slice(
    tmp_path: Path, name: str, length: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """One at either end of the stack would not be missed."""
    files = phantom.write_series(phantom.make(SPEC), tmp_path)
    (tmp_path / name).write_bytes(files[0].read_bytes()[:length])
    assert run.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert f"{name} cannot be read as DICOM" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_slice_whose_uids_are_empty_is_told(tmp_path: Path) -> None:
    """As exports write them whose class and instance stand in the file meta alone."""
    files = phantom.write_series(phantom.make(SPEC), tmp_path)
    last = pydicom.dcmread(files[-1])
    last.SOPClassUID = ""
    last.save_as(files[-1])
    (only,) = series_files.series_in(tmp_path).values()
    assert only == files
    with pytest.raises(SeriesRejected, match="SOPClassUID is missing or empty"):
        run.analyse(only, SETTINGS)
    last.SeriesInstanceUID = ""
    last.save_as(files[-1])
    with pytest.raises(SeriesRejected, match=f"{files[-1].name} cannot be read as DICOM .*of which series it is"):
        series_files.series_in(tmp_path)


def test_a_folder_without_dicom_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SeriesRejected, match="no DICOM files"):
        series_files.series_in(tmp_path)
    assert run.main([str(tmp_path)]) == 1
    assert "no DICOM files" in capsys.readouterr().err


def test_an_object_that_fails_its_checks_is_kept_and_nothing_of_the_set_is_there(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture comes after the SEG: neither may be left where deliveries are made from."""
    build = picture.build

    def wrong_patient(*arguments: Any) -> Any:
        ds = build(*arguments)
        assert ds is not None
        ds.PatientID = "SOMEBODY ELSE"
        return ds

    monkeypatch.setattr(picture, "build", wrong_patient)
    with pytest.raises(ResultError, match="PatientID is not the source's") as caught:
        run.analyse_series(request(files, tmp_path))
    (kept,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert kept == caught.value.rejected
    ds = pydicom.dcmread(kept)
    assert (ds.PatientID, kept.name) == ("SOMEBODY ELSE", f"rejected-{ds.SOPInstanceUID}.dcm")


def test_what_is_checked_is_the_file_not_what_was_meant(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = pydicom.dcmwrite

    def lose_a_frame(path: Path, ds: pydicom.Dataset, **options: Any) -> None:
        write(path, ds, **options)
        if ds.Modality == "SEG":
            ds = pydicom.dcmread(path)
            ds.PixelData = ds.PixelData[:-2]
            write(path, ds, **options)

    monkeypatch.setattr(pydicom, "dcmwrite", lose_a_frame)
    with pytest.raises(ResultError, match="pixels of another number are there"):
        run.analyse_series(request(files, tmp_path))
