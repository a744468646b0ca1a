"""Two finished runs → a model package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from pipeline import accuracy, package
from pipeline.errors import ModelError
from pipeline.package import (
    Licence,
    LungFinder,
    Manifest,
    ModelPackage,
    Network,
    Precision,
    Prior,
    Thresholds,
    Training,
)
from pipeline.unet import UNet
from training import checkpoint, finished, lung_origin
from training.errors import RunError
from training.finished import Finished
from training.lung_origin import LungOrigin
from training.recipes import EmRecipe, Recipe

INTENDED_USE = "Research use only. Not a medical device, not for diagnostic use."


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
        if not isinstance(said["data"], list) or not all(isinstance(one, str) for one in said["data"]):
            raise ValueError('"data" is a list of texts')
        if not isinstance(said["metrics"], dict):
            raise ValueError('"metrics" is an object of names and numbers')
        accuracy.verify(said["metrics"])
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
    """Write the package of two runs and a lung network to the folder `out`. Raises RunError, ModelError.

    `lungs`: a run or package that has the lung network; None takes the shipped package's where the runs
    were trained with that.
    """
    one, two = finished.read(first, Recipe), finished.read(second, EmRecipe)
    if one.setting.preprocessing != two.setting.preprocessing:
        raise ModelError("the two runs used different preprocessing; train UNet-2 with the setting of UNet-1")
    if (one.setting.lungs, one.setting.lung_network) != (two.setting.lungs, two.setting.lung_network):
        raise RunError("the two runs used different lungs; train UNet-2 with the --lungs of UNet-1")
    members = {"unet1": _member("unet1", one, first), "unet2": _member("unet2", two, second)}
    finder = _finder((one, two), lungs)
    own = Thresholds(consolidation_mm2=two.recipe.consolidation_mm2)
    thresholds = _with(label.thresholds, own, ("consolidation_mm2",))
    if finder is not None:
        members[lung_origin.NAME] = _finding(finder)
        thresholds = _with(thresholds, finder.thresholds, lung_origin.THRESHOLDS)
    manifest = Manifest(
        name=label.name,
        version=label.version,
        intended_use=INTENDED_USE,
        **{name: member.entry for name, member in members.items()},
        preprocessing=one.setting.preprocessing,
        thresholds=thresholds,
        prior=Prior(family=two.recipe.prior, b1=two.recipe.b1, b2=two.recipe.b2, k2=two.recipe.k2),
        training=Training(
            data=label.data,
            data_sha256=one.setting.data_sha256,
            recipes={
                **{name: member.recipe for name, member in members.items()},
                "lung_masks": one.setting.lungs,
                "phantoms": one.setting.phantoms,
            },
            seeds={name: member.seed for name, member in members.items()},
            stories={name: member.story for name, member in members.items()},
        ),
        licence=label.licence,
        metrics=label.metrics,
        software=checkpoint.code_version(),
    )
    weights = {member.entry.file: member.weights for member in members.values()}
    return package.write(out, manifest, weights, label.papers)


@dataclass(frozen=True)
class _Member:
    """One network of a package: its file's bytes, its entry in the manifest, and its history."""

    weights: bytes
    entry: Any
    recipe: JsonValue
    seed: int
    story: list[JsonValue]


def _member(name: str, run: Finished[Any], folder: Path) -> _Member:
    weights, values = _encoded(name, run.net)
    entry = Network.model_validate(values)
    return _Member(weights, entry, run.recipe.model_dump(mode="json"), run.seed, checkpoint.story(folder))


def _finding(lungs: LungOrigin) -> _Member:
    weights, values = _encoded(lung_origin.NAME, lungs.net, lungs.precision)
    entry = LungFinder.model_validate({**values, "preprocessing": lungs.preprocessing, "mirrored": lungs.mirrored})
    return _Member(weights, entry, lungs.recipe, lungs.seed, lungs.story)


def _encoded(name: str, net: UNet, precision: Precision | None = None) -> tuple[bytes, dict[str, Any]]:
    """The bytes of its file, and what every entry says; weights of a package stay as they were, to the bit."""
    precision = precision or package.precision_for(net)
    weights, sha256 = package.encode(net, precision)
    file = f"{name}.safetensors"
    return weights, {"architecture": net.arch, "file": file, "sha256": sha256, "precision": precision}


def _with(said: Thresholds, own: Thresholds, names: Sequence[str]) -> Thresholds:
    """Those that a network was made for in the place of the others; RunError where a label says otherwise."""
    for name in said.model_fields_set & set(names):
        if getattr(said, name) != getattr(own, name):
            raise RunError(f"a network has thresholds of its own ({name}: {getattr(own, name)}): name no other one")
    return said.model_copy(update={name: getattr(own, name) for name in names})


def _finder(runs: Sequence[Finished[Any]], lungs: Path | None) -> LungOrigin | None:
    """The lung network of the new package; RunError where the runs were trained with another."""
    trained_with = {run.setting.lung_network for run in runs if run.setting.lungs == "network"}
    if lungs is None and not trained_with:
        return None
    found = lung_origin.read(lungs)
    if trained_with - {found.mark}:
        of = lungs or "the shipped package"
        raise RunError(
            f"the networks were trained with another lung network than {of} has: give the run or the package that "
            "they were trained with as --lungs"
        )
    return found
