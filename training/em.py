"""Hard EM for UNet-2: priors (eq. 12, 13) and the E-step (eq. 10) as functions of arrays.

z is the image-level label (consolidation present), copied from the patient; x the normalised value of the centre
slice; m the infected region; f = m·UNet-2. Everything has the shape [image, row, column], z [image].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
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


def local_mean(x: Tensor, region: Tensor, sigma_px: float) -> Tensor:
    """Gaussian mean of x over the pixels of the region alone; 0 far from it."""
    if sigma_px <= 0:
        return x
    reach = math.ceil(3 * sigma_px)
    offsets = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
    sums = torch.stack((x * region, region.to(x.dtype)), dim=1).flatten(0, 1)[:, None]
    for shape, padding in (((1, 1, -1, 1), (reach, 0)), ((1, 1, 1, -1), (0, reach))):
        sums = F.conv2d(sums, (kernel / kernel.sum()).reshape(shape), padding=padding)
    weighted, weight = sums.reshape(len(x), 2, *x.shape[1:]).unbind(dim=1)
    return weighted / weight.clamp(min=1e-3)


def split_level(values: Tensor) -> float:
    """The level that parts values in two classes with the largest variance between them (Otsu 1979).

    `values` has one axis; NaN without values.
    """
    if values.numel() == 0:
        return math.nan
    ordered = values.double().sort().values
    below = torch.arange(1, len(ordered) + 1, dtype=torch.float64, device=values.device)
    sums, count = ordered.cumsum(0), len(ordered)
    between = (sums[-1] * below / count - sums) ** 2 / (below * (count - below)).clamp(min=1)
    return float(ordered[between.argmax()])


@dataclass(frozen=True)
class Split:
    """A prior of our own before its level is bounded: x̃, the local mean of x, and where each region splits.

    The HU of an image may be off, and a vessel is dense but thin: so x is averaged over its surroundings inside the
    region, and each image has its own level b, where ground glass and consolidation part, within bounds.
    """

    smooth: Tensor
    levels: Sequence[float]

    def log_odds(self, k2: float, within: tuple[float, float]) -> Tensor:
        """k₂·(x̃ − b); b is the middle of the bounds where the region is empty."""
        low, high = within
        bounded = [(low + high) / 2 if math.isnan(one) else min(max(one, low), high) for one in self.levels]
        return k2 * (self.smooth - self.smooth.new_tensor(bounded)[:, None, None])


def split(x: Tensor, region: Tensor, sigma_px: float) -> Split:
    """The prior's images and levels; σ of the mean in pixels."""
    smooth = local_mean(x, region.bool(), sigma_px)
    return Split(smooth, [split_level(one[inside]) for one, inside in zip(smooth, region.bool(), strict=True)])


def bounded(logits: Tensor, trust: float) -> Tensor:
    """The network's log odds within ± trust, so that it cannot outweigh a prior that is surer than that."""
    return logits.clamp(-trust, trust)


def e_step_of_odds(log_odds: Tensor, region: Tensor, positive: Tensor) -> Tensor:
    """Bayes' rule, of log odds that are summed already: 1 where they say so, m = 1 and z = 1. Bool."""
    return region.bool() & positive.bool()[:, None, None] & (log_odds > 0)


def threshold_rival(x: Tensor, region: Tensor, limit: float) -> Tensor:
    """The baseline (25): what is denser than the limit (−200 HU in the paper) inside the region. Bool."""
    return region.bool() & (x > limit)
