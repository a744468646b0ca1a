"""Two finished runs → a model package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError
from safetensors.torch import load_file, save

from pipeline import package
from pipeline.errors import ModelError
from pipeline.lung_network import LungNetwork
from pipeline.package import (
    Licence,
    LungFinder,
    Manifest,
    ModelPackage,
    Network,
    Prior,
    Thresholds,
    Training,
)
from pipeline.segment import Room
from pipeline.unet import UNet
from training import checkpoint, distributed
from training.data import Setting
from training.errors import RunError
from training.recipes import EmRecipe, LungRecipe, Recipe

NETWORK = "network.safetensors"
INTENDED_USE = "Research use only. Not a medical device, not for diagnostic use."


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


def weights_digest(folder: Path) -> str:
    """SHA-256 (hex) of the weights of a finished run."""
    return hashlib.sha256((folder / NETWORK).read_bytes()).hexdigest()


def finished(folder: Path, kind: type[Kind]) -> Finished[Kind]:
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


def lung_network(folder: Path, threshold: float, room: Room) -> LungNetwork:
    """The lung network of a finished run, ready to run. Raises as `finished`."""
    run = finished(folder, LungRecipe)
    return LungNetwork(run.net, run.setting.preprocessing, threshold, room)


@dataclass(frozen=True)
class Label:
    """What a person says about a package."""

    name: str
    version: str
    data: tuple[str, ...]
    licence: Licence
    metrics: dict[str, float]
    papers: dict[str, str]
    thresholds: Thresholds = Thresholds()


def read_label(path: Path, papers: dict[str, str]) -> Label:
    """The JSON file that names a package. Raises RunError where it is not as `docs/demo-package.json` shows."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return Label(
            name=said["name"],
            version=said["version"],
            data=tuple(said["data"]),
            licence=Licence.model_validate(said["licence"]),
            metrics=said["metrics"],
            papers=papers,
            thresholds=Thresholds.model_validate(said.get("thresholds", {})),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} does not name a package: {error}") from error


def export(first: Path, second: Path, label: Label, out: Path, lungs: Path | None = None) -> ModelPackage:
    """Write the package of two runs and the lung network's to the folder `out`. Raises RunError, ModelError."""
    one, two = finished(first, Recipe), finished(second, EmRecipe)
    if one.setting.preprocessing != two.setting.preprocessing:
        raise ModelError("the two runs used different preprocessing; train UNet-2 with the setting of UNet-1")
    runs: dict[str, Finished[Any]] = {"unet1": one, "unet2": two}
    folders = {"unet1": first, "unet2": second}
    if lungs is not None:
        runs["lungs"], folders["lungs"] = finished(lungs, LungRecipe), lungs
    weights, networks = {}, {}
    for name, run in runs.items():
        weights[f"{name}.safetensors"], networks[name] = _encoded(name, run)
    manifest = Manifest(
        name=label.name,
        version=label.version,
        intended_use=INTENDED_USE,
        **networks,
        preprocessing=one.setting.preprocessing,
        thresholds=label.thresholds,
        prior=Prior(family=two.recipe.prior, b1=two.recipe.b1, b2=two.recipe.b2, k2=two.recipe.k2),
        training=Training(
            data=label.data,
            data_sha256=one.setting.data_sha256,
            recipes={
                **{name: run.recipe.model_dump(mode="json") for name, run in runs.items()},
                "lung_masks": one.setting.lungs,
                "phantoms": one.setting.phantoms,
            },
            seeds={name: run.seed for name, run in runs.items()},
            stories={name: checkpoint.story(folder) for name, folder in folders.items()},
        ),
        licence=label.licence,
        metrics=label.metrics,
        software=checkpoint.code_version(),
    )
    return package.write(out, manifest, weights, label.papers)


def _encoded(name: str, run: Finished[Any]) -> tuple[bytes, Any]:
    """Weights as the bytes of their file, and the manifest's entry."""
    data, sha256 = package.encode(run.net)
    entry = {"architecture": run.setting.architecture, "file": f"{name}.safetensors", "sha256": sha256}
    if name == "lungs":
        return data, LungFinder.model_validate({**entry, "preprocessing": run.setting.preprocessing})
    return data, Network.model_validate(entry)
