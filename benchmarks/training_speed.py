"""How fast batches are made and how fast they are trained on: data loading must never be the bottleneck.

usage: training_speed.py [--recipe plain] [--em phi2-averaged] [--features 32] [--device auto] [--batches 12]
                         [--threads 0]

Images of real size (volumes of 40 slices on the 256 × 256 grid, random values with one lesion) are loaded as in
training, by 1, 2, 4 … threads, while nothing trains; then trained on without loading (one batch again and again);
then both together, as in training, where `waiting` is the share of the time that a step stood still for its batch.
Exit status 1 when the loader is slower than the step.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.random import Generator
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline import device as devices
from pipeline.preprocess import Preprocessing
from pipeline.unet import Architecture, UNet
from training import batches, losses, steps, unet1, unet2
from training.batches import Batch, Plan, Pool
from training.dataset import Example
from training.loading import Loader, workers
from training.recipes import UNET1, UNET2, Recipe
from training.steps import Objective

GRID = Preprocessing()
SLICES = 40
VOLUMES = 8
PHANTOMS = 4


def example(number: int) -> Example:
    """A volume with a square of consolidation in the middle of every slice."""
    rng = torch.Generator().manual_seed(number)
    values = torch.rand(SLICES, GRID.rows, GRID.columns, generator=rng) * 10
    label = torch.zeros(values.shape, dtype=torch.uint8)
    label[:, 100:140, 100:140] = 2
    lung = torch.ones(values.shape, dtype=torch.bool)
    return Example(f"volume{number}", values, label, lung, positive=number % 2 == 0)


def plans_of(pool: Pool, recipe: Recipe, second: bool, count: int) -> list[Plan]:
    """The first plans of some epochs."""
    epoch: Callable[[Pool, Recipe, Generator, int, float], Iterable[Plan]] = (
        batches.unet2_epoch if second else batches.unet1_epoch
    )
    made: list[Plan] = []
    while len(made) < count:
        made += epoch(pool, recipe, np.random.default_rng(len(made)), Architecture().slices, GRID.hu_per_unit)
    return made[:count]


def objective(recipe: Recipe, second: bool) -> Objective:
    """The loss, and the E-step of UNet-2."""
    if not second:
        measure = unet1.LOSSES[recipe.loss]
        return Objective(lambda logits, batch: measure(logits[:, 0], batch.target))

    def inside(logits: Tensor, batch: Batch) -> Tensor:
        return 1 - losses.smooth_dice(torch.sigmoid(logits[:, 0]) * batch.region, batch.target.float())

    return Objective(inside, lambda model, batch, epoch: unet2.expectation(model, batch, recipe, epoch))  # type: ignore[arg-type]


def speed(images: int, began: float, device: torch.device) -> float:
    """Images per second since then, all work of the device done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return images / (time.perf_counter() - began)


def loading(plans: list[Plan], device: torch.device, threads: int) -> float:
    """Images/s of the loader by itself."""
    began = time.perf_counter()
    return speed(sum(len(batch) for batch in Loader(plans, device, threads)), began, device)


def stepping(net: UNet, batch: Batch, aim: Objective, count: int, device: torch.device) -> float:
    """Images/s of the step by itself."""
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(2):  # warm up
        steps.gradients(net, batch, aim)
    began = time.perf_counter()
    for _ in range(count):
        steps.gradients(net, batch, aim)
        optimizer.step()
    return speed(count * len(batch), began, device)


def together(net: UNet, plans: list[Plan], aim: Objective, device: torch.device) -> tuple[float, float, float]:
    """Images/s of training, its share of waiting for data, and its share of the E-step."""
    optimizer = torch.optim.Adam(net.parameters())
    loader, expect_s, began = Loader(plans, device), 0.0, time.perf_counter()
    for batch in loader:
        expect_s += steps.gradients(net, batch, aim).expect_s
        optimizer.step()
    found = speed(sum(len(plan) for plan in plans), began, device)
    took_s = time.perf_counter() - began
    return found, loader.waited_s / took_s, expect_s / took_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="plain", choices=UNET1)
    parser.add_argument("--em", default="phi2-averaged", choices=UNET2)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    device = devices.choose(asked.device)
    examples = [example(k) for k in range(VOLUMES)]
    pool = Pool(examples, examples, examples[:PHANTOMS])
    table = Table("recipe", "loader alone: images/s by threads", "step alone", "both", "waiting", "E-step")
    slow = False
    for second, recipe in ((False, UNET1[asked.recipe]), (True, UNET2[asked.em])):
        plans = plans_of(pool, recipe, second, asked.batches)
        counts = sorted({1, 2, 4, workers(device)} & set(range(1, (os.cpu_count() or 1) + 1)))
        loaded = {threads: loading(plans, device, threads) for threads in counts}
        net = UNet(Architecture(features=asked.features)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        net.train()
        stepped = stepping(net, plans[0].make(device), objective(recipe, second), asked.batches, device)
        both, waiting, expect = together(net, plans, objective(recipe, second), device)
        slow |= loaded[workers(device)] < stepped
        by_threads = ", ".join(f"{threads}: {rate:.0f}" for threads, rate in loaded.items())
        table.add_row(recipe.name, by_threads, f"{stepped:.1f}", f"{both:.1f}", f"{waiting:.1%}", f"{expect:.0%}")
    console = Console(width=120)
    precision = "bf16" if devices.precision(device) == torch.bfloat16 else "float32"
    console.print(f"{device}, {precision}, features {asked.features}; the loader uses {workers(device)} thread(s)")
    console.print(table)
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
