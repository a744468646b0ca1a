"""Finished runs: a run folder that holds a trained network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError
from safetensors.torch import load_file, save

from pipeline.unet import UNet
from training import checkpoint, distributed
from training.data import Setting
from training.errors import RunError
from training.recipes import EmRecipe, LungRecipe, Recipe

NETWORK = "network.safetensors"
Kind = TypeVar("Kind", bound=Recipe)


@dataclass(frozen=True)
class Finished(Generic[Kind]):
    """A run folder that holds a trained network."""

    net: UNet
    setting: Setting
    recipe: Kind
    seed: int


def keep(folder: Path, net: UNet) -> None:
    """Write the finished network, float32, into its run folder; whole or not at all, and by rank 0 alone."""
    if distributed.rank() > 0:
        return
    checkpoint.write(folder / NETWORK, save({name: one.contiguous() for name, one in net.state_dict().items()}))


def keep_first(folder: Path, net: UNet) -> None:
    """`keep`, unless it is kept already.

    At a resume the batch norm statistics of averaged weights are measured again, and their last digits depend on
    the number of threads: what went on from the network that is kept must find its hash again.
    """
    if not (folder / NETWORK).is_file():
        keep(folder, net)


def weights_digest(folder: Path) -> str:
    """SHA-256 (hex) of the weights of a finished run."""
    return hashlib.sha256((folder / NETWORK).read_bytes()).hexdigest()


def read(folder: Path, kind: type[Kind]) -> Finished[Kind]:
    """Read a run folder. Raises RunError where the run is not finished or of another kind."""
    if not (folder / NETWORK).is_file():
        raise RunError(f"{folder} holds no finished run: run its training command again, it resumes")
    run = checkpoint.read(folder)
    try:
        recipe = _kind(run["recipe"]).model_validate(run["recipe"])
        setting = Setting.model_validate(run["setting"])
    except ValidationError as error:
        raise RunError(f"{folder} was made by another version of this program: train it again") from error
    if not isinstance(recipe, kind) or type(recipe) is not kind:
        raise RunError(f"{folder} is a run of {_NAMES[type(recipe)]}, not of {_NAMES[kind]}")
    net = UNet(setting.architecture)
    net.load_state_dict(load_file(folder / NETWORK))
    return Finished(net.eval(), setting, recipe, run["seed"])


_NAMES: Mapping[type[Recipe], str] = {Recipe: "UNet-1", EmRecipe: "UNet-2", LungRecipe: "the lung network"}


def _kind(recipe: Mapping[str, object]) -> type[Recipe]:
    return EmRecipe if "prior" in recipe else LungRecipe if "ceiling_hu" in recipe else Recipe
