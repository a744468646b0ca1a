"""The lung network: from slices whose lungs a threshold finds, with synthetic opacities pasted into them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.random import Generator
from scipy import ndimage

from pipeline import preprocess
from pipeline.arrays import MaskArray
from pipeline.preprocess import Preprocessing
from pipeline.unet import Architecture, UNet
from training import augment, losses, opacities, pasting
from training.batches import Plan
from training.dataset import Example, Source
from training.errors import CohortError, RunError
from training.loop import Run, train
from training.pasting import Pasted
from training.recipes import LungRecipe
from training.steps import Objective

MOST_INFECTED = 0.35  # of the lungs of a slice, beyond which its border is not believed
MOST_LOST = 0.06  # of the lungs: labelled infection that the lung method has left out
CLOSE = 1 / 64  # of the width


def example(source: Source, settings: Preprocessing, experts: bool = False) -> Example | None:
    """The slices of a case whose lungs can be believed, every source slice by itself; None: there are none.

    The border is that of the case's lung mask, joined with what is labelled as infected and closed. Slices with
    much infection, or with infection that the mask lost, are left out unless the labels are those of experts.
    Raises CohortError without a lung mask.
    """
    if source.lung is None:
        raise CohortError(f"{source.case.name} has no lungs to learn from")
    each = preprocess.plan(len(source.hu), settings.resample_below_mm, settings)  # no resampling along z
    lungs = preprocess.labels(source.lung, each, settings).numpy()
    infected = np.zeros_like(lungs)
    if source.label is not None:
        infected = preprocess.labels(source.label, each, settings).numpy() > 0
    borders = {index: _border(*pair) for index, pair in enumerate(zip(lungs, infected, strict=True))}
    believed = {k: border for k, border in borders.items() if experts or _is_seen(border, lungs[k], infected[k])}
    if not believed:
        return None
    values = preprocess.values(source.hu, each, settings)[list(believed)]
    label = torch.from_numpy(np.stack(list(believed.values())).astype(np.uint8))
    return Example(source.case.name, values, label, label > 0)


def _border(lungs: MaskArray, infected: MaskArray) -> MaskArray:
    pixels = round(CLOSE * lungs.shape[1])
    whole = np.pad(lungs | infected, pixels + 1)
    closed = ndimage.binary_fill_holes(ndimage.binary_closing(whole, iterations=pixels))
    inner = slice(pixels + 1, -pixels - 1)
    return np.asarray(closed[inner, inner], dtype=np.bool_)


def _is_seen(border: MaskArray, lungs: MaskArray, infected: MaskArray) -> bool:
    area, ill, lost = (int(np.count_nonzero(mask)) for mask in (border, infected, infected & ~lungs))
    return ill <= MOST_INFECTED * area and lost <= MOST_LOST * area


def fit(kinds: Sequence[Sequence[Example]], arch: Architecture, settings: Preprocessing, run: Run) -> UNet:
    """Train on examples of several kinds (volumes, healthy cases, phantoms), each drawn equally often.

    Raises RunError where the recipe is of another network, CohortError where a kind has no examples.
    """
    recipe = run.recipe
    if not isinstance(recipe, LungRecipe):
        raise RunError(f"recipe {recipe.name!r} is not one of the lung network")
    if not kinds or not all(kinds):
        raise CohortError("the lung network needs slices whose lungs can be believed; a kind of data has none")
    torch.manual_seed(run.seed)  # the first weights
    return train(
        UNet(arch),
        run,
        lambda rng: _epoch(kinds, recipe, settings, rng),
        Objective(lambda logits, batch: losses.bce_dice_loss(logits[:, 0], batch.target)),
    )


def _epoch(
    kinds: Sequence[Sequence[Example]], recipe: LungRecipe, settings: Preprocessing, rng: Generator
) -> Iterator[Plan]:
    for _ in range(max(1, recipe.slices // recipe.batch)):
        draws = [_draw(kinds[int(rng.integers(len(kinds)))], recipe, settings, rng) for _ in range(recipe.batch)]
        changes = [augment.draw(rng, recipe.augmentation) for _ in draws]
        yield Plan(draws, changes, recipe.crop, settings.hu_per_unit)


def _draw(examples: Sequence[Example], recipe: LungRecipe, settings: Preprocessing, rng: Generator) -> Pasted:
    chosen = examples[int(rng.integers(len(examples)))]
    centre = int(rng.integers(len(chosen)))
    pasted = opacities.draw(rng) if rng.random() < recipe.opacities else ()
    limit = pasting.ceiling(rng, recipe.saturated, recipe.ceiling_hu, settings)
    return Pasted(chosen, centre, torch.tensor([centre]), False, settings, pasted, limit)
