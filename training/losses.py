"""Losses on logits. The Dice is pooled over the whole batch, not averaged per image.

Per image (eq. 2 as printed) a slice with an empty target gives almost no gradient, so negatives would teach
nothing; the authors' code pools as well.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

SMOOTH = 1.0  # σ of eq. 2


def smooth_dice(probability: Tensor, target: Tensor) -> Tensor:
    """Eq. 2 over all pixels of the batch: (2 Σ p·y + σ) / (Σ p + Σ y + σ)."""
    overlap = (probability * target).sum()
    return (2 * overlap + SMOOTH) / (probability.sum() + target.sum() + SMOOTH)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 − smooth Dice; float32 whatever the autocast."""
    return 1 - smooth_dice(torch.sigmoid(logits.float()), target.float())


def bce_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy (mean over pixels) + Dice loss."""
    bce = F.binary_cross_entropy_with_logits(logits.float(), target.float())
    return bce + dice_loss(logits, target)
