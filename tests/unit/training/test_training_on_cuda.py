"""Training on a device that pretends to be CUDA: all but the backward pass, which wants a real one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import update_bn

from pipeline.unet import UNet
from tests.fixtures.pretend_cuda import OnCuda, pretended
from tests.unit.training.test_loop import ARCH, POOL, em_recipe, recipe
from training import batches, loop, unet1, unet2
from training.augment import Augmentation
from training.batches import Batch

ALL = Augmentation(shift_hu=10, noise_hu=20, sharp=True)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    with pretended(monkeypatch) as device:
        yield device


def batch(device: torch.device) -> Batch:
    wanted = recipe(augmentation=ALL, crop=(32, 32))
    return next(batches.unet1_epoch(POOL, wanted, np.random.default_rng(1), ARCH.slices, 110.0)).make(device)


def test_a_tensor_left_behind_would_be_seen(cuda: torch.device) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device=cuda) + torch.ones(2)


def test_a_batch_is_augmented_there_and_is_that_of_the_cpu(cuda: torch.device) -> None:
    made, expected = batch(cuda), batch(torch.device("cpu"))
    for name in ("stacks", "target", "region", "positive"):
        found = getattr(made, name)
        assert isinstance(found, OnCuda), name
        assert torch.equal(found.cpu(), getattr(expected, name)), name


@pytest.mark.parametrize("loss", sorted(unet1.LOSSES))
def test_the_losses(cuda: torch.device, loss: str) -> None:
    made = batch(cuda)
    net = UNet(ARCH).to(cuda, memory_format=torch.channels_last).train()
    assert np.isfinite(unet1.LOSSES[loss](net(made.stacks)[:, 0], made.target).item())


@pytest.mark.parametrize("prior", ["phi1", "phi2", "split"])
def test_the_e_step(cuda: torch.device, prior: str) -> None:
    net = UNet(ARCH).to(cuda)
    labels = unet2.expectation(net, batch(cuda), em_recipe(prior=prior))
    assert isinstance(labels, OnCuda)
    assert labels.dtype == torch.bool


def test_weights_are_averaged_over_epochs(cuda: torch.device) -> None:
    """Where torch takes another way than on CPUs; one of the tensors is batch norm's counter, an integer."""
    net = UNet(ARCH).to(cuda)
    state = loop.fresh(net, 1e-2)
    weights = [torch.full_like(net.head.weight, value) for value in (1.0, 2.0, 6.0)]
    for weight in weights:
        net.head.weight.copy_(weight)
        state.average.update_parameters(net)
    assert torch.allclose(state.average.module.head.weight.cpu(), torch.tensor(3.0))
    update_bn([batch(cuda).stacks], state.average)
    for weight in net.parameters():
        weight.grad = torch.ones_like(weight)
    state.optimizer.step()
