"""Draw and application of augmentations, and what an epoch is made of."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch

from pipeline.preprocess import ABSENT
from training import augment, batches, dataset
from training.augment import Augmentation, Change
from training.batches import Batch, Plan, Pool
from training.dataset import Example, StackMix
from training.recipes import UNET1, UNET2, EmRecipe, Recipe

SIZE = (32, 32)


def picture() -> torch.Tensor:
    return torch.rand(1, 2, *SIZE, generator=torch.Generator().manual_seed(0))


def test_no_change_is_no_change() -> None:
    torch.testing.assert_close(augment.apply(picture(), [Change()], SIZE), picture(), atol=1e-5, rtol=0)


def test_flips_are_mirrors() -> None:
    for axis, flip in ((2, (True, False)), (3, (False, True))):
        found = augment.apply(picture(), [Change(flip=flip)], SIZE)
        torch.testing.assert_close(found, picture().flip(axis), atol=1e-4, rtol=0)


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    found = augment.apply(picture(), [Change(angle=np.pi / 2)], SIZE)
    turned = [torch.rot90(picture(), k, (2, 3)) for k in (1, 3)]
    assert min(float((found - one).abs().max()) for one in turned) < 1e-3


def test_a_shift_moves_and_the_outside_is_zero() -> None:
    found = augment.apply(picture(), [Change(shift=(0.25, 0.0))], SIZE)
    torch.testing.assert_close(found[:, :, 8:], picture()[:, :, :24], atol=1e-4, rtol=0)
    assert not found[:, :, :8].any()


def test_zoom_enlarges_about_the_middle() -> None:
    image = torch.zeros(1, 1, *SIZE)
    image[..., 12:20, 12:20] = 1
    found = augment.apply(image, [Change(zoom=(2.0, 1.0))], SIZE) > 0.5
    rows, columns = found[0, 0].any(1).sum(), found[0, 0].any(0).sum()
    assert (int(rows), int(columns)) == (16, 8)


def test_a_crop_is_the_middle() -> None:
    found = augment.apply(picture(), [Change()], (16, 20))
    torch.testing.assert_close(found, picture()[..., 8:24, 6:26], atol=1e-5, rtol=0)


def blocks() -> torch.Tensor:
    """Squares of two pixels, 0 and 1: the finest pattern that survives a shift."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    return (((rows // 2 + columns // 2) % 2).float())[None, None]


def test_sharp_is_sharper_and_stays_in_the_range_of_the_image() -> None:
    half = 0.5 / 32
    made = {
        sharp: augment.apply(blocks(), [Change(angle=0.3, shift=(half, half), sharp=sharp)], (16, 16))
        for sharp in (False, True)
    }
    assert made[True].std() > 1.05 * made[False].std()
    assert (made[True].min(), made[True].max()) == (0, 1)
    assert augment.draw(np.random.default_rng(0), Augmentation(sharp=True)).sharp


def test_sharp_changes_nothing_where_nothing_moves() -> None:
    found = augment.apply(picture(), [Change(sharp=True)], SIZE)
    torch.testing.assert_close(found, picture(), atol=1e-5, rtol=0)


def test_a_draw_stays_in_its_ranges_and_repeats() -> None:
    ranges = Augmentation(
        rotation_deg=10, shift=0.02, zoom=0.3, flip_rows=0, flip_columns=1, shift_hu=5, noise_hu=3
    )
    draws = [augment.draw(np.random.default_rng(seed), ranges) for seed in range(50)]
    assert draws == [augment.draw(np.random.default_rng(seed), ranges) for seed in range(50)]
    assert max(abs(d.angle) for d in draws) <= np.radians(10)
    assert all(0.7 <= z <= 1.3 for d in draws for z in d.zoom)
    assert all(d.flip == (False, True) for d in draws)
    assert np.std([d.offset_hu for d in draws]) > 1


def test_intensity_changes_leave_the_fill_alone() -> None:
    stacks = torch.zeros(1, 7, 8, 8)
    stacks[..., 4:] = 5.0
    found = augment.intensity(stacks, [Change(offset_hu=110, noise_hu=11, noise_seed=3)], 110.0)
    assert not found[..., :4].any()
    assert float(found[..., 4:].mean()) == pytest.approx(6.0, abs=0.02)
    assert float(found[..., 4:].std()) == pytest.approx(0.1, rel=0.2)


