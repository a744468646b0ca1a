"""One run over several processes, started by `torchrun`: gloo between CPUs, nccl between GPUs.

Every rank draws the same plans and works on its share of the images of each batch. What pools over the batch (the
sums of the Dice, the statistics of batch norm) is summed over the ranks *with its gradient*, so every rank has the
loss of the whole batch; the gradients of the weights are then averaged (the backward pass of a sum over ranks sums
the equal gradients of all of them, which is that factor too much).

Started without `torchrun` everything here leaves its argument as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce  # the one whose backward pass reduces the gradient

from pipeline import device as devices
from training.errors import RunError

Value = TypeVar("Value")


@contextmanager
def joined() -> Iterator[None]:
    """The processes of `torchrun` as one group while the context lasts; nothing for a process by itself."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def choose(name: str) -> torch.device:
    """The device of this rank: "auto" is its own GPU under `torchrun`. Raises RunError, ModelError."""
    if ranks() == 1:
        return devices.choose(name)
    if dist.get_backend() == "gloo":
        if name not in {"auto", "cpu"}:
            raise RunError(f"under torchrun the device is chosen by rank: leave --device {name} out")
        return torch.device("cpu")
    if name != "auto":
        raise RunError("under torchrun every process has the GPU of its rank: leave --device out")
    mine = devices.choose(f"cuda:{os.environ['LOCAL_RANK']}")
    torch.cuda.set_device(mine)
    return mine


def pooled(value: Tensor) -> Tensor:
    """The sum over all ranks, with its gradient."""
    return value if ranks() == 1 else all_reduce(value)  # type: ignore[no-untyped-call]


def average_gradients(model: nn.Module) -> None:
    """The gradients of the weights, averaged over the ranks in one message."""
    if ranks() == 1:
        return
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    flat = torch.cat([torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in weights])
    dist.all_reduce(flat)
    flat /= ranks()
    for weight, gradient in zip(weights, torch.split(flat, [w.numel() for w in weights]), strict=True):
        weight.grad = gradient.view_as(weight)


def from_first(value: Value) -> Value:
    """What rank 0 has, on every rank: the others need no shared file system."""
    if ranks() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box)
    return box[0]  # type: ignore[no-any-return]


def agree(value: object, what: str) -> None:
    """Raise RunError on every rank unless all of them have the same `value`."""
    if ranks() == 1:
        return
    all_of_them: list[object] = [None] * ranks()
    dist.all_gather_object(all_of_them, value)
    if any(one != all_of_them[0] for one in all_of_them):
        raise RunError(f"the processes of this run differ in {what}; give every host the same command and data")


def synchronised(model: nn.Module) -> nn.Module:
    """Batch norm over the batches of all ranks: torch's own on GPUs, ours on CPUs, where torch has none."""
    if ranks() == 1:
        return model
    if dist.get_backend() == "nccl":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return, no-untyped-call]
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, PooledBatchNorm2d.like(child))
        else:
            synchronised(child)
    return model


class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the mean and variance of the images of all ranks; its state is that of `BatchNorm2d`."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> PooledBatchNorm2d:
        """The same layer, with the same tensors."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.load_state_dict(norm.state_dict())
        return made.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """[image, channel, row, column]."""
        if not self.training or ranks() == 1:
            return super().forward(x)
        wide, axes = x.float(), (0, 2, 3)
        count = torch.full((1,), x.numel() / x.shape[1], device=x.device)
        sums = pooled(torch.cat((wide.sum(axes), count)))
        mean = sums[:-1] / sums[-1]
        centred = wide - mean[:, None, None]
        variance = pooled(centred.square().sum(axes)) / sums[-1]
        self._remember(mean.detach(), variance.detach(), float(sums[-1]))
        normal = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            normal = normal * self.weight[:, None, None] + self.bias[:, None, None]
        return normal.to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """The running statistics, the variance unbiased; a momentum of None is the plain average."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * count / max(count - 1, 1), share)
