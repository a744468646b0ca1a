"""The E-step and its priors against the equations, value by value."""

from __future__ import annotations

import pytest
import torch

from training import em
from training.losses import bce_dice_loss, dice_loss, smooth_dice

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
