"""The training loop: twenty lines, a checkpoint after every epoch, and a resume that is bit for bit the same.

Everything random of an epoch comes from a generator seeded with (seed, epoch), so the state on disk is the
weights, their average, the optimiser, the log and nothing else. Several processes of `torchrun` train one network
(`training.distributed`); rank 0 alone reads and writes the run folder.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.random import Generator
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn, update_bn

from pipeline.unet import UNet
from training import checkpoint, distributed
from training.batches import Plan
from training.errors import RunError
from training.loading import Loader, shared
from training.logs import Journal, Row
from training.recipes import Recipe
from training.steps import Objective, gradients, mixed

Plans = Callable[[Generator], Iterable[Plan]]


@dataclass
class Run:
    """One training run: what, where, and how far it is.

    Attributes:
        note: what must be the same at a resume (recipe, seed, data); compared with the run folder's.
        before: the stories of the runs whose weights it goes on from (`checkpoint.story`).
        seen: the cases that these were trained on.
    """

    folder: Path
    recipe: Recipe
    seed: int
    device: torch.device
    note: dict[str, Any] = field(default_factory=dict)
    before: list[Any] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def identity(self) -> dict[str, Any]:
        """Recipe, seed and note, as they are kept in the run folder."""
        return {"recipe": self.recipe.model_dump(mode="json"), "seed": self.seed, **self.note}

    def later(self) -> dict[str, Any]:
        """The recipe with every field that need not be given at its default, as an older one is read."""
        fields = type(self.recipe).model_fields.items()
        defaults = {name: field.default for name, field in fields if not field.is_required()}
        usual = self.recipe.model_copy(update=defaults).model_dump(mode="json", include=set(defaults))
        return {"recipe": usual}


@dataclass
class State:
    """What training changes, and what a checkpoint holds. `part`: images at once, 0 is the whole batch."""

    model: UNet
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    rows: list[Row] = field(default_factory=list)
    part: int = 0

    def kept(self) -> dict[str, Any]:
        """As `checkpoint.save` takes it."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rows": [asdict(row) for row in self.rows],
            "part": self.part,
        }

    def take(self, kept: dict[str, Any]) -> None:
        """Go on from a checkpoint. Raises RunError where it is not one of this program's."""
        try:
            self.model.load_state_dict(kept["model"])
            self.average.load_state_dict(kept["average"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.rows = [Row(**row) for row in kept["rows"]]
            # Ranks whose shares differ by an image would take different numbers of parts, and wait for each other.
            self.part = kept["part"] if distributed.ranks() == 1 else 0
        except (KeyError, TypeError, RuntimeError) as error:
            raise RunError(f"{checkpoint.CHECKPOINT} is of another version: remove it and train again") from error


def train(model: UNet, run: Run, plans: Plans, objective: Objective) -> UNet:
    """Train `model` to the end of its recipe, from the run folder's checkpoint where there is one.

    Returns the network in inference mode: the average over the recipe's last epochs, or the last weights. Raises
    RunError when the folder belongs to another run, the loss is not a number or memory does not hold one image.
    """
    model = cast(UNet, distributed.synchronised(model))
    model = model.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = fresh(model, run.recipe.rate)
    resume(run, state)
    first, epochs = distributed.rank() == 0, run.recipe.epochs
    name = f"{run.recipe.name} {run.folder.name}"
    with Journal(run.folder, name, epochs, state.rows, not first) as journal, _repeatable():
        for epoch in range(len(state.rows), epochs):
            for group in state.optimizer.param_groups:
                group["lr"] = run.recipe.rate_at(epoch)
            state.rows.append(_epoch(run, state, plans, objective, epoch, journal))
            if epoch >= epochs - run.recipe.average_last:
                state.average.update_parameters(model)
            if first:
                checkpoint.save(run.folder, state.kept())
            journal.epoch(state.rows)
        return _finished(run, state, plans).eval()


def fresh(model: UNet, rate: float) -> State:
    """The state before the first step."""
    # The function is torch's default on CPUs. Its default on GPUs is another, which fails on batch norm's counter.
    average = AveragedModel(model, avg_fn=get_swa_avg_fn(), use_buffers=True)  # type: ignore[no-untyped-call]
    return State(model, average, torch.optim.Adam(model.parameters(), lr=rate))


def _epoch(run: Run, state: State, plans: Plans, objective: Objective, epoch: int, journal: Journal) -> Row:
    state.model.train(not run.recipe.frozen_norm)
    loader = Loader(shared(plans(np.random.default_rng([run.seed, epoch]))), run.device)
    began, images, expect_s, losses = time.perf_counter(), 0, 0.0, []
    for batch in loader:
        step = gradients(state.model, batch, objective, state.part, epoch)
        if not math.isfinite(step.loss):
            raise RunError(f"the loss is {step.loss} in epoch {epoch + 1} of {run.folder}: lower the learning rate")
        state.optimizer.step()
        state.part = step.part
        losses.append(step.loss)
        expect_s += step.expect_s
        images += len(batch) * distributed.ranks()
        speed = images / (time.perf_counter() - began)
        journal.step(epoch + len(losses) / len(loader.plans), speed, step.loss)
    took_s, rate = time.perf_counter() - began, run.recipe.rate_at(epoch)
    loss, waiting = float(np.mean(losses)), loader.waited_s / took_s
    return Row(epoch + 1, loss, rate, images / took_s, waiting, expect_s / took_s, state.part)


def _finished(run: Run, state: State, plans: Plans) -> UNet:
    """Averaged weights need batch norm statistics of their own: one more epoch without gradients."""
    if run.recipe.average_last < 2:
        return state.model
    if not run.recipe.frozen_norm:
        drawn = shared(plans(np.random.default_rng([run.seed, run.recipe.epochs])))
        stacks = (batch.stacks for batch in Loader(drawn, run.device))
        parts = (part for whole in stacks for part in torch.split(whole, state.part or len(whole)))
        with mixed(run.device):
            update_bn(parts, state.average)
    return cast(UNet, state.average.module)


def resume(run: Run, state: State) -> None:
    """Claim the folder and go on from its checkpoint; every rank starts from what rank 0 has."""
    distributed.agree(run.identity(), "recipe, seed or data")
    kept = None
    if distributed.rank() == 0:
        checkpoint.claim(run.folder, run.identity(), run.before, run.later(), run.seen)
        kept = checkpoint.load(run.folder)
    if distributed.ranks() > 1:  # as bytes: the tensors themselves would be unpickled onto rank 0's GPU everywhere
        kept = checkpoint.decoded(distributed.from_first(checkpoint.encoded(kept or state.kept())))
    if kept is not None:
        state.take(kept)


def _repeatable() -> Any:
    """Algorithms of cuDNN that give the same bits each time; float32 convolutions (of the E-step) are no TF32."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
