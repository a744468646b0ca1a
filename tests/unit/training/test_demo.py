"""The first hour of a researcher, in seconds: from nothing to a package and a page, and again from where it was."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import package
from pipeline.phantom import PhantomSpec
from training import cli, demo, evaluate
from training.errors import RunError

TINY = demo.Size(
    train=3,
    test=3,
    spec=PhantomSpec(slices=12, rows=64, columns=64, slice_spacing_mm=25.0, noise_hu=8.0),
    grid=64,
    features=4,
    epochs=2,
    em_epochs=2,
)


def quiet(items, words):
    return items


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hour")


@pytest.fixture(scope="module")
def outcome(folder: Path) -> demo.Outcome:
    return demo.run(folder, TINY, 1, "cpu", quiet)


def test_studies_that_nothing_has_seen_are_beside_their_truth(folder: Path, outcome: demo.Outcome) -> None:
    with (folder / "cohort" / "cases.csv").open() as file:
        split = {row["case"]: row["split"] for row in csv.DictReader(file)}
    trained = json.loads((folder / "unet2" / "run.json").read_text())["train"]
    assert {split[name] for name in trained} == {"train"}
    assert {row.case for row in outcome.rows} == {name for name, part in split.items() if part == "test"}
    both, ggo, healthy = sorted(outcome.rows, key=lambda row: row.case)
    assert both.severity_truth > both.consolidation_truth > 0
    assert ggo.severity_truth > ggo.consolidation_truth == 0
    assert healthy.severity_truth == 0


def test_a_package_and_a_page_are_made(folder: Path, outcome: demo.Outcome) -> None:
    assert package.load(folder / "package").identity.name == "toy"
    assert demo.TITLE in (folder / "evaluation" / "evaluation.html").read_text()
    assert all(seconds > 0 for seconds in outcome.seconds.values())


def test_it_is_taken_up_again(folder: Path, outcome: demo.Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was interrupted in the evaluation trains no second time; the evaluation itself is tested elsewhere."""
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: outcome.metrics)
    weights = folder / "unet2" / "network.safetensors"
    before = weights.read_bytes(), (folder / "unet1" / "log.csv").read_text()
    assert demo.run(folder, TINY, 1, "cpu", quiet).rows == outcome.rows
    assert (weights.read_bytes(), (folder / "unet1" / "log.csv").read_text()) == before


def test_a_folder_with_another_one_is_refused(folder: Path, outcome: demo.Outcome) -> None:
    bigger = demo.Size(**{**vars(TINY), "train": 6})
    with pytest.raises(RunError, match="holds another cohort"):
        demo.run(folder, bigger, 1, "cpu", quiet)


def test_the_command_says_what_it_made(
    folder: Path, outcome: demo.Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "run", lambda *_: outcome)
    said = CliRunner().invoke(cli.app, ["demo", "--out", str(folder)], env={"COLUMNS": "200"})
    assert said.exit_code == 0
    assert str(folder / "evaluation" / "evaluation.html") in said.output
    assert "toy" in said.output.lower()
    for row in outcome.rows:
        assert row.case in said.output
    told = json.loads(CliRunner().invoke(cli.app, ["demo", "--out", str(folder), "--json"]).stdout)
    assert [row["case"] for row in told["cases"]] == [row.case for row in outcome.rows]
