"""The network: the published layout to 1e-5, and the variants of the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.unet import Architecture, UNet
from tests.fixtures import published as made
from training import published


def test_published_graph_is_reproduced(shared: Path) -> None:
    folder = shared / "reference" / "published-unet"
    variables, x = made.recipe(json.loads((folder / "variables.json").read_text()))
    expected = np.load(folder / "unet1_probability_seed2020.npz")["prob"][..., 0]
    net = UNet(Architecture(features=32)).eval()
    state = net.state_dict()
    for ours, theirs in published.names().items():
        value = torch.from_numpy(variables[theirs])
        state[ours] = value.permute(3, 2, 0, 1) if value.ndim == 4 else value
    net.load_state_dict(state)
    with torch.inference_mode():
        found = net.probability(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()).numpy()
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_effective_parameters_are_the_published_number() -> None:
    assert sum(p.numel() for p in UNet(Architecture(features=32)).parameters()) == 5_399_009


@pytest.mark.parametrize("skip", ["concat", "add"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("affine", [False, True])
def test_every_variant_keeps_the_shape_and_learns(skip: str, activation: str, affine: bool) -> None:
    torch.manual_seed(0)
    arch = Architecture.model_validate({"features": 4, "skip": skip, "activation": activation, "affine": affine})
    net = UNet(arch)
    logits = net(torch.rand(2, 7, 32, 48))
    assert logits.shape == (2, 1, 32, 48)
    logits.mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters() if p.ndim == 4)


def test_stride_two_looks_down_and_right_only() -> None:
    halve = UNet(Architecture(features=4, activation="leaky_relu")).eval().down[0].halve
    x = torch.zeros(1, 4, 8, 8)
    x[..., 1, 1] = 1.0  # output (0, 0) covers rows and columns 0-2, output (1, 1) covers 2-4
    with torch.inference_mode():
        change = (halve(x) - halve(torch.zeros_like(x)))[0].abs().sum(0)
    assert change.nonzero().tolist() == [[0, 0]]


@pytest.mark.parametrize("wrong", [{"features": 0}, {"skip": "sum"}, {"slices": 2}, {"depth": 5}])
def test_architecture_refuses_what_it_does_not_know(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Architecture.model_validate(wrong)
