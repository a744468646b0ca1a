"""Where a lung network comes from: a finished run of `dicomnode-train lungs`, or a package that has one.

A department that has trained none takes that of the shipped package: its own networks then see the lungs that the
node will find, however dense they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from pipeline import package
from pipeline.lung_network import LungNetwork
from pipeline.package import Precision, Thresholds
from pipeline.preprocess import Preprocessing
from pipeline.segment import Room
from pipeline.unet import UNet
from training import checkpoint, finished
from training.errors import RunError
from training.recipes import LungRecipe

NAME = "lungs"  # of the network within a package
THRESHOLDS = ("lungs", "lungs_if_wide")  # those that are its own


@dataclass(frozen=True)
class LungOrigin:
    """A lung network and its history.

    Attributes:
        thresholds: what its probabilities mean; those of lungs count.
        mirrored: as in its entry in a manifest.
        sha256, precision: of its weights, as the file in the folder holds them.
        recipe, seed, story: as a package's manifest tells them.
    """

    net: UNet
    preprocessing: Preprocessing
    thresholds: Thresholds
    mirrored: bool
    sha256: str
    precision: Precision | None
    recipe: JsonValue
    seed: int
    story: list[JsonValue]

    def ready(self, room: Room) -> LungNetwork:
        """To run."""
        return LungNetwork(self.net, self.preprocessing, self.thresholds, room, self.mirrored)

    @property
    def mark(self) -> str:
        """What tells it from every other one: the digest of its weights, and what is other than usual."""
        own = self.thresholds.model_dump(include=set(THRESHOLDS), exclude_defaults=True)
        words = [self.sha256, *(f"{name}={value:g}" for name, value in own.items())]
        return " ".join([*words, "mirrored"] if self.mirrored else words)


def read(folder: Path | None) -> LungOrigin:
    """The lung network of a run or package; None is the shipped package. Raises RunError, ModelError."""
    if folder is None or (folder / package.MANIFEST).is_file():
        return _of_package(folder)
    if not (folder / finished.NETWORK).is_file():
        raise RunError(f"{folder} is neither a finished run of `dicomnode-train lungs` nor a model package")
    run = finished.read(folder, LungRecipe)
    return LungOrigin(
        run.net,
        run.setting.preprocessing,
        Thresholds(lungs=run.recipe.threshold, lungs_if_wide=run.recipe.threshold_if_wide),
        run.recipe.mirrored,
        finished.weights_digest(folder),
        None,
        run.recipe.model_dump(mode="json"),
        run.seed,
        checkpoint.story(folder),
    )


def _of_package(folder: Path | None) -> LungOrigin:
    made = package.load(folder)
    entry, training = made.manifest.lungs, made.manifest.training
    name = f"the package {made.identity.name} {made.identity.version}"
    if made.lungs is None or entry is None:
        raise RunError(f"{name} has no lung network")
    if NAME not in training.recipes or NAME not in training.seeds:
        raise RunError(f"{name} does not say how its lung network was trained")
    return LungOrigin(
        made.lungs,
        entry.preprocessing,
        made.manifest.thresholds,
        entry.mirrored,
        entry.sha256,
        entry.precision,
        training.recipes[NAME],
        training.seeds[NAME],
        training.stories.get(NAME, []),
    )
