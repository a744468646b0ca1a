"""Named recipes: every number of a training run is a value here, and travels in the package's manifest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from training.augment import Augmentation
from training.dataset import StackMix

Schedule = Literal["paper_steps", "constant", "cosine"]


class Recipe(BaseModel):
    """One way to train a network.

    Attributes:
        schedule: "paper_steps" divides the rate by 10 after ¼ and after ½ of the epochs (eq. 2's recipe: 50 and 100
            of 200), "cosine" falls to 0.
        crop: rows and columns of the training image, None is the whole network grid. The networks are fully
            convolutional; a crop around the lungs saves a third of the time.
        frozen_norm: batch norm keeps its statistics. A mixture of masked and whole images has other statistics in
            each small batch than on average, and a network fitted to the former fails in inference mode.
        masked: chance that the lung mask is applied to a training image.
        average_last: weights are the mean over so many last epochs; 0 and 1 take the last.
        volume_slices, phantom_slices: drawn per epoch from the volumes and the phantoms, beside the cohort.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    epochs: int = Field(ge=1)
    batch: int = Field(default=16, ge=1)
    rate: float = Field(gt=0)
    schedule: Schedule = "cosine"
    loss: Literal["dice", "bce_dice", "bce_both_dice"] = "dice"
    augmentation: Augmentation = Augmentation()
    stacks: StackMix = StackMix()
    crop: tuple[int, int] | None = None
    masked: float = Field(default=0.0, ge=0, le=1)
    frozen_norm: bool = False
    average_last: int = Field(default=0, ge=0)
    volume_slices: int = Field(default=0, ge=0)
    phantom_slices: int = Field(default=0, ge=0)

    def rate_at(self, epoch: int) -> float:
        """Learning rate of an epoch, from 0."""
        return self.rate * _FACTOR[self.schedule](epoch / self.epochs)


class LungRecipe(Recipe):
    """Recipe of the lung network.

    Attributes:
        slices: drawn per epoch, from each kind of data equally often.
        opacities: chance that opacities are pasted into a slice (`training.pasting`).
        saturated: chance that it is cut off at a HU within `ceiling_hu`, as pictures of a lung window are, so that
            bones are not seen.
        threshold, threshold_if_wide: what its probabilities mean (`pipeline.package.Thresholds`).
        mirrored: it is asked about the mirrored slice too (`pipeline.package.LungFinder`).
    """

    slices: int = Field(default=480, ge=1)
    opacities: float = Field(default=0.8, ge=0, le=1)
    saturated: float = Field(default=0.5, ge=0, le=1)
    ceiling_hu: tuple[float, float] = (10.0, 160.0)
    threshold: float = Field(default=0.5, gt=0, lt=1)
    threshold_if_wide: float | None = Field(default=None, gt=0, lt=1)
    mirrored: bool = False


class EmRecipe(Recipe):
    """Recipe of UNet-2.

    Attributes:
        prior: "phi1" (eq. 12, with b1), "phi2" (eq. 13, with b2 in normalised units and k2), or "split": log odds
            k2·(x̃ − b) with a level b of each image's own (`em.Split`), added to the network's.
        smooth_px: σ of the mean x̃ of "split", pixels of the network grid.
        b2_within: bounds of that level; −500 and −200 HU.
        warm_up: epochs in which the labels come from the prior alone ("split").
        trust: log odds of the network count within ± so much ("split"). A prior that is surer decides alone: a
            network that finds nothing cannot talk itself into finding nothing for ever.
        loss: "dice" is the paper's; else cross entropy inside the region is added.
        consolidation_mm2: what a piece has to cover in a slice to be found (`pipeline.package.Thresholds`).
    """

    prior: Literal["phi1", "phi2", "split"] = "phi2"
    b1: float = Field(default=1.0, ge=0, le=1)
    b2: float = Field(default=9.0, ge=0, le=12)
    k2: float = Field(default=0.5, gt=0, le=20)
    smooth_px: float = Field(default=2.0, ge=0, le=20)
    b2_within: tuple[float, float] = (4.76, 7.49)
    warm_up: int = Field(default=0, ge=0)
    trust: float = Field(default=6.0, gt=0)
    consolidation_mm2: float = Field(default=0.0, ge=0, le=10_000)


def _steps(progress: float) -> float:
    return 1.0 if progress < 0.25 else 0.1 if progress < 0.5 else 0.01


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


_FACTOR = {"paper_steps": _steps, "constant": lambda _: 1.0, "cosine": _cosine}

_MILD = Augmentation(rotation_deg=20, shift=0.05, zoom=0.15, flip_rows=0.0, flip_columns=0.5)
_SHARP = _MILD.model_copy(update={"sharp": True})
_VARIED = _MILD.model_copy(update={"shift_hu": 40.0, "noise_hu": 20.0})  # HU of the cohort are within ± 50
_LUNG_CROP = (192, 208)  # lungs 330 mm wide in a field of 420 mm are 200 pixels

_PLAIN: Mapping[str, Any] = {
    "epochs": 120,
    "batch": 4,
    "rate": 2e-3,
    "loss": "bce_dice",
    "augmentation": _MILD,
    "crop": _LUNG_CROP,
    "average_last": 10,
}

