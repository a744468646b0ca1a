"""Hard EM for UNet-2: priors (eq. 12, 13) and the E-step (eq. 10) as functions of arrays.

z is the image-level label (consolidation present), copied from the patient; x the normalised value of the centre
slice; m the infected region; f = m·UNet-2. Everything has the shape [image, row, column], z [image].
"""

from __future__ import annotations

import torch
from torch import Tensor

HALF = 0.5


def constant_prior(x: Tensor, b1: float) -> Tensor:
    """φ₁, eq. 12: b₁ everywhere."""
    return torch.full_like(x, b1)


def intensity_prior(x: Tensor, b2: float, k2: float) -> Tensor:
    """φ₂, eq. 13: sigmoid(k₂·(x − b₂)) + ½.

    Eq. 13 takes min(1, ·). It is left out: f + min(1, s + ½) > 1 is f + s > ½, except at f exactly 0 and x > b₂,
    where the text wants 1 and the minimum would give 0.
    """
    return torch.sigmoid(k2 * (x - b2)) + HALF


def e_step(f: Tensor, prior: Tensor, region: Tensor, positive: Tensor) -> Tensor:
    """Eq. 10: the label y is 1 where m = 1, z = 1 and f + φ > 1; a negative image gives 0 inside m. Bool."""
    return region.bool() & positive.bool()[:, None, None] & (f + prior > 1)


def threshold_rival(x: Tensor, region: Tensor, limit: float) -> Tensor:
    """The baseline (25): what is denser than the limit (−200 HU in the paper) inside the region. Bool."""
    return region.bool() & (x > limit)
