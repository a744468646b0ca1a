"""`dicomnode-train … --json`: standard output is the answer alone, and errors are one too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node import cli_exit
from pipeline import phantom
from training import cli
from training.cli_options import console
from training.errors import TrainingError

SPEC = phantom.PhantomSpec(slices=12, rows=64, columns=64, slice_spacing_mm=10.0)


def run(*arguments: str | Path) -> int:
    """As `main` does."""
    expected = (TrainingError, *cli_exit.EXPECTED)
    return cli_exit.run(cli.app, [*map(str, arguments), "--json"], "dicomnode-train", expected)


@pytest.fixture(autouse=True)
def heard_again() -> Iterator[None]:
    """Other tests of this process read what the console says."""
    yield
    console.quiet = False


def test_a_cohort_counts_what_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom.write_series(phantom.make(SPEC), tmp_path / "ct")
    assert run("cohort", tmp_path / "cohort", "--from", tmp_path / "ct") == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"added", "rejected", "unmatched", "cases"}
    assert (len(answer["added"]), answer["cases"], answer["rejected"]) == (1, 1, {})


def test_an_error_is_an_object_and_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "--cohort", tmp_path, "--out", tmp_path / "out") == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["error"]["kind"] == "failed"
    assert json.loads(told.out)["error"]["text"] == told.err.strip()
    assert run("evaluate", "--cohort", tmp_path, "--out", tmp_path / "out", "--split", "none") == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "misused"
