"""Segmentation: where each network runs, what happens when memory runs out, and what is never written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from torch import Tensor, nn

from pipeline import device, segment
from pipeline.arrays import CtVolume, LungMask
from pipeline.errors import ModelError, PipelineError
from pipeline.package import ModelPackage, Thresholds
from pipeline.preprocess import Preprocessing, neighbours
from pipeline.segment import Room
from pipeline.types import ModelIdentity, PipelineSettings
from pipeline.unet import Architecture

CPU = torch.device("cpu")
LIMITED = torch.device("meta")  # stands for an accelerator whose memory is full
DENSE = (0 + 1024) / 110


class FakeNet(nn.Module):
    """Probability by a rule on the centre slice; memory for `room` slices on the CPU and none elsewhere."""

    def __init__(
        self, rule: Callable[[Tensor], Tensor], room: int = 99, error: Callable[[], Exception] | None = None
    ) -> None:
        super().__init__()
        self.arch = Architecture(features=4)
        self.rule, self.room = rule, room
        self.error = error or (lambda: torch.OutOfMemoryError("injected"))
        self.seen: list[tuple[str, int]] = []

    def probability(self, x: Tensor) -> Tensor:
        self.seen.append((x.device.type, len(x)))
        if x.device.type != "cpu" or len(x) > self.room:
            raise self.error()
        return self.rule(x[:, 3])


def volume(hu: np.ndarray, spacing_mm: float = 5.0) -> CtVolume:
    return CtVolume(hu, np.diag([1.0, 1.0, spacing_mm, 1.0]), tuple(Dataset() for _ in hu))


def package(one: nn.Module, two: nn.Module, **thresholds: float) -> ModelPackage:
    manifest = SimpleNamespace(
        preprocessing=Preprocessing(rows=64, columns=64), thresholds=Thresholds(**thresholds)
    )
    return ModelPackage(Path("fake"), manifest, ModelIdentity("fake", "1", "0"), one, two)  # type: ignore[arg-type]


def opaque(x: Tensor) -> Tensor:
    return (x > 3).float()


def solid(x: Tensor) -> Tensor:
    return (x > 8).float()


@pytest.fixture
def case() -> tuple[CtVolume, LungMask]:
    """Air with an opacity of −400 HU that holds a core of 0 HU; the lung mask ends in the middle of both."""
    hu = np.full((6, 64, 64), -1024, np.int16)
    hu[2:4, 20:40, 20:40] = -400
    hu[2:4, 26:34, 26:34] = 0
    labels = np.zeros(hu.shape, np.uint8)
    labels[:, 10:30, 10:50] = 1
    return volume(hu), LungMask(labels, "test")


def test_infection_in_the_lungs_and_consolidation_in_it(case: tuple[CtVolume, LungMask]) -> None:
    ct, lungs = case
    one, two = FakeNet(opaque), FakeNet(solid)
    found = segment.segment(ct, lungs, package(one, two), PipelineSettings(device="cpu"))
    np.testing.assert_array_equal(found.infection, (ct.hu >= -400) & lungs.both)
    np.testing.assert_array_equal(found.consolidation, (ct.hu >= 0) & lungs.both)
    assert sum(n for _, n in one.seen) == 6
    assert sum(n for _, n in two.seen) == 2, "UNet-2 runs only where UNet-1 found something"


def test_consolidation_outside_infection_is_not_possible(case: tuple[CtVolume, LungMask]) -> None:
    ct, lungs = case
    everywhere = FakeNet(torch.ones_like)
    found = segment.segment(ct, lungs, package(FakeNet(opaque), everywhere), PipelineSettings(device="cpu"))
    np.testing.assert_array_equal(found.consolidation, found.infection)


def test_nothing_found_leaves_unet2_alone(case: tuple[CtVolume, LungMask]) -> None:
    ct, lungs = case
    two = FakeNet(solid)
    found = segment.segment(ct, lungs, package(FakeNet(torch.zeros_like), two), PipelineSettings(device="cpu"))
    assert not found.infection.any()
    assert two.seen == []


def test_the_threshold_is_the_packages(case: tuple[CtVolume, LungMask]) -> None:
    ct, lungs = case
    weak = FakeNet(lambda x: 0.4 * opaque(x))
    settings = PipelineSettings(device="cpu")
    assert not segment.segment(ct, lungs, package(weak, weak), settings).infection.any()
    assert segment.segment(ct, lungs, package(weak, weak, infection=0.3), settings).infection.any()


def test_consolidation_that_is_small_in_every_slice_stays_ground_glass(case: tuple[CtVolume, LungMask]) -> None:
    ct, lungs = case
    core = (ct.hu >= 0) & lungs.both  # 4 × 8 pixels of 1 mm² in each of two slices
    for least_mm2, wanted in ((32.0, core), (32.5, np.zeros_like(core))):
        made = package(FakeNet(opaque), FakeNet(solid), consolidation_mm2=least_mm2)
        found = segment.segment(ct, lungs, made, PipelineSettings(device="cpu"))
        np.testing.assert_array_equal(found.consolidation, wanted)
        np.testing.assert_array_equal(found.infection, (ct.hu >= -400) & lungs.both)


def test_thin_slices_come_back_on_their_own_grid() -> None:
    hu = np.full((50, 128, 96), -1024, np.int16)
    hu[20:30, 40:80, 30:60] = 0
    lungs = LungMask(np.ones(hu.shape, np.uint8), "test")
    net = FakeNet(solid)
    found = segment.segment(volume(hu, 1.0), lungs, package(net, net), PipelineSettings(device="cpu"))
    assert sum(n for _, n in net.seen[:1]) == 10
    truth = hu == 0
    assert 2 * (found.infection & truth).sum() / (found.infection.sum() + truth.sum()) > 0.9


def test_a_value_that_is_no_number_is_an_error(case: tuple[CtVolume, LungMask]) -> None:
    broken = FakeNet(lambda x: x * torch.nan)
    with pytest.raises(ModelError, match="not numbers"):
        segment.segment(*case, package(broken, broken), PipelineSettings(device="cpu"))


def slices_and_stacks(count: int) -> tuple[Tensor, Tensor]:
    slices = torch.arange(1.0, count + 1)[:, None, None].expand(count, 16, 16).clone()
    return slices, neighbours(range(count), count, 7)


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("injected"),
        lambda: MemoryError("injected"),
        lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    ],
)
def test_memory_runs_out_and_the_batch_is_halved(error: Callable[[], Exception]) -> None:
    net = FakeNet(lambda x: x / 100, room=3, error=error)
    slices, stacks = slices_and_stacks(10)
    found = segment.predict(net, slices, stacks, "caudal_to_cranial", Room(CPU, 8))
    np.testing.assert_allclose(found[:, 0, 0], np.arange(1, 11) / 100)
    assert [n for _, n in net.seen] == [8, 4, 2, 2, 2, 2, 2]


def test_memory_runs_out_on_the_device_and_the_cpu_takes_over() -> None:
    net = FakeNet(lambda x: x / 100)
    slices, stacks = slices_and_stacks(5)
    found = segment.predict(net, slices, stacks, "caudal_to_cranial", Room(LIMITED, 4))
    np.testing.assert_allclose(found[:, 0, 0], np.arange(1, 6) / 100)
    assert net.seen == [("meta", 4), ("meta", 2), ("meta", 1), ("cpu", 4), ("cpu", 1)]


def test_another_fault_is_not_taken_for_a_lack_of_memory() -> None:
    net = FakeNet(solid, room=3, error=lambda: RuntimeError("device-side assert"))
    with pytest.raises(RuntimeError, match="device-side assert"):
        segment.predict(net, *slices_and_stacks(5), "caudal_to_cranial", Room(CPU, 4))


def test_no_memory_for_one_slice_is_a_clear_error() -> None:
    with pytest.raises(PipelineError, match="not enough memory"):
        segment.predict(FakeNet(solid, room=0), *slices_and_stacks(2), "caudal_to_cranial", Room(CPU, 2))


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps", "meta"])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="device"):
        device.choose(name)


def test_auto_takes_what_is_here() -> None:
    assert device.choose("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("features", "dtype"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ],
)
def test_precision_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert device.precision(CPU) == dtype
