"""Losses on logits. The Dice is pooled over the whole batch, not averaged per image.

Per image (eq. 2 as printed) a slice with an empty target gives almost no gradient, so negatives would teach
nothing; the authors' code pools as well.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.distributed import pooled

SMOOTH = 1.0  # σ of eq. 2


def smooth_dice(probability: Tensor, target: Tensor) -> Tensor:
    """Eq. 2 over all pixels of the batch, on whatever rank they lie: (2 Σ p·y + σ) / (Σ p + Σ y + σ)."""
    sums = pooled(torch.stack(((probability * target).sum(), probability.sum() + target.sum())))
    return (2 * sums[0] + SMOOTH) / (sums[1] + SMOOTH)


def mean(values: Tensor) -> Tensor:
    """The mean over all pixels of the batch, on whatever rank they lie."""
    sums = pooled(torch.stack((values.sum(), values.new_tensor(values.numel()))))
    return sums[0] / sums[1]


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 − smooth Dice; float32 whatever the autocast."""
    return 1 - smooth_dice(torch.sigmoid(logits.float()), target.float())


def bce_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy (mean over pixels) + Dice loss."""
    bce = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none")
    return mean(bce) + dice_loss(logits, target)


def region_loss(logits: Tensor, target: Tensor, region: Tensor, cross_entropy: bool) -> Tensor:
    """1 − smooth Dice of what lies inside the region; with `cross_entropy` its mean over the region added.

    The Dice alone (the paper's M-step) has no gradient left once the network says "nothing" everywhere; the cross
    entropy, the expected log likelihood that an M-step maximises, brings it back.
    """
    inside = region.float()
    lost = 1 - smooth_dice(torch.sigmoid(logits.float()) * inside, target.float())
    if not cross_entropy:
        return lost
    bce = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none")
    sums = pooled(torch.stack(((bce * inside).sum(), inside.sum())))
    return lost + sums[0] / sums[1].clamp(min=1)


def image_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 − smooth Dice, averaged over the images that have a target; 0 where none has one."""
    probability, wanted = torch.sigmoid(logits.float()).flatten(1), target.float().flatten(1)
    overlap, found, labelled = (values.sum(dim=1) for values in (probability * wanted, probability, wanted))
    lost = 1 - (2 * overlap + SMOOTH) / (found + labelled + SMOOTH)
    counts = (labelled > 0).float()
    sums = pooled(torch.stack(((lost * counts).sum(), counts.sum())))
    return sums[0] / sums[1].clamp(min=1)


def bce_both_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy + the mean of the pooled and the per-image Dice loss: small lesions count too."""
    bce = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none")
    return mean(bce) + (dice_loss(logits, target) + image_dice_loss(logits, target)) / 2
