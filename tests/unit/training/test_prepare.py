"""Preparing a cohort: verified first, rejected in writing, restartable, and the same arrays that training makes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from distributed import KilledWorker

from dicom_node.worker_pool import WorkerDied, WorkerPool
from pipeline.preprocess import Preprocessing
from pipeline.unet import Architecture, UNet
from tests.fixtures.studies import chest
from training import data, prepare, prepared, runs
from training.data import Folders, Setting
from training.errors import CohortError
from training.recipes import EmRecipe, Recipe
from training.runs import Where

SMALL = Preprocessing(rows=32, columns=32)
SETTING = Setting(architecture=Architecture(features=4), preprocessing=SMALL, lungs="cohort")
HEADING = "case,patient,ggo,consolidation\n"


@pytest.fixture
def workers() -> Iterator[tuple[Executor, int]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool, 1


def write(path: Path, array: np.ndarray[Any, Any], origin: tuple[float, float, float] = (0, 0, 0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((5.6, 5.6, 9.0))
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four small chests: two labelled, two with patient-level labels alone."""
    root = tmp_path / "cohort"
    kinds = {"a": "both", "b": "ggo", "c": "both", "d": "healthy"}
    for seed, (name, kind) in enumerate(kinds.items()):
        drawn = chest(kind, seed)
        write(root / "ct" / f"{name}.nii.gz", drawn.hu)
        write(root / "lung" / f"{name}.nii.gz", drawn.lungs.labels)
        if name in "ab":
            label = drawn.lesions.infection.astype(np.uint8) + drawn.lesions.consolidation
            write(root / "label" / f"{name}.nii.gz", label)
    (root / "cases.csv").write_text(HEADING + "a,1,1,1\nb,2,1,0\nc,3,,1\nd,4,0,0\n")
    return root


def made(folder: Path, out: Path, workers: tuple[Executor, int]) -> prepare.Outcome:
    return prepare.prepare(folder, out, SMALL, prepare.Lungs("cohort"), workers)


def test_prepared_arrays_are_those_that_training_makes(
    folder: Path, tmp_path: Path, workers: tuple[Executor, int]
) -> None:
    out = tmp_path / "prepared"
    assert [entry.case.name for entry in made(folder, out, workers).entries] == ["a", "b", "c", "d"]
    one, two = (data.read(place, SETTING, ("train",)) for place in (folder, out))
    assert one.hashes == two.hashes
    for mine, mapped in zip(one.examples, two.examples, strict=True):
        assert (mine.name, mine.positive) == (mapped.name, mapped.positive)
        for array in ("values", "label", "lung"):
            assert torch.equal(getattr(mine, array), getattr(mapped, array))
    held, mapped_held = (data.held(place, SETTING) for place in (folder, out))
    assert held.sha256 == mapped_held.sha256
    assert [case.name for case in mapped_held.cases] == ["a", "b"]
    for own, other in zip(held.held, mapped_held.held, strict=True):
        np.testing.assert_array_equal(own.source.hu, other.source.hu)
        np.testing.assert_array_equal(own.source.label, other.source.label)
        np.testing.assert_array_equal(own.lung, other.lung)
        assert own.source.spacing_mm == pytest.approx(other.source.spacing_mm)


def test_arrays_are_mapped_not_read(folder: Path, tmp_path: Path, workers: tuple[Executor, int]) -> None:
    out = tmp_path / "prepared"
    made(folder, out, workers)
    read = data.read(out, SETTING, ("train",))
    maps = Path("/proc/self/maps").read_text()
    assert all(f"{name}.safetensors" in maps for name in "abcd")
    assert len(read.examples) == 4