def example(slices: int, positive: bool | None = None, name: str = "e") -> Example:
    values = torch.arange(1.0, slices + 1)[:, None, None].expand(slices, 32, 32).clone()
    label = torch.zeros(slices, 32, 32, dtype=torch.uint8)
    label[:, :16] = 1
    lung = torch.zeros(slices, 32, 32, dtype=torch.bool)
    lung[:, :, :8] = True
    return Example(name, values, label, lung, positive)


def channels(mix: StackMix, slices: int, centre: int, seed: int = 0) -> list[float]:
    rng = np.random.default_rng(seed)
    return dataset.draw(rng, example(slices), centre, 7, mix, 0.0).stack()[:, 0, 0].tolist()


def test_kinds_of_stacks() -> None:
    assert channels(StackMix(repeat_single=1), 1, 0) == [1.0] * 7
    assert channels(StackMix(repeat_single=0), 1, 0) == [0, 0, 0, 1, 0, 0, 0]
    assert channels(StackMix(), 9, 1) == [0, 0, 1, 2, 3, 4, 5]
    assert channels(StackMix(repeat_volume=1), 9, 4) == [5.0] * 7


def test_dropped_neighbours_leave_the_centre() -> None:
    mix = StackMix(drop=1)
    kinds = {tuple(channels(mix, 9, 4, seed)) for seed in range(60)}
    assert kinds == {
        tuple(float(k) if low <= k <= high else 0.0 for k in range(2, 9))
        for low, high in [(5, 8), (4, 8), (3, 8), (2, 5), (2, 6), (2, 7)]
    }


def test_the_lung_mask_fills_and_clips_the_label() -> None:
    drawn = dataset.draw(np.random.default_rng(0), example(3), 1, 7, StackMix(), masked=1.0)
    assert not drawn.stack()[:, :, 8:].any()
    assert drawn.label().sum() == 16 * 8
    assert drawn.indices[0] == ABSENT


RECIPE = Recipe(name="t", epochs=2, rate=1e-3, batch=4, volume_slices=6, phantom_slices=3)


def made_of(plans: Iterable[Plan]) -> list[Batch]:
    return [plan.make(torch.device("cpu")) for plan in plans]


def test_an_epoch_holds_the_cohort_once_and_the_rest_by_number() -> None:
    pool = Pool([example(1)] * 5, [example(20)], [example(4)])
    made = made_of(batches.unet1_epoch(pool, RECIPE, np.random.default_rng(0), 7, 110.0))
    assert [len(batch.stacks) for batch in made] == [4, 4, 4, 2]
    again = made_of(batches.unet1_epoch(pool, RECIPE, np.random.default_rng(0), 7, 110.0))
    assert all(torch.equal(a.stacks, b.stacks) for a, b in zip(made, again, strict=True))
    other = made_of(batches.unet1_epoch(pool, RECIPE, np.random.default_rng(1), 7, 110.0))
    assert not torch.equal(made[0].stacks, other[0].stacks)


def test_a_single_left_over_image_joins_the_batch_before() -> None:
    made = made_of(batches.unet1_epoch(Pool([example(1)] * 9), RECIPE, np.random.default_rng(0), 7, 110.0))
    assert [len(batch.stacks) for batch in made] == [4, 5]


def test_em_batches_hold_both_kinds_and_repeat_the_rarer() -> None:
    examples = [example(1, True)] * 6 + [example(1, False, "n")] * 2
    made = made_of(batches.unet2_epoch(Pool(examples), RECIPE, np.random.default_rng(0), 7, 110.0))
    assert [batch.positive.tolist() for batch in made] == [[True, False] * 2] * 3


def test_recipes_are_named_and_the_papers_is_as_printed() -> None:
    assert all(recipe.name == name for book in (UNET1, UNET2) for name, recipe in book.items())
    paper = UNET1["paper"]
    assert [paper.rate_at(e) for e in (0, 49, 50, 99, 100, 199)] == pytest.approx(
        [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4]
    )
    assert (paper.epochs, paper.batch, paper.loss, paper.average_last) == (200, 16, "dice", 0)
    em = UNET2["paper-phi2"]
    assert isinstance(em, EmRecipe)
    assert (em.b2, em.k2, em.epochs, em.rate_at(49), em.loss) == (9.0, 0.5, 50, 5e-4, "dice")
