"""UNet-2: consolidation inside the infected region, by hard EM from image-level labels only.

Eq. 10–13 and Table I of the paper.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from pipeline.preprocess import Preprocessing
from pipeline.unet import UNet
from training import batches, em, losses
from training.batches import Batch, Pool
from training.errors import CohortError, RunError
from training.loop import Run, train
from training.recipes import EmRecipe
from training.steps import Objective, forward


def fit(start: UNet, pool: Pool, settings: Preprocessing, run: Run) -> UNet:
    """Train UNet-2 from the weights of UNet-1, on the cohort and the phantoms.

    Pixel labels serve only as the infected region m. Raises CohortError where all known cases are of one kind.
    """
    if not isinstance(run.recipe, EmRecipe):
        raise RunError(f"recipe {run.recipe.name!r} is not one of UNet-2")
    recipe = run.recipe
    known = Pool(*([e for e in kind if e.positive is not None] for kind in (pool.cohort, (), pool.phantoms)))
    if len({example.positive for example in (*known.cohort, *known.phantoms)}) < 2:
        raise CohortError("UNet-2 learns from cases with and without consolidation; this cohort has one kind only")

    def measure(logits: Tensor, batch: Batch) -> Tensor:
        return losses.region_loss(logits[:, 0], batch.target, batch.region, recipe.loss != "dice")

    width = start.arch.slices
    return train(
        copy.deepcopy(start),
        run,
        lambda rng: batches.unet2_epoch(known, recipe, rng, width, settings.hu_per_unit),
        Objective(measure, lambda model, batch, epoch: expectation(model, batch, recipe, epoch)),
    )


@torch.no_grad()
def expectation(model: UNet, batch: Batch, recipe: EmRecipe, epoch: int = 0) -> Tensor:
    """E-step on the augmented batch: batch norm in inference mode, no gradient. Leaves the mode as it was."""
    x = batch.stacks[:, batch.stacks.shape[1] // 2]
    if recipe.prior == "split":
        odds = em.split(x, batch.region, recipe.smooth_px).log_odds(recipe.k2, recipe.b2_within)
        if epoch >= recipe.warm_up:
            odds = odds + em.bounded(_logits(model, batch), recipe.trust)
        return em.e_step_of_odds(odds, batch.region, batch.positive)
    f = torch.sigmoid(_logits(model, batch)) * batch.region
    if recipe.prior == "phi1":
        prior = em.constant_prior(x, recipe.b1)
    else:
        prior = em.intensity_prior(x, recipe.b2, recipe.k2)
    return em.e_step(f, prior, batch.region, batch.positive)


def _logits(model: UNet, batch: Batch) -> Tensor:
    training = model.training
    model.eval()
    logits = forward(model, batch.stacks)[:, 0]
    model.train(training)
    return logits
