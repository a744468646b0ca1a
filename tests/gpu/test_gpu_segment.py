"""On a machine with CUDA: the same masks as on the CPU, also in two workers at once."""

from __future__ import annotations

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


def test_a_batch_beyond_the_memory_is_halved() -> None:
    """The whole memory but a little is taken; the networks still run, with smaller batches or on the CPU."""
    expected = masks("cuda:0")
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(1, free - 2**28), dtype=torch.uint8, device="cuda:0")
    try:
        found = masks("cuda:0")
    finally:
        del taken
        torch.cuda.empty_cache()
    assert dice(expected.infection, found.infection) > 0.99
