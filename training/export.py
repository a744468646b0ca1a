"""Two finished runs → a model package."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save

from pipeline import package
from pipeline.errors import ModelError
from pipeline.package import Licence, Manifest, ModelPackage, Network, Prior, Thresholds, Training
from pipeline.unet import UNet
from training import checkpoint, distributed
from training.data import Setting
from training.errors import RunError
from training.recipes import EmRecipe, Recipe

NETWORK = "network.safetensors"
INTENDED_USE = "Research use only. Not a medical device, not for diagnostic use."


@dataclass(frozen=True)
class Finished:
    """A run folder that holds a trained network."""

    net: UNet
    setting: Setting
    recipe: Recipe
    seed: int


def keep(folder: Path, net: UNet) -> None:
    """Write the finished network, float32, into its run folder; whole or not at all, and by rank 0 alone."""
    if distributed.rank() > 0:
        return
    checkpoint.write(folder / NETWORK, save({name: one.contiguous() for name, one in net.state_dict().items()}))


def weights_digest(folder: Path) -> str:
    """SHA-256 (hex) of the weights of a finished run."""
    return hashlib.sha256((folder / NETWORK).read_bytes()).hexdigest()


def finished(folder: Path, kind: type[Recipe]) -> Finished:
    """Read a run folder. Raises RunError where the run is not finished or of another kind."""
    if not (folder / NETWORK).is_file():
        raise RunError(f"{folder} holds no finished run: run its training command again, it resumes")
    run = checkpoint.read(folder)
    recipe = (EmRecipe if "prior" in run["recipe"] else Recipe).model_validate(run["recipe"])
    if type(recipe) is not kind:
        raise RunError(f"{folder} is a run of the other network; give the run of UNet-1 first, UNet-2 second")
    setting = Setting.model_validate(run["setting"])
    net = UNet(setting.architecture)
    net.load_state_dict(load_file(folder / NETWORK))
    return Finished(net.eval(), setting, recipe, run["seed"])


@dataclass(frozen=True)
class Label:
    """What a person says about a package."""

    name: str
    version: str
    data: tuple[str, ...]
    licence: Licence
    metrics: dict[str, float]
    papers: dict[str, str]


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
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} does not name a package: {error}") from error


def export(first: Path, second: Path, label: Label, out: Path) -> ModelPackage:
    """Write the package of two runs to the folder `out`. Raises RunError, ModelError."""
    one, two = finished(first, Recipe), finished(second, EmRecipe)
    if one.setting.preprocessing != two.setting.preprocessing:
        raise ModelError("the two runs used different preprocessing; train UNet-2 with the setting of UNet-1")
    assert isinstance(two.recipe, EmRecipe)  # noqa: S101 - finished() has checked it
    weights, networks = {}, []
    for name, run in (("unet1", one), ("unet2", two)):
        data, sha256 = package.encode(run.net)
        weights[f"{name}.safetensors"] = data
        networks.append(
            Network.model_validate(
                {"architecture": run.setting.architecture, "file": f"{name}.safetensors", "sha256": sha256}
            )
        )
    manifest = Manifest(
        name=label.name,
        version=label.version,
        intended_use=INTENDED_USE,
        unet1=networks[0],
        unet2=networks[1],
        preprocessing=one.setting.preprocessing,
        thresholds=Thresholds(),
        prior=Prior(family=two.recipe.prior, b1=two.recipe.b1, b2=two.recipe.b2, k2=two.recipe.k2),
        training=Training(
            data=label.data,
            data_sha256=one.setting.data_sha256,
            recipes={
                "unet1": one.recipe.model_dump(mode="json"),
                "unet2": two.recipe.model_dump(mode="json"),
                "lungs": one.setting.lungs,
                "phantoms": one.setting.phantoms,
            },
            seeds={"unet1": one.seed, "unet2": two.seed},
            stories={"unet1": checkpoint.story(first), "unet2": checkpoint.story(second)},
        ),
        licence=label.licence,
        metrics=label.metrics,
        software=checkpoint.code_version(),
    )
    return package.write(out, manifest, weights, label.papers)
