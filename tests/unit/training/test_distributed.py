"""Two processes on halves of a batch do what one does on the whole: loss, gradients, statistics of batch norm."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from pipeline.unet import Architecture, UNet
from training import distributed, loading, losses, steps, unet1, unet2
from training.batches import Batch
from training.distributed import PooledBatchNorm2d
from training.errors import RunError
from training.recipes import EmRecipe
from training.steps import Objective

RANKS = 2
IMAGES = 5  # not a multiple of the ranks
EM = EmRecipe(name="em", epochs=1, rate=1e-3, batch=4)


def batch() -> Batch:
    rng = torch.Generator().manual_seed(3)
    stacks = torch.rand(IMAGES, 7, 32, 32, generator=rng) * 10
    target = torch.rand(IMAGES, 32, 32, generator=rng) > 0.7
    target[0] = False  # a healthy image
    return Batch(stacks, target, target, torch.arange(IMAGES) % 2 == 0)


def network() -> UNet:
    torch.manual_seed(1)
    return UNet(Architecture(features=4, affine=True)).train()


def em_objective() -> Objective:
    def measure(logits: Tensor, batch: Batch) -> Tensor:
        return 1 - losses.smooth_dice(torch.sigmoid(logits[:, 0]) * batch.region, batch.target.float())

    return Objective(measure, lambda model, batch, epoch: unet2.expectation(model, batch, EM, epoch))


def objective(name: str) -> Objective:
    if name == "em":
        return em_objective()
    measure = unet1.LOSSES[name]
    return Objective(lambda logits, batch: measure(logits[:, 0], batch.target))


def result(model: nn.Module, loss: float) -> dict[str, Tensor]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return {"loss": torch.tensor(loss), **found, **{name: b.clone() for name, b in model.named_buffers()}}


@contextlib.contextmanager
def group(rank: int, folder: Path) -> object:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=RANKS)
    try:
        yield
    finally:
        dist.destroy_process_group()


def half(rank: int, folder: Path) -> None:
    """What one of the two processes does."""
    steps.mixed = lambda _: contextlib.nullcontext()
    with group(rank, folder):
        for name in ("dice", "bce_dice", "em"):
            model = distributed.synchronised(network())
            step = steps.gradients(model, batch().part(slice(rank, None, RANKS)), objective(name))
            torch.save(result(model, step.loss), folder / f"{name}-{rank}.pt")
        said = [refusal(lambda: distributed.agree(rank, "rank"))]

        def no_room(logits: Tensor, _: Batch) -> Tensor:
            raise torch.OutOfMemoryError("device is full")

        said.append(refusal(lambda: steps.gradients(network(), batch(), Objective(no_room))))
        said.append(refusal(lambda: distributed.choose("cuda:0")))
        torch.save([distributed.from_first(rank), *said], folder / f"said-{rank}.pt")


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except RunError as error:
        return str(error)
    return "nothing"


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(half, (folder,), nprocs=RANKS)
    return folder


@pytest.mark.parametrize("name", ["dice", "bce_dice", "em"])
def test_two_processes_have_loss_and_gradients_of_the_whole_batch(
    halves: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "mixed", lambda _: contextlib.nullcontext())
    model = network()
    step = steps.gradients(model, batch(), objective(name))
    whole = result(model, step.loss)
    assert max(float(whole[key].abs().max()) for key in whole if key.endswith("weight")) > 1e-4
    for rank in range(RANKS):
        found = torch.load(halves / f"{name}-{rank}.pt")
        assert found.keys() == whole.keys()
        for key, value in whole.items():
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")


def test_the_mean_of_the_halves_would_be_another_loss() -> None:
    """What the sums over ranks are for: half batches by themselves give another value."""
    logits, target = torch.linspace(-3, 3, 16).view(4, 4), torch.zeros(4, 4)
    target[0] = 1  # the lesion lies on one rank
    whole = losses.dice_loss(logits, target)
    parts = [losses.dice_loss(logits[rank::RANKS], target[rank::RANKS]) for rank in range(RANKS)]
    assert abs(whole - torch.stack(parts).mean()) > 0.01


def test_ranks_agree_or_say_so(halves: Path) -> None:
    for rank in range(RANKS):
        first, differ, memory, device = torch.load(halves / f"said-{rank}.pt")
        assert first == 0
        assert "differ in rank" in differ
        assert f"rank {rank} ran out of memory with 5 images" in memory
        assert "leave --device cuda:0 out" in device


def test_a_process_by_itself_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.joined():
        assert not dist.is_initialized()
        assert (distributed.rank(), distributed.ranks()) == (0, 1)
        net = network()
        assert distributed.synchronised(net) is net
        assert not any(isinstance(layer, PooledBatchNorm2d) for layer in net.modules())


@pytest.mark.parametrize("momentum", [0.1, None])
def test_pooled_batch_norm_by_itself_is_batch_norm(momentum: float | None) -> None:
    plain = nn.BatchNorm2d(3, momentum=momentum)
    ours = PooledBatchNorm2d.like(plain)
    x = torch.rand(4, 3, 5, 5)
    for norm in (plain, ours):
        norm.train()(x)
    assert torch.equal(plain(x), ours(x))
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), ours.buffers(), strict=True))


class Numbers:
    """A plan that holds numbers in place of images."""

    def __init__(self, images: list[int]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def share(self, rank: int, ranks: int) -> Numbers:
        return Numbers(self.images[rank::ranks])

    def plus(self, other: Numbers) -> Numbers:
        return Numbers(self.images + other.images)


def test_every_image_is_on_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [Numbers([0, 1, 2, 3]), Numbers([4, 5, 6, 7]), Numbers([8, 9])]
    monkeypatch.setattr(distributed, "ranks", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append([plan.images for plan in loading.shared(plans)])  # type: ignore[arg-type, attr-defined]
    assert shares == [[[0, 3], [4, 7]], [[1], [5, 8]], [[2], [6, 9]]]
    with pytest.raises(RunError, match="start fewer"):
        loading.shared([Numbers([0, 1]), Numbers([2, 3, 4])])  # type: ignore[list-item]
