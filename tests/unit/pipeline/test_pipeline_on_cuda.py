"""Analysis on a device that pretends to be CUDA: where tensors lie, and what becomes of it without memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from torch import Tensor, nn

from pipeline import device, lung_network, package, phantom, segment
from pipeline.arrays import CtVolume
from pipeline.phantom import PhantomSpec
from pipeline.preprocess import neighbours
from pipeline.segment import Room
from pipeline.types import PipelineSettings
from pipeline.unet import Architecture, UNet
from tests.fixtures.pretend_cuda import pretended

SLICES = torch.rand(5, 32, 32, generator=torch.Generator().manual_seed(1)) * 10
STACKS = neighbours(range(5), 5, 7)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    with pretended(monkeypatch) as made:
        yield made


def predicted(net: nn.Module, where: torch.device) -> Tensor:
    return segment.predict(net, SLICES, STACKS, "caudal_to_cranial", Room(where, 2))


def test_the_networks_give_there_what_they_give_on_the_cpu(
    cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "precision", lambda _: torch.float32)
    net = UNet(Architecture(features=4)).eval()
    found = predicted(net, cuda)
    assert next(net.parameters()).device == cuda
    torch.testing.assert_close(found, predicted(net, torch.device("cpu")))


def test_the_whole_analysis(cuda: torch.device) -> None:
    made = phantom.make(PhantomSpec(slices=3, rows=64, columns=64), seed=4)
    volume = CtVolume(made.hu, made.affine, tuple(Dataset() for _ in made.hu))
    model, settings = package.load(None), PipelineSettings(device="auto")
    network = lung_network.of(model, settings)
    assert network is not None and network.room.device == cuda
    assert network.finds(made.hu.astype(np.float32)).shape == made.hu.shape
    assert segment.segment(volume, made.lungs, model, settings).infection.shape == made.hu.shape
    assert next(model.unet1.parameters()).device == cuda


class Heavy(UNet):
    """There is no memory on the device for its weights."""

    def to(self, where: torch.device, **options: object) -> Heavy:  # type: ignore[override]
        if where.type == "cuda":
            raise torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' …")
        return super().to(where, **options)  # type: ignore[call-overload, no-any-return]


def test_weights_that_find_no_room_are_used_on_the_cpu(
    cuda: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    net = Heavy(Architecture(features=4)).eval()
    with caplog.at_level(logging.WARNING):
        found = predicted(net, cuda)
    torch.testing.assert_close(found, predicted(net, torch.device("cpu")))
    assert [record.getMessage() for record in caplog.records] == [
        "no memory left for 2 slices on cuda:0: 1 on cuda:0",
        "no memory left for 1 slices on cuda:0: 2 on cpu",
    ]


@pytest.mark.parametrize(
    ("said", "memory"),
    [
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("GET was unable to find an engine to execute this computation", True),
        ("CUDA error: device-side assert triggered", False),
        ("CUDA error: an illegal memory access was encountered", False),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", False),
    ],
)
def test_how_cuda_and_its_libraries_say_that_memory_ran_out(said: str, memory: bool) -> None:
    for kind in (RuntimeError, torch.AcceleratorError):
        assert device.out_of_memory(kind(said)) is memory


def test_precision_is_that_of_the_device_which_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda at: ((8, 0), (7, 5))[at.index])
    assert device.precision(torch.device("cuda:0")) == torch.bfloat16
    assert device.precision(torch.device("cuda:1")) == torch.float16
