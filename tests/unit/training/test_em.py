"""The E-step and its priors against the equations, value by value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.unet import Architecture, UNet
from training import em, unet2
from training.batches import Batch
from training.losses import bce_dice_loss, dice_loss, region_loss, smooth_dice
from training.recipes import EmRecipe

ONE = torch.ones(1, 1, 1, dtype=torch.bool)
POSITIVE = torch.tensor([True])


def label(f: float, prior: torch.Tensor, region: torch.Tensor = ONE, positive: torch.Tensor = POSITIVE) -> bool:
    return bool(em.e_step(torch.full((1, 1, 1), f), prior, region, positive))


def at(x: float) -> torch.Tensor:
    return torch.full((1, 1, 1), x)


@pytest.mark.parametrize("f", [0.0, 0.1, 0.3, 0.49, 0.51, 0.9, 1.0])
@pytest.mark.parametrize("x", [0.0, 6.0, 8.9, 9.0, 9.1, 10.76])
@pytest.mark.parametrize("k2", [0.5, 1.0, 4.0])
def test_the_intensity_prior_is_eq_10_with_eq_13(f: float, x: float, k2: float) -> None:
    s = float(torch.sigmoid(torch.tensor(k2 * (x - 9.0))))
    expected = f + min(1.0, s + 0.5) > 1 or (f == 0 and x > 9.0)
    assert label(f, em.intensity_prior(at(x), 9.0, k2)) is expected


def test_at_f_zero_a_dense_pixel_is_consolidation() -> None:
    assert label(0.0, em.intensity_prior(at(9.2), 9.0, 0.5))
    assert not label(0.0, em.intensity_prior(at(8.8), 9.0, 0.5))


@pytest.mark.parametrize(("b1", "f", "expected"), [(1.0, 0.01, True), (0.6, 0.39, False), (0.6, 0.41, True)])
def test_the_constant_prior_is_eq_12(b1: float, f: float, expected: bool) -> None:
    assert label(f, em.constant_prior(at(0.0), b1)) is expected


def test_a_negative_image_and_the_outside_get_no_label() -> None:
    sure = em.intensity_prior(at(10.0), 9.0, 0.5)
    assert label(1.0, sure)
    assert not label(1.0, sure, positive=torch.tensor([False]))
    assert not label(1.0, sure, region=~ONE)


def test_the_label_of_each_image_is_its_own() -> None:
    f, x = torch.full((2, 2, 2), 0.9), torch.full((2, 2, 2), 10.0)
    found = em.e_step(f, em.intensity_prior(x, 9.0, 0.5), torch.ones(2, 2, 2), torch.tensor([False, True]))
    assert found.sum(dim=(1, 2)).tolist() == [0, 4]


def test_the_rival_is_a_threshold_inside_the_region() -> None:
    x = torch.tensor([[[7.0, 8.0], [8.0, 7.0]]])
    region = torch.tensor([[[1, 1], [0, 0]]])
    assert em.threshold_rival(x, region, 7.49).tolist() == [[[False, True], [False, False]]]


def test_dice_is_pooled_over_the_batch() -> None:
    probability = torch.zeros(2, 4, 4)
    probability[0] = 1.0
    target = torch.zeros(2, 4, 4)
    target[0, :2] = 1.0
    assert float(smooth_dice(probability, target)) == pytest.approx((2 * 8 + 1) / (16 + 8 + 1))


def test_an_image_without_target_still_teaches() -> None:
    """Pooled, false positives of an empty image get the gradient of any other: per image they get almost none."""
    logits = torch.zeros(2, 64, 64, requires_grad=True)
    target = torch.zeros(2, 64, 64)
    target[0, :32] = 1.0
    dice_loss(logits, target).backward()
    assert logits.grad is not None
    pooled = float(logits.grad[1].mean())
    alone = torch.zeros(1, 64, 64, requires_grad=True)
    dice_loss(alone, torch.zeros(1, 64, 64)).backward()
    assert alone.grad is not None
    assert pooled > 50 * float(alone.grad.mean()) > 0


def test_the_losses_are_smallest_at_the_truth() -> None:
    target = (torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    right, wrong = 20 * (2 * target - 1), -20 * (2 * target - 1)
    for loss in (dice_loss, bce_dice_loss):
        assert float(loss(right, target)) < 1e-3 < 0.9 < float(loss(wrong, target))


@pytest.mark.parametrize("cross_entropy", [False, True])
def test_the_m_step_sees_the_region_only(cross_entropy: bool) -> None:
    logits, target = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    region = torch.zeros(1, 4, 4, dtype=torch.bool)
    region[0, :2], target[0, 0] = True, 1.0
    outside = logits.clone()
    outside[0, 2:] = 30.0
    assert float(region_loss(outside, target, region, cross_entropy)) == float(
        region_loss(logits, target, region, cross_entropy)
    )


@pytest.mark.parametrize("cross_entropy", [False, True])
def test_only_the_cross_entropy_wakes_a_network_that_says_nothing(cross_entropy: bool) -> None:
    logits = torch.full((1, 8, 8), -30.0, requires_grad=True)
    whole = torch.ones(1, 8, 8)
    region_loss(logits, whole, whole.bool(), cross_entropy).backward()
    assert logits.grad is not None
    assert (float(logits.grad.abs().max()) > 1e-3) is cross_entropy


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.1, 0.9))
def test_two_classes_are_parted_between_them(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    dense = rng.random(400) < share
    values = torch.from_numpy(np.where(dense, rng.normal(8, 0.3, 400), rng.normal(3, 0.3, 400)))
    if dense.any() and not dense.all():
        level = em.split_level(values)
        assert bool(((values > level).numpy() == dense).all())


@pytest.mark.parametrize(("values", "level"), [([1.0, 1.0, 2.0], 4.0), ([9.0, 11.0], 7.0), ([5.0], 5.0), ([], 5.5)])
def test_the_level_stays_within_its_bounds(values: list[float], level: float) -> None:
    split = em.Split(torch.zeros(1, 1, 1), [em.split_level(torch.tensor(values))])
    assert float(split.log_odds(1.0, (4.0, 7.0))) == -level


def test_the_local_mean_sees_the_region_only() -> None:
    x, region = torch.full((1, 20, 20), 9.0), torch.zeros(1, 20, 20, dtype=torch.bool)
    region[0, 5:15, 5:15] = True
    x[region] = 4.0
    torch.testing.assert_close(em.local_mean(x, region, 2.0)[region], torch.full((100,), 4.0))


def test_a_vessel_is_not_dense_by_its_local_mean_but_a_lesion_is() -> None:
    region = torch.ones(1, 40, 40, dtype=torch.bool)
    x = torch.full((1, 40, 40), 3.0)
    x[0, :, 4] = 9.0
    x[0, 15:35, 15:35] = 9.0
    odds = em.split(x, region, 2.0).log_odds(1.5, (4.76, 7.49))
    assert not bool((odds[0, :, 3:6] > 0).any())
    assert bool((odds[0, 18:32, 18:32] > 0).all())


def test_the_sum_of_odds_labels_positive_images_inside_the_region_only() -> None:
    odds, region = torch.full((2, 2, 2), 1.0), torch.tensor([[[1, 0], [1, 1]]] * 2)
    odds[:, 1, 1] = -1
    found = em.e_step_of_odds(odds, region, torch.tensor([False, True]))
    assert found.tolist() == [[[False, False], [False, False]], [[True, False], [True, False]]]


def test_warming_up_the_labels_come_from_the_prior_alone() -> None:
    """A network that is sure of nothing takes every label away, but only after the warm-up."""
    recipe = EmRecipe(name="split", epochs=4, rate=1e-3, prior="split", k2=0.5, warm_up=2)
    net = UNet(Architecture(features=4))
    torch.nn.init.zeros_(net.head.weight)
    torch.nn.init.constant_(net.head.bias, -50.0)
    stacks = torch.full((1, 7, 32, 32), 3.0)
    stacks[:, :, :16] = 9.0
    whole = torch.ones(1, 32, 32, dtype=torch.bool)
    batch = Batch(stacks, whole, whole, torch.tensor([True]))
    labels = [unet2.expectation(net, batch, recipe, epoch) for epoch in (0, 1, 2)]
    assert labels[0][0, :12].all()
    assert torch.equal(labels[0], labels[1])
    assert not labels[2].any()


@pytest.mark.parametrize("trust", [0.3, 1.0, 2.0])
def test_a_prior_that_is_surer_than_the_trust_decides_alone(trust: float) -> None:
    """A network that says "nothing" everywhere takes back what the prior says within the trust, and no more."""
    recipe = EmRecipe(name="split", epochs=1, rate=1e-3, prior="split", k2=1.0, trust=trust, smooth_px=0)
    recipe = recipe.model_copy(update={"b2_within": (6.0, 6.0)})
    net = UNet(Architecture(features=4))
    torch.nn.init.zeros_(net.head.weight)
    torch.nn.init.constant_(net.head.bias, -50.0)
    stacks = torch.full((1, 7, 32, 32), 6.0 + trust - 0.1)
    stacks[:, :, :16] = 6.0 + trust + 0.1
    whole = torch.ones(1, 32, 32, dtype=torch.bool)
    labels = unet2.expectation(net, Batch(stacks, whole, whole, torch.tensor([True])), recipe)
    assert labels[0, :16].all()
    assert not labels[0, 16:].any()
