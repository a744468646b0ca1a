"""A batch in parts has the gradient of the whole batch; memory that runs out is answered by smaller parts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipeline.unet import Architecture, UNet
from training import losses, steps
from training.batches import Batch
from training.errors import RunError
from training.steps import Objective


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "mixed", lambda _: contextlib.nullcontext())


def batch() -> Batch:
    rng = torch.Generator().manual_seed(3)
    target = torch.rand(5, 32, 32, generator=rng) > 0.7
    stacks = torch.rand(5, 7, 32, 32, generator=rng) * 10
    return Batch(stacks, target, target, torch.tensor([True, False, True, False, True]))


def network(training: bool) -> UNet:
    torch.manual_seed(1)
    return UNet(Architecture(features=4)).train(training)


DICE = Objective(lambda logits, batch: losses.bce_dice_loss(logits[:, 0], batch.target))


def gradient(model: UNet) -> Tensor:
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


@pytest.mark.parametrize("part", [1, 2, 4, 5])
def test_parts_have_the_gradient_of_the_whole_batch(part: int) -> None:
    whole, parts = network(False), network(False)
    expected, found = steps.gradients(whole, batch(), DICE), steps.gradients(parts, batch(), DICE, part)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (expected.part, found.part) == (0, part)
    assert float(gradient(whole).abs().max()) > 1e-4
    torch.testing.assert_close(gradient(parts), gradient(whole), rtol=1e-3, atol=1e-6)


def test_batch_norm_remembers_each_part_once() -> None:
    model, by_hand = network(True), network(True)
    steps.gradients(model, batch(), DICE, 2)
    for start in (0, 2, 4):
        by_hand(batch().stacks[start : start + 2])
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), by_hand.buffers(), strict=True))


def small_memory(model: UNet, most: int, error: Exception) -> Callable[[], list[int]]:
    """Make the network fail above `most` images, deep inside; gives the sizes seen."""
    seen: list[int] = []

    def guard(_: nn.Module, inputs: tuple[Tensor]) -> None:
        seen.append(len(inputs[0]))
        if len(inputs[0]) > most:
            raise error

    model.bottom.register_forward_pre_hook(guard)
    return lambda: seen


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_halves_the_part(error: Exception) -> None:
    model, expected = network(False), network(False)
    seen = small_memory(model, 2, error)
    step = steps.gradients(model, batch(), DICE)
    steps.gradients(expected, batch(), DICE)
    assert step.part == 2
    assert seen() == [5, 2, 2, 1, 2, 2, 1]
    torch.testing.assert_close(gradient(model), gradient(expected), rtol=1e-3, atol=1e-6)


def test_a_failed_attempt_leaves_no_trace_in_batch_norm() -> None:
    model, expected = network(True), network(True)
    small_memory(model, 2, MemoryError())
    steps.gradients(model, batch(), DICE)
    steps.gradients(expected, batch(), DICE, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), expected.buffers(), strict=True))
    torch.testing.assert_close(gradient(model), gradient(expected))


def test_a_single_image_that_is_too_much_ends_with_what_to_do() -> None:
    model = network(False)
    small_memory(model, 0, MemoryError())
    with pytest.raises(RunError, match="a single image: take a recipe with a crop"):
        steps.gradients(model, batch(), DICE)


def test_other_errors_pass() -> None:
    model = network(False)
    small_memory(model, 0, RuntimeError("a kernel is broken"))
    with pytest.raises(RuntimeError, match="a kernel is broken"):
        steps.gradients(model, batch(), DICE)


def test_the_e_step_is_timed_and_gives_the_target() -> None:
    seen: list[Tensor] = []

    def expect(model: UNet, part: Batch, epoch: int) -> Tensor:
        return part.stacks[:, 3] > 5

    def measure(logits: Tensor, whole: Batch) -> Tensor:
        seen.append(whole.target)
        return logits.mean()

    for part in (0, 2):
        assert steps.gradients(network(True), batch(), Objective(measure, expect), part).expect_s > 0
    assert all(torch.equal(target, batch().stacks[:, 3] > 5) for target in seen)
    assert steps.gradients(network(True), batch(), DICE).expect_s == 0