def test_it_goes_on_where_it_was_and_sees_what_changed(
    folder: Path, tmp_path: Path, workers: tuple[Executor, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "prepared"
    whole, calls = prepare.prepare_case, []

    def interrupted(job: prepare.Job) -> prepare.Done:
        calls.append(job.case.name)
        if job.case.name == "c":
            (out / "arrays" / ".part-1-c.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        return whole(job)

    monkeypatch.setattr(prepare, "prepare_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(folder, out, workers)
    with pytest.raises(CohortError, match="is not finished"):
        data.read(out, SETTING, ("train",))
    monkeypatch.undo()
    again = made(folder, out, workers)
    assert again.kept == 2
    assert len(again.entries) == 4
    assert sorted(path.name for path in (out / "arrays").iterdir()) == [f"{name}.safetensors" for name in "abcd"]
    assert made(folder, out, workers).kept == 4
    drawn = chest("both", 9)
    write(folder / "ct" / "a.nii.gz", drawn.hu)
    assert made(folder, out, workers).kept == 3


BAD = {
    "a NaN": "not numbers",
    "stored values": "not Hounsfield units",
    "scaled": "show no air",
    "other size": "another grid",
    "elsewhere": "lies elsewhere",
    "three": "the label holds 3",
    "empty": "the label is empty, but the table says ggo = 1 and consolidation = 1",
    "contrary": "the table says consolidation = 0",
    "no file": "cannot be read",
    "no lung": "no lung mask",
    "empty lung": "the lung mask is empty",
}


def spoil(root: Path, how: str) -> None:
    """Make the case `a` unfit."""
    image, label, lung = (root / name / "a.nii.gz" for name in ("ct", "label", "lung"))
    hu = chest("both").hu
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(label)))
    spoiled = {
        "a NaN": lambda: write(image, np.where(hu > 100, np.nan, hu).astype(np.float32)),
        "stored values": lambda: write(image, hu + 1024),
        "scaled": lambda: write(image, ((hu + 1024) / 2000).astype(np.float32)),
        "other size": lambda: write(label, mask[:-1]),
        "elsewhere": lambda: write(label, mask, (40, 0, 0)),
        "three": lambda: write(label, np.full_like(mask, 3)),
        "empty": lambda: write(label, np.zeros_like(mask)),
        "contrary": lambda: (root / "cases.csv").write_text(
            (root / "cases.csv").read_text().replace("a,1,1,1", "a,1,1,0")
        ),
        "no file": lambda: image.write_bytes(b"no image"),
        "no lung": lambda: lung.unlink(),
        "empty lung": lambda: write(lung, np.zeros_like(mask)),
    }
    spoiled[how]()


@pytest.mark.parametrize("how", BAD)
def test_a_case_that_is_unfit_is_rejected_with_its_reason(
    folder: Path, tmp_path: Path, workers: tuple[Executor, int], how: str
) -> None:
    spoil(folder, how)
    outcome = made(folder, tmp_path / "prepared", workers)
    assert set(outcome.rejected) == {"a"}
    assert BAD[how] in outcome.rejected["a"]
    with (tmp_path / "prepared" / "rejected.csv").open() as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["a"]
    assert not (tmp_path / "prepared" / "arrays" / "a.safetensors").exists()


def test_one_image_under_two_names_counts_once(folder: Path, tmp_path: Path, workers: tuple[Executor, int]) -> None:
    for name in ("e", "f"):
        for kind in ("ct", "lung"):
            (folder / kind / f"{name}.nii.gz").write_bytes((folder / kind / "d.nii.gz").read_bytes())
    for name in ("g",):
        for kind in ("ct", "lung"):
            (folder / kind / f"{name}.nii.gz").write_bytes((folder / kind / "c.nii.gz").read_bytes())
    with (folder / "cases.csv").open("a") as file:
        file.write("e,5,0,0\nf,6,0,0\ng,7,,0\n")
    outcome = made(folder, tmp_path / "prepared", workers)
    assert [entry.case.name for entry in outcome.entries] == ["a", "b", "d"]
    assert outcome.rejected["e"] == "the same image as d"
    assert "different labels: c, g" in outcome.rejected["c"]


DEATHS = {
    "the worker process died (signal SIGKILL)": WorkerDied("the worker process died (signal SIGKILL)"),
    "Attempted to run task 'b'": KilledWorker("b", SimpleNamespace(address="tcp://host:1"), 3),
}


@pytest.mark.parametrize("says", DEATHS)
def test_a_worker_that_dies_rejects_its_case_alone(folder: Path, tmp_path: Path, says: str) -> None:
    class Mortal(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            def died(job: prepare.Job) -> prepare.Done:
                if job.case.name == "b":
                    raise DEATHS[says]
                return prepare.prepare_case(job)

            return super().submit(died, *args, **kwargs)

    with Mortal(2) as pool:
        outcome = made(folder, tmp_path / "prepared", (pool, 2))
    assert list(outcome.rejected) == ["b"]
    assert outcome.rejected["b"].startswith(f"its preparation was stopped: {says}")
    assert len(outcome.entries) == 3


def test_another_way_of_preparing_is_refused(folder: Path, tmp_path: Path, workers: tuple[Executor, int]) -> None:
    out = tmp_path / "prepared"
    made(folder, out, workers)
    with pytest.raises(CohortError, match="give --lungs cohort"):
        data.read(out, SETTING.model_copy(update={"lungs": "none"}), ("train",))
    with pytest.raises(CohortError, match="prepared in another way"):
        prepare.prepare(folder, out, SMALL, prepare.Lungs("none"), workers)
    (out / "arrays" / "a.safetensors").write_bytes(b"damaged")
    with pytest.raises(CohortError, match="prepare the cohort again"):
        data.read(out, SETTING, ("train",))
    (out / "arrays" / "a.safetensors").unlink()
    with pytest.raises(CohortError, match="has lost the arrays of 1 cases"):
        data.read(out, SETTING, ("train",))


def test_a_cohort_without_a_fit_case_is_an_error(
    folder: Path, tmp_path: Path, workers: tuple[Executor, int]
) -> None:
    for path in (folder / "lung").iterdir():
        path.unlink()
    with pytest.raises(CohortError, match="no case of .* is fit for training"):
        made(folder, tmp_path / "prepared", workers)


def test_processes_of_the_node_prepare_too(folder: Path, tmp_path: Path) -> None:
    with prepare.executor(1) as workers:
        assert isinstance(workers[0], WorkerPool)
        assert len(made(folder, tmp_path / "prepared", workers).entries) == 4


def test_a_dask_scheduler_prepares_too(folder: Path, tmp_path: Path) -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        prepare.executor(0, cluster.scheduler_address) as workers,
    ):
        assert workers[1] == 2
        assert len(made(folder, tmp_path / "prepared", workers).entries) == 4


def test_a_scheduler_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CohortError, match="does not answer"), prepare.executor(0, "nonsense://x"):
        pass


ONE = Recipe(name="one", epochs=1, batch=4, rate=1e-3, loss="bce_dice", masked=1.0)
TWO = EmRecipe(name="two", epochs=1, batch=4, rate=1e-3, schedule="constant", masked=1.0)


def test_unet1_learns_from_contoured_cases_and_unet2_from_all_that_are_known(
    folder: Path, tmp_path: Path, workers: tuple[Executor, int]
) -> None:
    out = tmp_path / "prepared"
    made(folder, out, workers)
    runs.all_data_unet1(Folders(out), SETTING, ONE, 1, Where(tmp_path / "one", "cpu"))
    assert '"a", "b"' in " ".join((tmp_path / "one" / "run.json").read_text().split())
    runs.all_data_unet2(Folders(out), SETTING, TWO, tmp_path / "one", 1, Where(tmp_path / "two", "cpu"))
    regions = sorted(path.name for path in (tmp_path / "two" / "regions").iterdir())
    assert regions == ["c.safetensors", "d.safetensors"]
    assert isinstance(
        runs.all_data_unet2(Folders(out), SETTING, TWO, tmp_path / "one", 1, Where(tmp_path / "two", "cpu")), UNet
    )


def test_held_out_splits_are_not_trained_on(folder: Path) -> None:
    (folder / "cases.csv").write_text("case,split,consolidation\na,train,1\nb,test,0\nc,validation,1\nd,train,0\n")
    train = data.read(folder, SETTING, ("train",))
    assert [case.name for case in train.cases] == ["a", "d"]
    assert [case.name for case in data.held(folder, SETTING).cases] == ["a"]
    (folder / "label" / "a.nii.gz").unlink()
    with pytest.raises(CohortError, match="no training case of .* has a pixel label"):
        data.pool(Folders(folder), SETTING)
    with pytest.raises(CohortError, match="outside its test split"):
        data.held(folder, SETTING)


def test_a_mark_changes_with_what_it_follows_from(folder: Path) -> None:
    (case, *_) = data.cohort.read(folder)
    marks = {
        prepare._mark(case, SMALL, prepare.Lungs("none")),
        prepare._mark(case, SMALL, prepare.Lungs("builtin")),
        prepare._mark(case, Preprocessing(), prepare.Lungs("none")),
        prepare._mark(replace(case, consolidation=None), SMALL, prepare.Lungs("none")),
        prepare._mark(replace(case, label=None), SMALL, prepare.Lungs("none")),
    }
    assert len(marks) == 5
    assert prepared.notes_of(folder / "none") == {}
