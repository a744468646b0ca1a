"""A run folder is claimed once; its files are whole, or it says what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from training import checkpoint
from training.errors import RunError

IDENTITY = {"recipe": {"name": "t"}, "seed": 3, "train": ["Doe^Jane"]}


def test_a_run_remembers_its_code_and_what_came_before(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    checkpoint.claim(first, IDENTITY, [])
    checkpoint.claim(second, {**IDENTITY, "seed": 4}, checkpoint.story(first))
    told = checkpoint.story(second)
    assert [run["seed"] for run in told] == [3, 4]
    assert all(run["software"] == checkpoint.code_version() for run in told)
    assert "Doe" not in json.dumps(told)
    assert re.fullmatch("[0-9a-f]{64}", told[0]["software"]["source"])


def test_a_folder_is_claimed_again_by_the_same_run_only(tmp_path: Path) -> None:
    checkpoint.claim(tmp_path, IDENTITY, [])
    kept = (tmp_path / checkpoint.RUN).read_bytes()
    checkpoint.claim(tmp_path, IDENTITY, ["another story"])
    assert (tmp_path / checkpoint.RUN).read_bytes() == kept
    with pytest.raises(RunError, match="holds another run"):
        checkpoint.claim(tmp_path, {**IDENTITY, "seed": 4}, [])


def test_run_json_of_an_earlier_version_is_known(tmp_path: Path) -> None:
    (tmp_path / checkpoint.RUN).write_text(json.dumps(IDENTITY))
    checkpoint.claim(tmp_path, IDENTITY, [])
    assert checkpoint.story(tmp_path) == [{"recipe": {"name": "t"}, "seed": 3}]


def test_damaged_files_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / checkpoint.RUN).write_text('{"recipe": ')
    with pytest.raises(RunError, match="remove the folder and train again"):
        checkpoint.claim(tmp_path, IDENTITY, [])
    checkpoint.save(tmp_path, {"value": torch.arange(1000)})
    path = tmp_path / checkpoint.CHECKPOINT
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(RunError, match="remove it, and the run starts again"):
        checkpoint.load(tmp_path)


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, {"value": torch.ones(3)})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, {"value": torch.zeros(3)})
    kept = checkpoint.load(tmp_path)
    assert kept is not None
    assert torch.equal(kept["value"], torch.ones(3))