_FROZEN: Mapping[str, Any] = {  # a second stage after it
    **_PLAIN,
    "epochs": 30,
    "rate": 1e-3,
    "average_last": 8,
    "frozen_norm": True,
}
_VOLUMES: Mapping[str, Any] = {  # first stage: real stacks, labelled by whatever labels volumes
    "epochs": 20,
    "batch": 8,
    "rate": 2e-3,
    "loss": "bce_dice",
    "augmentation": _VARIED.model_copy(update={"zoom": 0.2, "shift_hu": 50.0}),
    "stacks": StackMix(repeat_volume=0.5, drop=0.1),
    "crop": _LUNG_CROP,
    "average_last": 4,
    "volume_slices": 320,
}
_FINE: Mapping[str, Any] = {  # second stage: experts' labels
    "epochs": 90,
    "batch": 4,
    "rate": 1e-3,
    "loss": "bce_both_dice",
    "augmentation": _MILD.model_copy(update={"zoom": 0.2, "shift_hu": 30.0, "noise_hu": 10.0}),
    "crop": _LUNG_CROP,
    "average_last": 15,
}

UNET1: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="paper", epochs=200, rate=1e-2, schedule="paper_steps"),
        Recipe(name="plain", **_PLAIN),
        # what `plain` changes in `paper`, taken back one at a time (docs/results.md, "What each step gives")
        Recipe(name="plain-dice", **{**_PLAIN, "loss": "dice"}),
        Recipe(name="plain-rotated", **{**_PLAIN, "augmentation": Augmentation()}),
        Recipe(name="plain-lungs", **_PLAIN, masked=1.0),
        Recipe(name="plain-lungs-sharp", **{**_PLAIN, "augmentation": _SHARP}, masked=1.0),
        Recipe(name="plain-frozen", **_FROZEN),
        Recipe(name="plain-sharp", **{**_FROZEN, "augmentation": _SHARP}),
        Recipe(name="plain-lungs-sharp-frozen", **{**_FROZEN, "augmentation": _SHARP}, masked=1.0),
        Recipe(name="volumes-whole", **_VOLUMES),
        Recipe(name="fine-whole", **_FINE),
        Recipe(name="volumes", masked=1.0, phantom_slices=40, **_VOLUMES),
        Recipe(
            name="fine",
            masked=1.0,
            stacks=StackMix(repeat_single=0.85, repeat_volume=0.2, drop=0.1),
            volume_slices=14,
            phantom_slices=12,
            **{
                **_FINE,
                "epochs": 60,
                "average_last": 12,
                "augmentation": _FINE["augmentation"].model_copy(update={"sharp": True}),
            },
        ),
    )
}

LUNGS: Mapping[str, LungRecipe] = {
    recipe.name: recipe
    for recipe in (
        LungRecipe(
            name="lungs",
            epochs=60,
            batch=8,
            rate=2e-3,
            loss="bce_dice",
            augmentation=Augmentation(
                rotation_deg=15,
                shift=0.06,
                zoom=0.25,
                flip_rows=0.0,
                flip_columns=0.5,
                shift_hu=60.0,
                noise_hu=40.0,
            ),
            average_last=6,
            threshold=0.62,
            threshold_if_wide=0.03,
            mirrored=True,
        ),
    )
}

_AVERAGED: Mapping[str, Any] = {
    "epochs": 14,
    "batch": 8,
    "rate": 5e-4,
    "schedule": "constant",
    "augmentation": _MILD,
    "crop": _LUNG_CROP,
    "average_last": 7,
}

_SPLIT: Mapping[str, Any] = {
    **_AVERAGED,
    "epochs": 12,
    "schedule": "cosine",
    "average_last": 5,
    "prior": "split",
    "k2": 1.5,
    "warm_up": 2,
    "consolidation_mm2": 100.0,
}

UNET2: Mapping[str, EmRecipe] = {
    recipe.name: recipe
    for recipe in (
        EmRecipe(name="paper-phi1", epochs=50, rate=5e-4, schedule="constant", prior="phi1"),
        EmRecipe(name="paper-phi2", epochs=50, rate=5e-4, schedule="constant", prior="phi2"),
        EmRecipe(name="phi1-averaged", prior="phi1", **_AVERAGED),
        EmRecipe(name="phi2-averaged", prior="phi2", **_AVERAGED),
        EmRecipe(name="phi2-steep", prior="phi2", k2=1.0, **_AVERAGED),
        EmRecipe(name="split-whole", **_SPLIT),
        EmRecipe(name="phi1-lungs", prior="phi1", masked=1.0, **_AVERAGED),
        EmRecipe(name="phi2-lungs", prior="phi2", masked=1.0, **_AVERAGED),
        EmRecipe(name="split-lungs", masked=1.0, **_SPLIT),
        EmRecipe(
            name="phi2",
            prior="phi2",
            masked=1.0,
            stacks=StackMix(repeat_single=0.85, drop=0.1),
            phantom_slices=16,
            consolidation_mm2=100.0,
            **_AVERAGED,
        ),
        EmRecipe(
            name="split",
            masked=1.0,
            stacks=StackMix(repeat_single=0.85, drop=0.1),
            phantom_slices=16,
            **_SPLIT,
        ),
    )
}

_TOY: Mapping[str, Any] = {  # phantoms on a grid of 128 × 128, for a first look
    "augmentation": Augmentation(rotation_deg=15, shift=0.05, zoom=0.1, flip_rows=0.0, flip_columns=0.5),
    "crop": (80, 112),
    "masked": 1.0,
    "average_last": 3,
}
TOY = Recipe(name="toy", epochs=20, batch=4, rate=2e-3, loss="bce_dice", **_TOY)
TOY_EM = EmRecipe(
    name="toy-split",
    epochs=6,
    batch=8,
    rate=1e-3,
    loss="bce_dice",
    prior="split",
    k2=1.5,
    smooth_px=0.7,
    b2_within=(7.04, 7.49),  # −250 … −200 HU: drawn chests are not off
    warm_up=2,
    **_TOY,
)
