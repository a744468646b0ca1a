"""The commands' work: one network on all data, and cross-validation of both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.lung_view import Finds
from pipeline.segment import Room
from pipeline.unet import UNet
from training import (
    checkpoint,
    choice,
    cohort,
    crossval,
    data,
    distributed,
    finished,
    lungs,
    phantoms,
    unet1,
    unet2,
)
from training.batches import Pool
from training.choice import Judgement
from training.cohort import Case
from training.crossval import Held
from training.data import Folders, Setting
from training.dataset import Example
from training.errors import CohortError, RunError
from training.finished import Finished
from training.loop import Run
from training.recipes import EmRecipe, LungRecipe, Recipe
from training.regions import Regions
from training.score import Overlap, summary

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


@dataclass(frozen=True)
class CrossValidation:
    """What to cross-validate: UNet-1 by each of `stages` in turn, then UNet-2 by each of `em` from the last.

    `start`: the finished run that the first stage goes on from, on data that hold no case of the cohort.
    `choose`: also train UNet-2 with the priors that each fold's training part chooses (`training.choice`), which
    choices.csv tells.
    """

    folders: Folders
    setting: Setting
    stages: Sequence[Recipe]
    em: Sequence[EmRecipe]
    folds: int
    seed: int
    network: Finds | None = None
    start: Path | None = None
    choose: bool = False


def cross_validate(what: CrossValidation, where: Where) -> dict[str, Any]:
    """Train and score every fold, write `<name>.csv` per network and metrics.json; gives the metrics.

    Volumes and phantoms are trained on in every fold and never scored. Folds that are done are taken up again.
    """
    if what.folders.cohort is None:
        raise CohortError("cross-validation needs a cohort")
    if what.choose and not what.em:
        raise RunError("--choose chooses the prior of UNet-2: name its recipe with --em")
    where.out.mkdir(parents=True, exist_ok=True)
    there = data.held(what.folders.cohort, what.setting, what.network)
    volumes = Folders(None, what.folders.volumes, what.folders.volume_labels)
    extra, _ = data.pool(volumes, what.setting, what.network)
    setting = what.setting.model_copy(update={"data_sha256": there.sha256})
    if what.start is not None:
        setting = setting.model_copy(
            update={"architecture": _foreign(what.start, there.cases).setting.architecture}
        )
    numbers = cohort.folds(there.cases, what.folds, what.seed)
    parts = [crossval.split(there.held, numbers, fold) for fold in range(what.folds)]
    chosen = [_choose(what, train) for train, _ in parts]  # before the first training: it may be refused
    if what.choose and distributed.rank() == 0:
        rows = [(fold, name, one) for fold, arms in enumerate(chosen) for name, one in arms.items()]
        choice.write(where.out / "choices.csv", rows)
    scores: dict[str, list[tuple[int, Overlap]]] = {}
    for fold, (train, test) in enumerate(parts):
        arms = {recipe.name: recipe for recipe in what.em}
        arms |= {name: one.recipe for name, one in chosen[fold].items()}
        for name, found in _fold(what, setting, where, fold, train, test, extra, arms).items():
            scores.setdefault(name, []).extend((fold, one) for one in found)
    return _write(scores, where.out)


def _choose(what: CrossValidation, train: Sequence[Held]) -> dict[str, Judgement]:
    """By arm (`split-by-pixel-labels`), the prior that the training part of a fold chooses for each EM recipe."""
    made: dict[str, Judgement] = {}
    for recipe in what.em if what.choose else ():
        judged = choice.judge(recipe, [case.example for case in train], what.setting.preprocessing)
        made |= {f"{recipe.name}-by-{by}": choice.best(judged, by) for by in choice.WAYS}
    return made


def _foreign(start: Path, cases: Sequence[Case]) -> Finished[Recipe]:
    """The finished run in `start`. Raises RunError where it, or one before it, has seen a case of the cohort."""
    seen = set(checkpoint.trained_on(start)) & {case.name for case in cases}
    if seen:
        raise RunError(
            f"{start} was trained on {len(seen)} cases of the cohort: held-out figures would mean nothing"
        )
    return finished.read(start, Recipe)


def _fold(
    what: CrossValidation,
    setting: Setting,
    where: Where,
    fold: int,
    train: Sequence[Held],
    test: Sequence[Held],
    extra: Pool,
    arms: Mapping[str, EmRecipe],
) -> dict[str, list[Overlap]]:
    wanted, room, seed = setting.preprocessing, where.room, what.seed + fold
    pool = Pool([case.example for case in train], extra.volumes, extra.phantoms)
    start, first = what.start, None
    if start is not None:
        first = finished.read(start, Recipe).net
    for stage in what.stages:
        run = where.run(f"{stage.name}-fold{fold}", stage, seed, setting, pool.cohort, start)
        first = unet1.fit(pool, setting.architecture, wanted, run, first)
        finished.keep_first(run.folder, first)
        start = run.folder
    if first is None:
        raise RunError("cross-validation needs a recipe for UNet-1")
    scores = {"infection": crossval.score_unet1(first, test, wanted, room)}
    rival = crossval.by_threshold(wanted)
    rivals = {"threshold": rival}
    for name, recipe in arms.items():  # arms with one recipe share its run
        run = where.run(f"{recipe.name}-fold{fold}", recipe, seed, setting, pool.cohort, start)
        second = crossval.by_unet2(unet2.fit(first, pool, wanted, run), wanted, room)
        least_mm2 = recipe.consolidation_mm2
        rivals[name] = crossval.without_specks(second, wanted, least_mm2)
        if least_mm2:  # what the rule alone gives the rival
            rivals[f"threshold-from-{least_mm2:g}mm2"] = crossval.without_specks(rival, wanted, least_mm2)
    for name, second in rivals.items():
        scores[name] = crossval.score_unet2(first, second, test, wanted, room)
    return scores


def _write(scores: dict[str, list[tuple[int, Overlap]]], out: Path) -> dict[str, Any]:
    metrics = {}
    for name, rows in scores.items():
        metrics[name] = asdict(summary([one for _, one in rows]))
    if distributed.rank() > 0:
        return metrics
    for name, rows in scores.items():
        crossval.write_scores(out / f"{name}.csv", rows)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def set_threads(threads: int) -> None:
    """Torch threads; 0 leaves the choice to torch."""
    if threads:
        torch.set_num_threads(threads)
