"""The training loop: twenty lines, a checkpoint after every epoch, and a resume that is bit for bit the same.

Everything random of an epoch comes from a generator seeded with (seed, epoch), so the state on disk is the
weights, their average, the optimiser and the epoch, and nothing else.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.random import Generator
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, update_bn

from pipeline.device import autocast
from pipeline.unet import UNet
from training.errors import RunError
from training.recipes import Recipe

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
RUN = "run.json"


@dataclass(frozen=True)
class Batch:
    """What a step sees: stacks [image, slice, row, column]; target and region [image, row, column] bool.

    `region` is the infected region m of the EM, `positive` [image] the image-level label z.
    """

    stacks: Tensor
    target: Tensor
    region: Tensor
    positive: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on the device, channels last."""
        stacks = self.stacks.to(device).contiguous(memory_format=torch.channels_last)
        return Batch(stacks, self.target.to(device), self.region.to(device), self.positive.to(device))


Batches = Callable[[Generator], Iterable[Batch]]
Loss = Callable[[UNet, Batch], Tensor]


@dataclass
class Run:
    """One training run: what, where, and how far it is.

    Attributes:
        note: what must be the same at a resume (recipe, seed, data); compared with the run folder's.
    """

    folder: Path
    recipe: Recipe
    seed: int
    device: torch.device
    note: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """Recipe, seed and note, as they are kept in the run folder."""
        return {"recipe": self.recipe.model_dump(mode="json"), "seed": self.seed, **self.note}


def train(model: UNet, run: Run, batches: Batches, loss: Loss) -> UNet:
    """Train `model` to the end of its recipe, from the run folder's checkpoint where there is one.

    Returns the network in inference mode: the average over the recipe's last epochs, or the last weights. Raises
    RunError when the folder belongs to another run or the loss is not a number.
    """
    model = model.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(model, use_buffers=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=run.recipe.rate)
    done = _resume(run, model, average, optimizer)
    with _progress() as progress:
        bar = progress.add_task(
            f"{run.recipe.name} {run.folder.name}", total=run.recipe.epochs, completed=done, speed=""
        )
        for epoch in range(done, run.recipe.epochs):
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = run.recipe.rate_at(epoch)
            losses, images = _epoch(model, optimizer, run, batches, loss, epoch)
            if epoch >= run.recipe.epochs - run.recipe.average_last:
                average.update_parameters(model)
            speed = images / (time.perf_counter() - began)
            _save(run, epoch + 1, model, average, optimizer)
            _log(run.folder, epoch + 1, losses, run.recipe.rate_at(epoch), speed)
            progress.update(bar, advance=1, speed=f"{speed:.1f} images/s, loss {np.mean(losses):.4f}")
    return _finished(run, model, average, batches).eval()


def _epoch(
    model: UNet, optimizer: torch.optim.Optimizer, run: Run, batches: Batches, loss: Loss, epoch: int
) -> tuple[list[float], int]:
    model.train(not run.recipe.frozen_norm)
    losses, images = [], 0
    for batch in batches(np.random.default_rng([run.seed, epoch])):
        value = loss(model, batch.to(run.device))
        if not math.isfinite(value.item()):
            raise RunError(
                f"the loss is {value.item()} in epoch {epoch + 1} of {run.folder}: lower the learning rate"
            )
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(value.item())
        images += len(batch.stacks)
    return losses, images


def _finished(run: Run, model: UNet, average: AveragedModel, batches: Batches) -> UNet:
    """Averaged weights need batch norm statistics of their own: one more epoch without gradients."""
    if run.recipe.average_last < 2:
        return model
    averaged = cast(UNet, average.module)
    if run.recipe.frozen_norm:
        return averaged
    stacks = (
        batch.to(run.device).stacks for batch in batches(np.random.default_rng([run.seed, run.recipe.epochs]))
    )
    with autocast(run.device):
        update_bn(stacks, average)
    return averaged


def _resume(run: Run, model: UNet, average: AveragedModel, optimizer: torch.optim.Optimizer) -> int:
    """Epochs done. A fresh folder is claimed by writing the run's identity into it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    claim = run.folder / RUN
    if not claim.is_file():
        claim.write_text(json.dumps(run.identity(), indent=1))
    elif json.loads(claim.read_text()) != json.loads(json.dumps(run.identity())):
        raise RunError(f"{run.folder} holds another run (see {RUN} there): give another folder, or remove it")
    path = run.folder / CHECKPOINT
    if not path.is_file():
        return 0
    state = torch.load(path, map_location=run.device, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["epoch"])


def _save(run: Run, epoch: int, model: UNet, average: AveragedModel, optimizer: torch.optim.Optimizer) -> None:
    """Whole or not at all: written beside, then renamed."""
    state = {
        "epoch": epoch,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    draft = run.folder / f"{CHECKPOINT}.part"
    torch.save(state, draft)
    draft.replace(run.folder / CHECKPOINT)


def _log(folder: Path, epoch: int, losses: list[float], rate: float, speed: float) -> None:
    path = folder / LOG
    fresh = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(["epoch", "loss", "rate", "images_per_s"])
        writer.writerow([epoch, f"{np.mean(losses):.6f}", f"{rate:.3e}", f"{speed:.2f}"])


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs, {task.fields[speed]}"),
        TimeRemainingColumn(),
    )
