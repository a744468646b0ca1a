"""The log has every epoch once, whenever the run was killed, and TensorBoard reads the same figures."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from training.logs import EVENTS, LOG, Journal, Row


def row(epoch: int, loss: float = 0.5) -> Row:
    return Row(epoch, loss, 1e-3, 20.0, 0.01, 0.25, 0)


def events(folder: Path) -> list[tuple[str, int, float]]:
    """(name, epoch, value) of every event file, oldest first: length, checksum, record, checksum."""
    found = []
    for path in sorted((folder / EVENTS).glob("events.*"), key=lambda one: one.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


def logged(folder: Path) -> list[str]:
    with (folder / LOG).open(newline="") as file:
        return [one["epoch"] for one in csv.DictReader(file)]


def test_an_epoch_is_in_both_logs(tmp_path: Path) -> None:
    rows = [row(1, 0.75)]
    with Journal(tmp_path, "t", 3, [], silent=False) as journal:
        journal.epoch(rows)
        rows.append(row(2, 0.25))
        journal.epoch(rows)
        assert logged(tmp_path) == ["1", "2"]  # while it runs
    assert [one[1:] for one in events(tmp_path) if one[0] == "loss"] == [(1, 0.75), (2, 0.25)]
    assert {one[0] for one in events(tmp_path)} == {"loss", "rate", "images_per_s", "waiting", "e_step", "part"}
    with (tmp_path / LOG).open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert (last["loss"], last["images_per_s"], last["e_step"]) == ("0.250000", "20.00", "0.2500")


def test_a_killed_run_has_every_epoch_once(tmp_path: Path) -> None:
    """Killed after the checkpoint of epoch 2 was written and before its row: the checkpoint tells."""
    with Journal(tmp_path, "t", 3, [], silent=False) as journal:
        journal.epoch([row(1)])
    done = [row(1), row(2)]
    with Journal(tmp_path, "t", 3, done, silent=False) as journal:
        assert logged(tmp_path) == ["1", "2"]
        journal.epoch([*done, row(3)])
    assert logged(tmp_path) == ["1", "2", "3"]
    assert [one[1] for one in events(tmp_path) if one[0] == "loss"] == [1, 2, 3]


def test_the_bar_shows_speed_time_left_and_the_e_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(tmp_path, "phi2 run", 3, [], silent=False) as journal:
        journal.step(0.5, 21.0, 0.9)
        journal.epoch([row(1)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "phi2 run" in shown
    for said in ("epoch 1 of 3", "20.0 images/s", "E-step 25%", "waiting 1%"):
        assert said in shown


def test_other_ranks_say_and_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(tmp_path, "t", 3, [], silent=True) as journal:
        journal.step(0.5, 21.0, 0.9)
        journal.epoch([row(1)])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert capsys.readouterr().out.strip() == ""
