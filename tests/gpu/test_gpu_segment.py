"""On a machine with CUDA: the same masks as on the CPU, also in two workers at once."""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset

from pipeline import package, phantom, segment
from pipeline.arrays import CtVolume, LesionMasks
from pipeline.phantom import PhantomSpec
from pipeline.types import PipelineSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def masks(device: str) -> LesionMasks:
    made = phantom.make(PhantomSpec(slices=24), seed=4)
    volume = CtVolume(made.hu, made.affine, tuple(Dataset() for _ in made.hu))
    return segment.segment(volume, made.lungs, package.load(None), PipelineSettings(device=device))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_cuda_and_cpu_agree() -> None:
    on_cpu, on_cuda = masks("cpu"), masks("cuda:0")
    assert on_cpu.infection.any()
    assert dice(on_cpu.infection, on_cuda.infection) > 0.99


def test_two_workers_share_a_device() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        first, second = pool.map(masks, ["cuda:0", "cuda:0"])
    np.testing.assert_array_equal(first.infection, second.infection)


@pytest.mark.parametrize("megabytes", [96, 1])
def test_a_batch_beyond_the_memory_is_halved(megabytes: int, caplog: pytest.LogCaptureFixture) -> None:
    """This process may use so much of the device; the networks still run, with smaller batches or on the CPU.

    A limit and not an allocation: what else runs on the device keeps its memory, and what torch has kept from the
    test before must not count as free.
    """
    expected = masks("cuda:0")
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((megabytes << 20) / total)
    try:
        with caplog.at_level(logging.WARNING):
            found = masks("cuda:0")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "no memory left for 16 slices on cuda:0" in caplog.text
    assert dice(expected.infection, found.infection) > 0.99
