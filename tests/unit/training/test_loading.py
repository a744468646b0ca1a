"""Batches come in order, the same whatever makes them, and an error in one reaches the reader."""

from __future__ import annotations

import threading

import pytest
import torch

from training.batches import Batch
from training.loading import Loader, workers

CPU = torch.device("cpu")


def made(number: int) -> Batch:
    empty = torch.zeros(1)
    return Batch(torch.full((1, 1, 1, 1), float(number)), empty, empty, empty)


class Plans:
    """Plan `number`; the first is finished only when the others have been, where there are threads for it."""

    later = threading.Event()

    def __init__(self, number: int, waits: bool = False) -> None:
        self.number, self.waits = number, waits

    def make(self, device: torch.device) -> Batch:
        if self.waits:
            assert self.later.wait(30)
        elif self.number == 2:
            self.later.set()
        return made(self.number)


class Broken:
    def make(self, device: torch.device) -> Batch:
        raise OSError("the disk is gone")


def numbers(loader: Loader) -> list[int]:
    return [int(batch.stacks) for batch in loader]


def test_batches_come_in_order() -> None:
    plans = [Plans(0, waits=True), *(Plans(k) for k in range(1, 9))]
    loader = Loader(plans, CPU, threads=3)  # type: ignore[arg-type]
    assert numbers(loader) == list(range(9))
    assert loader.waited_s > 0


def test_an_error_reaches_the_reader_and_threads_end() -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        numbers(Loader([Plans(0), Broken(), Plans(2)], CPU, threads=2))  # type: ignore[list-item]
    assert threading.active_count() == before


def test_a_reader_that_stops_leaves_no_threads() -> None:
    before = threading.active_count()
    reader = iter(Loader([Plans(k) for k in range(20)], CPU, threads=2))  # type: ignore[misc]
    next(reader)
    reader.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_gpus_of_one_host_share_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert workers(CPU) == 1
    assert workers(torch.device("cuda:0")) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert workers(torch.device("cuda:0")) == 4
