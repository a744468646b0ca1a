"""The prior of an EM recipe chosen on the training part of a fold, so that no held-out case has a say in it.

A candidate is judged by the prior alone (method: nothing is trained for it, so the training part serves as its
validation data) inside the labelled infection, which is m in training (Table I of the paper). Two ways to judge:
by the pixel labels of consolidation, and by image-level labels alone, as a cohort without contours has them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.preprocess import Preprocessing
from training import checkpoint, em, rates
from training.dataset import Example
from training.errors import CohortError
from training.recipes import EmRecipe
from training.score import Overlap, pooled_dice

By = Literal["pixel-labels", "image-labels"]
WAYS: tuple[By, ...] = ("pixel-labels", "image-labels")
SMOOTH_PX = (1.0, 2.0, 3.0, 4.0, 6.0)
LEVELS_HU = (-500.0, -450.0, -400.0, -350.0, -300.0, -250.0, -200.0)  # bounds of a level; both alike: it is fixed
CONSOLIDATION = 2
_LACKS: Mapping[By, str] = {
    "pixel-labels": "no case of the training part has consolidation contoured",
    "image-labels": "the training part has cases of one kind only",
}


@dataclass(frozen=True)
class Judgement:
    """A candidate and what it is worth on the training part.

    Attributes:
        dice: mean of the per-case mean and the pooled Dice of the prior alone; None without pixel labels of
            consolidation.
        auc: area under the ROC curve of its share of the lungs (without lung masks: of the image), cases with
            against cases without consolidation by their image-level labels; None where there is one kind only.
    """

    recipe: EmRecipe
    dice: float | None
    auc: float | None


def judge(recipe: EmRecipe, cases: Sequence[Example], settings: Preprocessing) -> list[Judgement]:
    """Every candidate for the recipe's prior; the recipe itself comes first.

    Raises CohortError where no case has a labelled infection.
    """
    seen = [case for case in cases if bool((case.label > 0).any() and case.lung.any())]
    if not seen:
        raise CohortError("a prior is chosen inside the labelled infection: no case of the training part has one")
    tried = list(candidates(recipe, settings))
    by_case = [_try(tried, case) for case in seen]
    positive = [case.positive for case in seen]
    return [_judged(one, found, positive) for one, found in zip(tried, zip(*by_case, strict=True), strict=True)]


def best(judged: Sequence[Judgement], by: By) -> Judgement:
    """The candidate that does best; of equals the first. Raises CohortError without the labels that this takes."""
    values = [one.dice if by == "pixel-labels" else one.auc for one in judged]
    known = [(value, -index) for index, value in enumerate(values) if value is not None]
    if not known:
        raise CohortError(f"the prior cannot be chosen by {by}: {_LACKS[by]}; leave --choose out")
    return judged[-max(known)[1]]


def candidates(recipe: EmRecipe, settings: Preprocessing) -> Iterator[EmRecipe]:
    """The recipe as it is, then with every other prior of its family, named after what differs.

    "split": σ and the bounds of the level. "phi2": b₂ (k₂ does not move the border of the prior alone). "phi1"
    says the same of every pixel: there is nothing to choose.
    """
    yield recipe
    changes = {"split": _splits, "phi2": _levels, "phi1": _nothing}[recipe.prior](settings)
    for words, change in changes.items():
        other = recipe.model_copy(update={"name": f"{recipe.name}-{words}", **change})
        if other.model_dump(exclude={"name"}) != recipe.model_dump(exclude={"name"}):
            yield other


def _splits(settings: Preprocessing) -> Mapping[str, dict[str, object]]:
    return {
        f"s{smooth:g}m{-low:.0f}m{-high:.0f}": {
            "smooth_px": smooth,
            "b2_within": (_normalised(low, settings), _normalised(high, settings)),
        }
        for smooth, (low, high) in product(SMOOTH_PX, combinations_with_replacement(LEVELS_HU, 2))
    }


def _levels(settings: Preprocessing) -> Mapping[str, dict[str, object]]:
    return {f"b{b2:g}": {"b2": b2} for b2 in rates.B2}


def _nothing(settings: Preprocessing) -> Mapping[str, dict[str, object]]:
    return {}


def _normalised(hu: float, settings: Preprocessing) -> float:
    return round(float(settings.normalise(torch.tensor(hu))), 2)


@dataclass(frozen=True)
class _Trial:
    """What a candidate finds in a case: against the pixel labels, and as a share of the lungs."""

    overlap: Overlap
    share: float


def _try(tried: Sequence[EmRecipe], case: Example) -> list[_Trial]:
    """Each candidate's prior alone inside the labelled infection, without a network and without z."""
    region = case.label > 0
    if tried[0].masked:  # what the mask has emptied is not seen in training either; all candidates say the same
        region = region & case.lung
    split = functools.cache(functools.partial(em.split, case.values, region))  # its σ is what takes the time
    trials = []
    for recipe in tried:
        found = _alone(recipe, case.values, region, split)
        trials.append(_Trial(_overlap(found, case), float(found.sum() / case.lung.sum())))
    return trials


def _alone(recipe: EmRecipe, x: Tensor, region: Tensor, split: Callable[[float], em.Split]) -> Tensor:
    every = torch.ones(len(x), dtype=torch.bool)
    if recipe.prior == "split":
        return em.e_step_of_odds(split(recipe.smooth_px).log_odds(recipe.k2, recipe.b2_within), region, every)
    if recipe.prior == "phi1":
        return em.e_step(torch.zeros_like(x), em.constant_prior(x, recipe.b1), region, every)
    return em.threshold_rival(x, region, recipe.b2)


def _judged(recipe: EmRecipe, trials: Sequence[_Trial], positive: Sequence[bool | None]) -> Judgement:
    overlaps = [one.overlap for one in trials]
    dice = None
    if any(one.both + one.label_only for one in overlaps):
        dice = (float(np.mean([one.dice for one in overlaps])) + pooled_dice(overlaps)) / 2
    return Judgement(recipe, dice, _auc([one.share for one in trials], positive))


def _overlap(found: Tensor, case: Example) -> Overlap:
    label = case.label >= CONSOLIDATION
    both = int((found & label).sum())
    return Overlap(case.name, both, int(found.sum()) - both, int(label.sum()) - both)


def _auc(shares: Sequence[float], positive: Sequence[bool | None]) -> float | None:
    kinds = [[share for share, one in zip(shares, positive, strict=True) if one is z] for z in (True, False)]
    if not all(kinds):
        return None
    from scipy import stats  # takes half a second to load: only whoever chooses waits for it

    u = stats.mannwhitneyu(kinds[0], kinds[1]).statistic
    return float(u) / (len(kinds[0]) * len(kinds[1]))


def write(path: Path, rows: Sequence[tuple[int, str, Judgement]]) -> None:
    """CSV of fold, arm, the recipe taken, and what that was worth on the training part; whole or not at all."""
    lines = ["fold,arm,recipe,dice,auc"]
    for fold, arm, one in rows:
        dice, auc = ("" if value is None else f"{value:.4f}" for value in (one.dice, one.auc))
        lines.append(f"{fold},{arm},{one.recipe.name},{dice},{auc}")
    checkpoint.write(path, ("\n".join(lines) + "\n").encode())
