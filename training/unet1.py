"""UNet-1: infection, supervised (eq. 2)."""

from __future__ import annotations

import copy

import torch

from pipeline.preprocess import Preprocessing
from pipeline.unet import Architecture, UNet
from training import batches, losses
from training.batches import Pool
from training.loop import Run, train
from training.steps import Objective

LOSSES = {
    "dice": losses.dice_loss,
    "bce_dice": losses.bce_dice_loss,
    "bce_both_dice": losses.bce_both_dice_loss,
}


def fit(pool: Pool, arch: Architecture, settings: Preprocessing, run: Run, start: UNet | None = None) -> UNet:
    """Train UNet-1 on the pool by the run's recipe, from random weights or from those of `start`."""
    torch.manual_seed(run.seed)  # the first weights
    measure = LOSSES[run.recipe.loss]
    return train(
        copy.deepcopy(start) if start is not None else UNet(arch),
        run,
        lambda rng: batches.unet1_epoch(pool, run.recipe, rng, arch.slices, settings.hu_per_unit),
        Objective(lambda logits, batch: measure(logits[:, 0], batch.target)),
    )
