"""The UNet that both networks share: UNet-1 (infection) and UNet-2 (consolidation).

Layout of Wu, Gong et al., IEEE JBHI 24(12) 2020, doi 10.1109/JBHI.2020.3030224: five resolutions, seven
neighbouring slices in, one probability per pixel of the centre slice out. The defaults are those of the
published checkpoints (skip by concatenation, ReLU, batch norm without scale and shift, TensorFlow's SAME padding
of the stride-2 convolutions, which pads at the bottom and right only), so those weights run exactly.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch user knows
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

LEVELS = 4  # times the resolution is halved; rows and columns must be multiples of 2 ** LEVELS
LEAKY_SLOPE = 0.2
BN_EPS = 1e-3
BN_MOMENTUM = 0.1  # TensorFlow's decay of 0.9


class Architecture(BaseModel):
    """What a manifest says about a network.

    Attributes:
        features: channels of the first level; each level doubles them (32…512 in the paper).
        skip: "concat" joins [skip, up] as the published checkpoints do, "add" is the paper's text.
        activation: "relu" (checkpoints) or "leaky_relu" with slope 0.2 (paper).
        affine: batch norm with scale and shift; the published layout has neither.
        slices: neighbouring slices in the input, the predicted one in the middle.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: int = Field(default=32, ge=4, le=64)
    skip: Literal["concat", "add"] = "concat"
    activation: Literal["relu", "leaky_relu"] = "relu"
    affine: bool = False
    slices: Literal[1, 3, 5, 7, 9] = 7


class Conv(nn.Module):
    """3×3 convolution without bias, batch norm, activation."""

    def __init__(self, inputs: int, outputs: int, arch: Architecture, stride: int = 1) -> None:
        super().__init__()
        self.arch = arch
        self.stride = stride
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1 if stride == 1 else 0, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=BN_EPS, momentum=BN_MOMENTUM, affine=arch.affine)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            x = F.pad(x, (0, 1, 0, 1))
        return activate(self.norm(self.conv(x)), self.arch)


class Down(nn.Module):
    """Encoder level: the first convolution's output is the skip, the second halves the resolution."""

    def __init__(self, inputs: int, outputs: int, arch: Architecture) -> None:
        super().__init__()
        self.keep = Conv(inputs, outputs, arch)
        self.halve = Conv(outputs, outputs, arch, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.keep(x)
        return skip, self.halve(skip)


class Up(nn.Module):
    """Decoder level: transposed convolution with bias, activation, join, two convolutions."""

    def __init__(self, inputs: int, outputs: int, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.enlarge = nn.ConvTranspose2d(inputs, outputs, 2, 2)
        self.first = Conv(2 * outputs if arch.skip == "concat" else outputs, outputs, arch)
        self.second = Conv(outputs, outputs, arch)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = activate(self.enlarge(x), self.arch)
        joined = torch.cat((skip, up), dim=1) if self.arch.skip == "concat" else skip + up
        return self.second(self.first(joined))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """[image, slice, row, column] normalised values → [image, 1, row, column] logits.

    Sigmoid is left to the caller (`probability`): losses are stable on logits.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        widths = [arch.features * 2**level for level in range(LEVELS + 1)]
        self.arch = arch
        self.down = nn.ModuleList(
            Down(inputs, outputs, arch)
            for inputs, outputs in zip([arch.slices, *widths], widths[:LEVELS], strict=False)
        )
        self.bottom = Conv(widths[-2], widths[-1], arch)
        self.up = nn.ModuleList(
            Up(inputs, outputs, arch) for inputs, outputs in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level in self.down:
            skip, x = level(x)
            skips.append(skip)
        x = self.bottom(x)
        for level, skip in zip(self.up, reversed(skips), strict=True):
            x = level(x, skip)
        return self.head(x)  # type: ignore[no-any-return]

    def probability(self, x: Tensor) -> Tensor:
        """[image, row, column] float32 probabilities of the centre slices."""
        return torch.sigmoid(self(x).float())[:, 0]


def activate(x: Tensor, arch: Architecture) -> Tensor:
    """ReLU, or leaky ReLU with the paper's slope."""
    return F.relu(x) if arch.activation == "relu" else F.leaky_relu(x, LEAKY_SLOPE)
