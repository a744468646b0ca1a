"""The gradient of one batch: E-step, forward, backward; in parts where memory does not hold the batch at once.

In parts the gradient is still that of the loss of the *whole* batch, so that the Dice stays pooled: the logits of
all parts come first, without a graph; the loss and its gradient by the logits follow; then each part is run again
and carries its share of that gradient back. It costs one more forward pass. Only batch norm in training mode sees
the difference: it takes the statistics of each part.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline import device as devices
from pipeline.unet import UNet
from training import distributed
from training.batches import Batch
from training.errors import RunError


@dataclass(frozen=True)
class Objective:
    """What training minimises.

    Attributes:
        measure: logits [image, channel, row, column] float32 and the batch → the loss.
        expect: the E-step: network, batch and epoch → the labels, which take the place of the batch's target.
    """

    measure: Callable[[Tensor, Batch], Tensor]
    expect: Callable[[UNet, Batch, int], Tensor] | None = None


@dataclass(frozen=True)
class Step:
    """Loss of the batch, seconds in the E-step, and the images in a part (0: the batch went at once)."""

    loss: float
    expect_s: float
    part: int


def mixed(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where the processor multiplies it in hardware, else float32; float16 gradients would underflow."""
    fast = devices.precision(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16) if fast else nullcontext()


def forward(model: UNet, stacks: Tensor) -> Tensor:
    """Logits [image, channel, row, column], float32 whatever the autocast."""
    with mixed(stacks.device):
        logits: Tensor = model(stacks)
    return logits.float()


def gradients(model: UNet, batch: Batch, objective: Objective, part: int = 0, epoch: int = 0) -> Step:
    """Leave the batch's gradient in the weights; halve the part for as long as memory runs out.

    Raises RunError when a single image is too much, and on one rank of several, which cannot change its work alone.
    """
    while True:
        statistics = [buffer.clone() for buffer in model.buffers()]
        model.zero_grad(set_to_none=True)
        try:
            loss, expect_s = _gradients(model, batch, objective, part or len(batch), epoch)
        except (RuntimeError, MemoryError) as error:
            if not devices.out_of_memory(error):
                raise
            part = _smaller(part or len(batch), error)
        else:
            distributed.average_gradients(model)
            return Step(loss, expect_s, part)
        _restore(model, statistics)
        if batch.stacks.is_cuda:
            torch.cuda.empty_cache()


def _smaller(part: int, error: Exception) -> int:
    if distributed.ranks() > 1:
        raise RunError(
            f"rank {distributed.rank()} ran out of memory with {part} images: start more processes, or take a"
            " recipe with a smaller batch or crop"
        ) from error
    if part == 1:
        raise RunError(
            "there is not enough memory for a single image: take a recipe with a crop, fewer --features, or another"
            " device"
        ) from error
    return part // 2


def _gradients(model: UNet, batch: Batch, objective: Objective, part: int, epoch: int) -> tuple[float, float]:
    rows = [slice(start, start + part) for start in range(0, len(batch), part)]
    expect_s = 0.0
    if objective.expect is not None:
        began = _now(batch)
        labels = torch.cat([objective.expect(model, batch.part(each), epoch) for each in rows])
        batch = replace(batch, target=labels)
        expect_s = _now(batch) - began
    whole = len(rows) == 1
    logits = forward(model, batch.stacks) if whole else _without_graph(model, batch, rows)
    value = objective.measure(logits, batch)
    loss = value.item()
    if math.isfinite(loss):  # else the caller says so; nothing is learnt from it
        value.backward()  # type: ignore[no-untyped-call]
        for each in () if whole else rows:
            assert logits.grad is not None  # noqa: S101 - backward() has just written it
            forward(model, batch.stacks[each]).backward(logits.grad[each])  # type: ignore[no-untyped-call]
    return loss, expect_s


@torch.no_grad()
def _without_graph(model: UNet, batch: Batch, rows: list[slice]) -> Tensor:
    """The logits of all parts as a leaf of its own; batch norm will remember the second run only."""
    statistics = [buffer.clone() for buffer in model.buffers()]
    logits = torch.cat([forward(model, batch.stacks[each]) for each in rows])
    _restore(model, statistics)
    return logits.requires_grad_()


@torch.no_grad()
def _restore(model: UNet, statistics: list[Tensor]) -> None:
    for buffer, kept in zip(model.buffers(), statistics, strict=True):
        buffer.copy_(kept)


def _now(batch: Batch) -> float:
    """Seconds, after the device has done what it was given."""
    if batch.stacks.is_cuda:
        torch.cuda.synchronize(batch.stacks.device)
    return time.perf_counter()
