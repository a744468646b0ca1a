"""The commands' work: one network on all data, and where a run lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.lung_view import Finds
from pipeline.segment import Room
from pipeline.unet import UNet
from training import checkpoint, cohort, data, distributed, finished, lungs, phantoms, unet1, unet2
from training.batches import Pool
from training.data import Folders, Setting
from training.dataset import Example
from training.errors import RunError
from training.loop import Run
from training.recipes import EmRecipe, LungRecipe, Recipe
from training.regions import Regions

BATCH = 16


@dataclass(frozen=True)
class Where:
    """Folder of the run and device; under `torchrun` the device of the process's rank."""

    out: Path
    device: str = "auto"

    @property
    def room(self) -> Room:
        """For predictions."""
        return Room(distributed.choose(self.device), BATCH)

    def run(
        self,
        name: str,
        recipe: Recipe,
        seed: int,
        setting: Setting,
        train: Sequence[Example],
        start: Path | None = None,
    ) -> Run:
        """A run in the subfolder `name` ("" is the folder itself).

        Its identity holds what it was trained on and, by hash, the finished run in `start` that it goes on from. Of
        processes that share the work, rank 0 has that folder.
        """
        device = distributed.choose(self.device)  # before the first message: nccl sends from the device chosen last
        note = {"setting": setting.model_dump(mode="json"), "train": sorted(example.name for example in train)}
        before: list[Any] = []
        seen: list[str] = []
        if start is not None:
            here = distributed.rank() == 0
            origin = ("", before, seen)
            if here:
                origin = finished.weights_digest(start), checkpoint.story(start), checkpoint.trained_on(start)
            note["start"], before, seen = distributed.from_first(origin)
        return Run(self.out / name, recipe, seed, device, note, before, seen)


def all_data_unet1(
    folders: Folders,
    setting: Setting,
    recipe: Recipe,
    seed: int,
    where: Where,
    start: Path | None = None,
    network: Finds | None = None,
) -> UNet:
    """UNet-1 on everything, from random weights or from the finished run in `start`."""
    first = finished.read(start, Recipe).net if start is not None else None
    if first is not None:
        setting = setting.model_copy(update={"architecture": first.arch})
    pool, setting = data.pool(folders, setting, network)
    refuse_unused(pool, recipe)
    if not (pool.cohort or pool.volumes):
        raise RunError("UNet-1 learns from pixel labels: give --cohort, --volumes or both")
    run = where.run("", recipe, seed, setting, [*pool.cohort, *pool.volumes, *pool.phantoms], start)
    net = unet1.fit(pool, setting.architecture, setting.preprocessing, run, first)
    finished.keep(run.folder, net)
    return net


def all_data_unet2(
    folders: Folders,
    setting: Setting,
    recipe: EmRecipe,
    start: Path,
    seed: int,
    where: Where,
    network: Finds | None = None,
) -> UNet:
    """UNet-2 on the cohort and the phantoms, from the finished run of UNet-1 in `start`."""
    first = finished.read(start, Recipe)
    if (first.setting.lungs, first.setting.lung_network) != (setting.lungs, setting.lung_network):
        raise RunError(f"UNet-1 in {start} was trained with other lungs: give its --lungs and --lung-run")
    setting = setting.model_copy(update={"architecture": first.setting.architecture})
    found = Regions(first.net, finished.weights_digest(start), where.out / "regions", where.room)
    pool, setting = data.pool(folders, setting, network, found)
    refuse_unused(Pool(pool.cohort, (), pool.phantoms), recipe)
    run = where.run("", recipe, seed, setting, [*pool.cohort, *pool.phantoms], start)
    net = unet2.fit(first.net, pool, setting.preprocessing, run)
    finished.keep(run.folder, net)
    return net


@dataclass(frozen=True)
class LungData:
    """What the lung network learns from beside phantoms: cohorts, whose labels are experts', and volumes."""

    cohorts: Sequence[Path]
    volumes: Path | None
    volume_labels: str


def all_data_lungs(of: LungData, setting: Setting, recipe: LungRecipe, seed: int, where: Where) -> UNet:
    """The lung network on each kind of data, with the built-in method's masks (phantoms: their true lungs).

    Splits as for the other networks: training cases of the cohorts, all but the test split of the volumes.
    """
    folders = [cohort.of_splits(cohort.read(folder), "train") for folder in of.cohorts]
    folders += [cohort.of_splits(cohort.read(of.volumes, of.volume_labels), *data.TRIED)] if of.volumes else []
    kinds = [data.sources(cases, "builtin") for cases in folders]
    if setting.phantoms:
        kinds.append(phantoms.make(setting.phantoms, data.PHANTOM_SEED, masked=True))
    made = [
        [lungs.example(source, setting.preprocessing, experts=kind < len(of.cohorts)) for source in sources]
        for kind, sources in enumerate(kinds)
    ]
    believed = [[one for one in examples if one is not None] for examples in made]
    digest = data.digest([case for cases in folders for case in cases])
    setting = setting.model_copy(update={"data_sha256": digest})
    run = where.run("", recipe, seed, setting, [one for examples in believed for one in examples])
    net = lungs.fit(believed, setting.architecture, setting.preprocessing, run)
    finished.keep(run.folder, net)
    return net


def refuse_unused(pool: Pool, recipe: Recipe) -> None:
    """Raise RunError where data are given that the recipe never draws, or absent that it wants to draw."""
    drawn = (("volumes", pool.volumes, recipe.volume_slices), ("phantoms", pool.phantoms, recipe.phantom_slices))
    for name, given, slices in drawn:
        if given and not slices:
            raise RunError(f"recipe {recipe.name!r} does not train on {name}; leave --{name} out")
        if slices and not given:
            raise RunError(f"recipe {recipe.name!r} draws {slices} slices of {name} an epoch; give --{name}")
