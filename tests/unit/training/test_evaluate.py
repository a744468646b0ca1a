"""Evaluation goes through the node's own steps and writes all or nothing: figures, tables, page."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from pipeline import package, phantom, scores
from pipeline.arrays import CtVolume, LesionMasks, LungMask
from pipeline.phantom import PhantomSpec
from pipeline.types import PipelineSettings, Region
from tests.fixtures.judged import by_intensity
from training import cli, cohort, evaluate, judge
from training.cohort import Case
from training.dataset import Source
from training.errors import CohortError
from training.evaluate import Plan
from training.judge import Found, Judged

SETTINGS = PipelineSettings(device="cpu")
SPEC = PhantomSpec(slices=24, rows=128, columns=128, slice_spacing_mm=12.0, noise_hu=5.0)


@pytest.fixture(scope="module")
def made() -> phantom.Phantom:
    return phantom.make(SPEC, seed=1)


@pytest.fixture(scope="module")
def study(made: phantom.Phantom) -> Source:
    label = made.lesions.infection.astype(np.uint8) + made.lesions.consolidation
    return Source(Case("study", "study", Path("study")), made.hu, label, None, made.spacing_mm)


def single(study: Source, k: int = 12) -> Source:
    return replace(study, hu=study.hu[k : k + 1], label=None if study.label is None else study.label[k : k + 1])


def count(source: Source, found: Found | None = None) -> Judged:
    model = by_intensity()
    return judge.judge(source, found or judge.find(source, model, SETTINGS), model.manifest.preprocessing)


@pytest.fixture(scope="module")
def real(study: Source) -> tuple[Found, list[float]]:
    """The volume with its neighbours, and how far these differed from each centre slice."""
    model = by_intensity()
    return judge.find(study, model, SETTINGS), model.unet1.neighbours  # type: ignore[return-value]


def _solid(hu: np.ndarray) -> np.ndarray:
    """A body without lungs, in air."""
    solid = np.full_like(hu, 40)
    solid[:, :8] = -1000
    return solid


class TestOneCase:
    def test_a_volume_is_judged_with_its_real_neighbours(
        self, study: Source, real: tuple[Found, list[float]]
    ) -> None:
        found, neighbours = real
        one = count(study, found)
        assert one.pixels is not None
        assert one.pixels.labelled["infection"] == int((study.label >= 1).sum())  # type: ignore[operator]
        assert one.pixels.inside["infection"] > 0.8 * one.pixels.labelled["infection"]
        assert one.pixels.scores["infection"].dice > 0.4
        assert one.pixels.scores["consolidation"].both > 0
        assert min(neighbours) > 0

    def test_its_scores_are_those_of_the_node(self, study: Source, real: tuple[Found, list[float]]) -> None:
        found, _ = real
        one = count(study, found)
        slice_mm, row_mm, column_mm = study.spacing_mm
        ct = CtVolume(study.hu, np.diag([column_mm, row_mm, slice_mm, 1.0]), tuple(Dataset() for _ in study.hu))
        told = scores.measure(ct, LungMask(found.lungs.astype(np.uint8), ""), found.lesions).regions[Region.BOTH]
        assert one.share("infection") == pytest.approx(told.severity_score)
        assert one.share("consolidation") == pytest.approx(told.consolidation_score)

    def test_repeated_shows_each_slice_to_itself(self, study: Source, made: phantom.Phantom) -> None:
        some = slice(10, 14)
        part = replace(study, hu=study.hu[some], label=None, lung=made.lungs.both[some])
        model = by_intensity()
        found = judge.find(part, model, SETTINGS, repeated=True)
        assert model.unet1.neighbours[3::7] == [0.0] * 4  # type: ignore[index]
        real = judge.find(part, by_intensity(), SETTINGS)
        np.testing.assert_array_equal(found.lesions.infection, real.lesions.infection)
        np.testing.assert_array_equal(found.consolidated, real.consolidated)

    def test_a_single_slice_is_a_stack_of_itself(self, study: Source) -> None:
        one = single(study)
        model = by_intensity()
        found = judge.find(one, model, SETTINGS)
        assert found.lungs.shape == one.hu.shape
        assert model.unet1.neighbours[3::7] == [0.0]  # type: ignore[index]
        assert len(found.consolidated) == found.lesions.infection.sum() > 0
        counted = count(one, found)
        assert counted.pixels is not None
        assert counted.pixels.scores["infection"].dice > 0.3

    def test_little_lung_in_a_slice_is_lung(self, study: Source) -> None:
        base = single(study, 3)
        found = judge.find(base, by_intensity(), SETTINGS)
        assert not found.fault
        area_cm2 = found.lungs.sum() * study.spacing_mm[1] * study.spacing_mm[2] / 100
        assert 10 < area_cm2 < 300

    @pytest.mark.parametrize("whole", [True, False])
    def test_a_case_without_lungs_counts_as_nothing_found(self, study: Source, whole: bool) -> None:
        solid = replace(study, hu=_solid(study.hu))
        one = count(solid if whole else single(solid))
        assert one.fault.startswith("no lungs found")
        assert one.pixels is not None
        assert one.pixels.inside["infection"] == 0
        assert one.pixels.scores["infection"].dice == 0

    def test_given_lungs_take_the_place_of_the_pipelines(self, study: Source, made: phantom.Phantom) -> None:
        half = made.lungs.both.copy()
        half[:, :, :64] = False
        found = judge.find(replace(study, lung=half), by_intensity(), SETTINGS)
        np.testing.assert_array_equal(found.lungs, half)
        assert not found.lesions.infection[:, :, :64].any()
        empty = judge.find(replace(study, lung=np.zeros_like(half)), by_intensity(), SETTINGS)
        assert empty.fault == "the lung mask is empty"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "load", lambda _: by_intensity())


def make_folder(study: Source, root: Path) -> Path:
    """A volume, a slice, a case without label and one without lungs."""
    assert study.label is not None
    images = {
        "volume": (study.hu, study.label),
        "slice": (study.hu[12:13], study.label[12:13]),
        "unlabelled": (study.hu[:12], None),
        "solid<b>": (_solid(study.hu[:2]), study.label[10:12]),
    }
    for name, (hu, label) in images.items():
        write(root / "ct" / f"{name}.nii.gz", hu, study.spacing_mm)
        if label is not None:
            write(root / "label" / f"{name}.nii.gz", label, study.spacing_mm)
    rows = "volume,1,north,1\nslice,1,north,\nunlabelled,2,$south$,0\nsolid<b>,3,$south$,\n"
    (root / "cases.csv").write_text(f"case,patient,site,consolidation\n{rows}")
    return root


@pytest.fixture
def folder(study: Source, tmp_path: Path, fake: None) -> Path:
    return make_folder(study, tmp_path / "cohort")


def write(path: Path, array: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_mm[::-1])
    sitk.WriteImage(image, str(path))


def plan(root: Path, lungs: str = "pipeline") -> Plan:
    started = datetime(2026, 1, 1, tzinfo=UTC)
    return Plan("Evaluation on <cohort>", cohort.read(root), SETTINGS, lungs, repeated=False, started=started)


@pytest.fixture(scope="module")
def written(study: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "load", lambda _: by_intensity())
        evaluate.evaluate(plan(make_folder(study, root / "cohort")), root / "out")
    return root / "out"


class TestFiles:
    def test_metrics_have_the_keys_that_others_read(self, written: Path) -> None:
        metrics = json.loads((written / "metrics.json").read_text())
        for figure in ("infection", "consolidation", "threshold"):
            assert 0 <= metrics[figure]["dice_case_mean"] <= 1
            assert 0 <= metrics[figure]["dice_pooled"] <= 1
        assert 0 < metrics["lungs"]["infection_inside"] < 1
        assert 0 < metrics["lungs"]["consolidation_inside"] < 1
        assert {"pearson_r", "pearson_r_ci"} <= set(metrics["severity"])
        assert {"auc", "auc_ci", "u", "p_two_sided", "p_one_sided"} <= set(metrics["mann_whitney"])
        assert metrics["model"] == {"name": "fake", "version": "1", "digest": "0"}
        assert set(metrics["sites"]) == {"north", "$south$"}
        assert metrics["cohort"]["single_slices"] == 1

    def test_every_case_is_a_row_that_agrees_with_the_metrics(self, written: Path) -> None:
        rows = {row["case"]: row for row in csv.DictReader((written / "cases.csv").open())}
        assert list(rows) == ["slice", "solid<b>", "unlabelled", "volume"]
        assert rows["solid<b>"]["lungs"].startswith("no lungs found")
        assert rows["unlabelled"]["infection_dice"] == ""
        assert (rows["unlabelled"]["consolidation"], rows["slice"]["consolidation"]) == ("0", "0")
        metrics = json.loads((written / "metrics.json").read_text())
        dice = [float(row["infection_dice"]) for row in rows.values() if row["infection_dice"]]
        assert np.mean(dice) == pytest.approx(metrics["infection"]["dice_case_mean"], abs=1e-5)

    def test_the_page_stands_alone_and_escapes_names(self, written: Path) -> None:
        text = (written / "evaluation.html").read_text()
        assert len(re.findall(r'<img alt="[^"]+" src="data:image/png;base64,', text)) == 8
        assert not re.search(r"<script|<link|<iframe|src=\"(?!data:)|href=|url\(", text)
        assert "Research use only" in text
        assert "solid&lt;b&gt;" in text
        assert "solid<b>" not in text
        assert "Evaluation on &lt;cohort&gt;" in text
        for number in range(2, 8):
            assert f"Figure {number}." in text
        assert "Bland-Altman" in text

    def test_nothing_else_is_left(self, written: Path) -> None:
        names = sorted(path.name for path in written.iterdir())
        assert names == ["cases.csv", "evaluation.html", "metrics.json", "summary.md"]

    def test_a_failure_leaves_what_was_there(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "cases.csv").write_text("case,consolidation\nslice,0\n")
        out = tmp_path / "out"
        out.mkdir()
        (out / "metrics.json").write_text("of the run before")

        def fail(*_: object) -> None:
            raise RuntimeError("the page fails")

        monkeypatch.setattr(evaluate, "page", fail)
        with pytest.raises(RuntimeError, match="the page fails"):
            evaluate.evaluate(plan(folder), out)
        assert [path.name for path in out.iterdir()] == ["metrics.json"]
        assert (out / "metrics.json").read_text() == "of the run before"


class TestRefusals:
    def test_every_bad_case_is_told_before_anything_is_analysed(self, folder: Path, tmp_path: Path) -> None:
        write(folder / "label" / "slice.nii.gz", np.zeros((1, 8, 8), np.uint8), (12.0, 1.0, 1.0))
        (folder / "ct" / "unlabelled.nii.gz").write_bytes(b"no image")
        with pytest.raises(CohortError) as told:
            evaluate.evaluate(plan(folder), tmp_path / "out")
        assert "slice: the label has another grid than the image" in str(told.value)
        assert "unlabelled.nii.gz cannot be read" in str(told.value)
        assert not (tmp_path / "out").exists()

    def test_lungs_of_the_cohort_must_be_there(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(CohortError, match="volume has no lung mask"):
            evaluate.evaluate(plan(folder, "cohort"), tmp_path / "out")

    def test_a_cohort_without_any_truth_is_refused(self, folder: Path, tmp_path: Path) -> None:
        (folder / "cases.csv").write_text("case\nunlabelled\n")
        with pytest.raises(CohortError, match="nothing to compare with"):
            evaluate.evaluate(plan(folder), tmp_path / "out")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--labels", "labl"], "labl with labels"),
            (["--lungs", "weights"], "go together"),
            (["--lung-weights", "r231.pth"], "go together"),
            (["--split", "test"], "no case of the split 'test'"),
        ],
    )
    def test_the_command_says_what_is_wrong(
        self, folder: Path, tmp_path: Path, options: list[str], words: str
    ) -> None:
        command = ["evaluate", "--cohort", str(folder), "--out", str(tmp_path / "out"), *options]
        result = CliRunner().invoke(cli.app, command)
        assert isinstance(result.exception, CohortError)
        assert words in str(result.exception)

    def test_the_command_runs(self, folder: Path, tmp_path: Path) -> None:
        (folder / "cases.csv").write_text("case\nslice\nsolid<b>\n")
        out = tmp_path / "out"
        result = CliRunner().invoke(cli.app, ["evaluate", "--cohort", str(folder), "--out", str(out)])
        assert result.exit_code == 0, result.output
        assert "no lungs found in solid<b>" in result.output
        assert str(out / "evaluation.html") in result.output


def test_a_case_of_dicom_instances_is_a_case(tmp_path: Path, fake: None) -> None:
    spec = PhantomSpec(slices=16, rows=64, columns=64, slice_spacing_mm=10.0)
    phantom.write_series(phantom.make(spec), tmp_path / "cohort" / "ct" / "series")
    (tmp_path / "cohort" / "cases.csv").write_text("case,consolidation\nseries,1\n")
    metrics = evaluate.evaluate(plan(tmp_path / "cohort"), tmp_path / "out")
    assert metrics["mann_whitney"]["positive"]["cases"] == 1
    assert metrics["mann_whitney"]["positive"]["mean"] > 0


def test_empty_masks_are_masks(study: Source) -> None:
    empty = np.zeros(study.hu.shape, np.bool_)
    found = Found(study.hu < 0, LesionMasks(empty, empty), np.zeros(0, np.float32))
    one = judge.judge(study, found, by_intensity().manifest.preprocessing)
    assert one.share("infection") == 0
