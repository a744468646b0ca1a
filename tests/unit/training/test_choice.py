"""A prior that the training part of a fold chooses: by pixel labels, and by image-level labels alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.preprocess import Preprocessing
from training import choice
from training.dataset import Example
from training.errors import CohortError
from training.recipes import UNET2, EmRecipe

GRID = Preprocessing(rows=32, columns=32)
SPLIT = UNET2["split-whole"]
GLASS_HU, DENSE_HU = -600.0, -50.0


def case(name: str, dense: bool, border_hu: float = -320.0, vessels: bool = False) -> Example:
    """An infected square; in its right half, where `dense`, consolidation whose rim lies at `border_hu`."""
    hu, label = np.full((1, 32, 32), -850.0), np.zeros((1, 32, 32), np.uint8)
    hu[0, 4:28, 4:28], label[0, 4:28, 4:28] = GLASS_HU, 1
    if dense:
        hu[0, 4:28, 16:28] = border_hu + 5  # the rim
        hu[0, 4:28, 20:28] = DENSE_HU
        label[0, 4:28, 16:28] = 2
    if vessels:
        hu[0, 6:26:6, 4:28] = DENSE_HU
    values = GRID.normalise(torch.from_numpy(hu.astype(np.float32)))
    return Example(name, values, torch.from_numpy(label), torch.ones(1, 32, 32, dtype=torch.bool), dense)


def cohort(border_hu: float = -320.0, vessels: bool = True) -> list[Example]:
    ill = [case(f"p{k}", True, border_hu, vessels) for k in range(4)]
    return ill + [case(f"n{k}", False, vessels=vessels) for k in range(4)]


def bounds_hu(recipe: EmRecipe) -> tuple[int, int]:
    low, high = (round(one * GRID.hu_per_unit + GRID.hu_min, -1) for one in recipe.b2_within)
    return int(low), int(high)


def test_candidates_begin_with_the_recipe_and_have_names_of_their_own() -> None:
    made = list(choice.candidates(SPLIT, GRID))
    assert made[0] == SPLIT
    assert len({one.name for one in made}) == len(made) > 100
    assert len({one.model_dump_json(exclude={"name"}) for one in made}) == len(made)
    assert list(choice.candidates(UNET2["phi1-averaged"], GRID)) == [UNET2["phi1-averaged"]]
    assert {one.b2 for one in choice.candidates(UNET2["phi2-averaged"], GRID)} >= {7.0, 9.0, 10.5}


@pytest.mark.parametrize("border", [-440, -340, -240])
def test_pixel_labels_choose_a_level_that_finds_the_rim_that_was_drawn(border: int) -> None:
    judged = choice.judge(SPLIT, cohort(border, vessels=False), GRID)
    chosen = choice.best(judged, "pixel-labels")
    assert chosen.dice == max(one.dice or 0.0 for one in judged)
    assert chosen.dice == pytest.approx(1.0, abs=0.02)
    assert bounds_hu(chosen.recipe)[0] <= border
    high = [one.dice or 0.0 for one in judged if bounds_hu(one.recipe)[0] > border + 60]
    assert all(dice < 0.98 for dice in high)  # a level above the rim loses it


def test_image_level_labels_choose_without_a_contour_of_consolidation() -> None:
    """With vessels in every case some priors cannot tell the cases apart; one that can is taken."""
    blind = [Example(one.name, one.values, one.label.clamp(max=1), one.lung, one.positive) for one in cohort()]
    judged = choice.judge(SPLIT, blind, GRID)
    assert all(one.dice is None for one in judged)
    chosen = choice.best(judged, "image-labels")
    assert chosen.auc == 1.0
    assert min(one.auc or 0.0 for one in judged) < 0.6
    with pytest.raises(CohortError, match="by pixel-labels: no case .* has consolidation contoured"):
        choice.best(judged, "pixel-labels")


def test_cases_in_which_no_lungs_were_found_have_no_say() -> None:
    lost = [replace(one, lung=torch.zeros_like(one.lung)) for one in cohort()]
    told = choice.judge(UNET2["phi2-averaged"], [*cohort(), *lost], GRID)
    assert told == choice.judge(UNET2["phi2-averaged"], cohort(), GRID)


def test_under_a_mask_only_what_it_leaves_is_judged() -> None:
    """The mask cuts the consolidation off: what is left is ground glass, in which nothing is to be found."""
    aerated = torch.zeros(1, 32, 32, dtype=torch.bool)
    aerated[0, :, :16] = True
    cut = [replace(one, lung=aerated, label=one.label * aerated) for one in cohort(vessels=False)]
    whole = [replace(one, lung=aerated) for one in cohort(vessels=False)]
    assert UNET2["split"].masked
    masked, plain = (choice.judge(recipe, whole, GRID)[0] for recipe in (UNET2["split"], SPLIT))
    assert masked.auc == choice.judge(SPLIT, cut, GRID)[0].auc == 0.5
    assert plain.auc == 1.0


def test_of_equals_the_first_is_taken() -> None:
    judged = [choice.Judgement(recipe, 0.5, 0.5) for recipe in (SPLIT, UNET2["split"])]
    assert choice.best(judged, "pixel-labels").recipe == choice.best(judged, "image-labels").recipe == SPLIT


def test_no_labelled_infection_is_said() -> None:
    healthy = replace(case("n", False), label=torch.zeros(1, 32, 32, dtype=torch.uint8))
    for cases in ([], [healthy]):
        with pytest.raises(CohortError, match="no case of the training part has one"):
            choice.judge(SPLIT, cases, GRID)


def test_one_kind_of_image_level_label_is_said() -> None:
    judged = choice.judge(UNET2["phi2-averaged"], [case("p", True)], GRID)
    with pytest.raises(CohortError, match="one kind only"):
        choice.best(judged, "image-labels")


def test_the_table_of_choices(tmp_path: Path) -> None:
    rows = [(0, "a", choice.Judgement(SPLIT, 0.5, None)), (1, "b", choice.Judgement(SPLIT, None, 0.25))]
    choice.write(tmp_path / "choices.csv", rows)
    assert (tmp_path / "choices.csv").read_text().splitlines() == [
        "fold,arm,recipe,dice,auc",
        "0,a,split-whole,0.5000,",
        "1,b,split-whole,,0.2500",
    ]
