"""Folds: every case scored once, taken up again, without a case that a start has seen."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.preprocess import Preprocessing
from tests.fixtures.squares import ONE, SETTING, TWO, write_cohort
from training import checkpoint, choice, crossval, loop, runs
from training.choice import Judgement
from training.crossval import CrossValidation
from training.data import Folders
from training.dataset import Example
from training.errors import CohortError, RunError
from training.recipes import EmRecipe
from training.runs import Where


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Cases c0 to c7."""
    return write_cohort(tmp_path / "cohort", "c")


def test_cross_validation_scores_every_case_once_and_resumes(folder: Path, tmp_path: Path) -> None:
    what = CrossValidation(Folders(folder), SETTING, [ONE], [TWO], folds=2, seed=1)
    where = Where(tmp_path / "cv", "cpu")
    metrics = crossval.cross_validate(what, where)
    assert set(metrics) == {"infection", "threshold", "two"}
    with (where.out / "infection.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["case"] for row in rows) == [f"c{k}" for k in range(8)]
    assert {row["fold"] for row in rows} == {"0", "1"}
    log = where.out / "one-fold0" / "log.csv"
    before = log.read_bytes()
    assert crossval.cross_validate(what, where) == metrics
    assert log.read_bytes() == before
    assert json.loads((where.out / "metrics.json").read_text()) == metrics


@pytest.mark.parametrize("stages", [("other", "second"), ("first", "other")])
def test_a_fold_takes_up_only_what_went_on_from_the_same_weights(
    folder: Path, tmp_path: Path, stages: tuple[str, str]
) -> None:
    recipe = {name: ONE.model_copy(update={"name": name}) for name in ("first", "second")}
    recipe["other"] = ONE.model_copy(update={"name": "other", "rate": 2e-3})
    first, second = (recipe[name] for name in ("first", "second"))
    what = CrossValidation(Folders(folder), SETTING, [first, second], [TWO], folds=2, seed=1)
    where = Where(tmp_path / "cv", "cpu")
    crossval.cross_validate(what, where)
    kept = {path: path.read_bytes() for path in where.out.glob("*/checkpoint.pt")}
    going_on = "second-fold0" if stages[0] == "other" else "two-fold0"
    with pytest.raises(RunError, match=f"{going_on} holds another run"):
        crossval.cross_validate(replace(what, stages=[recipe[name] for name in stages]), where)
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_a_fold_resumes_where_statistics_are_measured_a_little_differently(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with another number of threads."""
    averaged = ONE.model_copy(update={"average_last": 2})
    second = ONE.model_copy(update={"name": "second", "frozen_norm": True})
    what = CrossValidation(Folders(folder), SETTING, [averaged, second], [TWO], folds=2, seed=1)
    where = Where(tmp_path / "cv", "cpu")
    crossval.cross_validate(what, where)
    logs = {path: path.read_bytes() for path in where.out.glob("*/log.csv")}
    real = torch.optim.swa_utils.update_bn

    def update_bn(loader: Iterable[torch.Tensor], model: torch.nn.Module) -> None:
        real(loader, model)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d) and module.running_var is not None:
                module.running_var *= 1 + 1e-6

    monkeypatch.setattr(loop, "update_bn", update_bn)
    crossval.cross_validate(what, where)
    assert len(logs) == 6
    assert all(path.read_bytes() == content for path, content in logs.items())


def test_a_fold_tells_the_stages_that_it_goes_on_from(folder: Path, tmp_path: Path) -> None:
    other = write_cohort(tmp_path / "other", "d")
    runs.all_data_unet1(Folders(other), SETTING, ONE, 1, Where(tmp_path / "start", "cpu"))
    stages = [ONE.model_copy(update={"name": name}) for name in ("first", "second")]
    what = CrossValidation(Folders(folder), SETTING, stages, [TWO], folds=2, seed=1, start=tmp_path / "start")
    crossval.cross_validate(what, Where(tmp_path / "cv", "cpu"))
    story = checkpoint.story(tmp_path / "cv" / "two-fold1")
    assert [one["recipe"]["name"] for one in story] == ["one", "first", "second", "two"]
    assert not {"c0", "d0"} & set(json.dumps(story).split('"')), "names of cases stay where they are"


def test_specks_of_held_out_cases_are_left_out_as_the_node_does_of_the_rival_too(
    folder: Path, tmp_path: Path
) -> None:
    empty = ONE.model_copy(update={"rate": 1e-9})  # says neither yes nor no, everywhere
    found = {}
    for name, least_mm2 in (("all", 0.0), ("wide", 10_000.0)):  # an image has 4096 mm²
        recipe = TWO.model_copy(update={"consolidation_mm2": least_mm2})
        what = CrossValidation(Folders(folder), SETTING, [empty], [recipe], folds=2, seed=1)
        where = Where(tmp_path / name, "cpu")
        crossval.cross_validate(what, where)
        for path in where.out.glob("t*.csv"):
            with path.open() as file:
                counts = [(int(row["both"]), int(row["predicted_only"])) for row in csv.DictReader(file)]
            found[name, path.stem] = sum(one + other for one, other in counts)
    assert set(found) - {("all", "two"), ("all", "threshold"), ("wide", "two"), ("wide", "threshold")} == {
        ("wide", "threshold-from-10000mm2")
    }
    assert found["wide", "two"] == found["wide", "threshold-from-10000mm2"] == 0
    assert found["wide", "threshold"] == found["all", "threshold"] > 0
    assert found["all", "two"] > 0


def test_each_fold_chooses_its_prior_without_its_held_out_cases(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = TWO.model_copy(update={"name": "two-b7", "b2": 7.0})
    asked = []

    def judge(recipe: EmRecipe, cases: Sequence[Example], settings: Preprocessing) -> list[Judgement]:
        asked.append(sorted(case.name for case in cases))
        return [Judgement(recipe, 0.2, 0.9), Judgement(other, 0.3, 0.8)]

    monkeypatch.setattr(choice, "judge", judge)
    what = CrossValidation(Folders(folder), SETTING, [ONE], [TWO], folds=2, seed=1, choose=True)
    where = Where(tmp_path / "cv", "cpu")
    metrics = crossval.cross_validate(what, where)
    assert set(metrics) == {"infection", "threshold", "two", "two-by-pixel-labels", "two-by-image-labels"}
    assert (where.out / "choices.csv").read_text().splitlines()[1:] == [
        f"{fold},two-by-{way}"
        for fold in "01"
        for way in ("pixel-labels,two-b7,0.3000,0.8000", "image-labels,two,0.2000,0.9000")
    ]
    with (where.out / "infection.csv").open() as file:
        held_out = {row["case"] for row in csv.DictReader(file) if row["fold"] == "0"}
    assert sorted({f"c{k}" for k in range(8)} - held_out) == asked[0]
    run = json.loads((where.out / "two-b7-fold0" / "run.json").read_text())
    assert (run["recipe"]["b2"], run["train"]) == (7.0, asked[0])


def test_a_choice_that_cannot_be_made_is_refused_before_the_first_training(folder: Path, tmp_path: Path) -> None:
    (folder / "cases.csv").write_text("case,patient,consolidation\n" + "".join(f"c{k},p{k},1\n" for k in range(8)))
    what = CrossValidation(Folders(folder), SETTING, [ONE], [TWO], folds=2, seed=1, choose=True)
    with pytest.raises(CohortError, match="by image-labels: the training part has cases of one kind only"):
        crossval.cross_validate(what, Where(tmp_path / "cv", "cpu"))
    assert not (tmp_path / "cv" / "one-fold0").exists()
    with pytest.raises(RunError, match="name its recipe with --em"):
        crossval.cross_validate(replace(what, em=[]), Where(tmp_path / "cv", "cpu"))


def test_a_start_that_has_seen_the_cohort_is_refused_also_a_stage_later(folder: Path, tmp_path: Path) -> None:
    other = write_cohort(tmp_path / "other", "d")
    short = ONE.model_copy(update={"epochs": 1})
    runs.all_data_unet1(Folders(folder), SETTING, short, 1, Where(tmp_path / "one", "cpu"))
    runs.all_data_unet1(Folders(other), SETTING, short, 1, Where(tmp_path / "two", "cpu"), tmp_path / "one")
    for start in ("one", "two"):
        what = CrossValidation(Folders(folder), SETTING, [ONE], [], folds=2, seed=1, start=tmp_path / start)
        with pytest.raises(RunError, match="trained on 8 cases of the cohort"):
            crossval.cross_validate(what, Where(tmp_path / "cv", "cpu"))
