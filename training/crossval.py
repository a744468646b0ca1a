"""Cross-validation of both networks on a cohort of labelled cases, patients kept together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.lung_view import Finds
from training import checkpoint, choice, cohort, data, distributed, finished, held, unet1, unet2
from training.batches import Pool
from training.choice import Judgement
from training.cohort import Case
from training.data import Folders, Setting
from training.errors import CohortError, RunError
from training.finished import Finished
from training.held import Held
from training.recipes import EmRecipe, Recipe
from training.runs import Where
from training.score import Overlap, summary


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
    parts = [split(there.held, numbers, fold) for fold in range(what.folds)]
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
    scores = {"infection": held.score_unet1(first, test, wanted, room)}
    rival = held.by_threshold(wanted)
    rivals = {"threshold": rival}
    for name, recipe in arms.items():  # arms with one recipe share its run
        run = where.run(f"{recipe.name}-fold{fold}", recipe, seed, setting, pool.cohort, start)
        second = held.by_unet2(unet2.fit(first, pool, wanted, run), wanted, room)
        least_mm2 = recipe.consolidation_mm2
        rivals[name] = held.without_specks(second, wanted, least_mm2)
        if least_mm2:  # what the rule alone gives the rival
            rivals[f"threshold-from-{least_mm2:g}mm2"] = held.without_specks(rival, wanted, least_mm2)
    for name, second in rivals.items():
        scores[name] = held.score_unet2(first, second, test, wanted, room)
    return scores


def _write(scores: dict[str, list[tuple[int, Overlap]]], out: Path) -> dict[str, Any]:
    metrics = {}
    for name, rows in scores.items():
        metrics[name] = asdict(summary([one for _, one in rows]))
    if distributed.rank() > 0:
        return metrics
    for name, rows in scores.items():
        write_scores(out / f"{name}.csv", rows)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def split(cases: Sequence[Held], numbers: Sequence[int], fold: int) -> tuple[list[Held], list[Held]]:
    """Training and held-out cases of a fold."""
    train = [case for case, number in zip(cases, numbers, strict=True) if number != fold]
    return train, [case for case, number in zip(cases, numbers, strict=True) if number == fold]


def write_scores(path: Path, rows: Sequence[tuple[int, Overlap]]) -> None:
    """CSV of fold, case, counts and Dice."""
    lines = ["fold,case,both,predicted_only,label_only,dice"]
    lines += [f"{fold},{s.case},{s.both},{s.predicted_only},{s.label_only},{s.dice:.4f}" for fold, s in rows]
    path.write_text("\n".join(lines) + "\n")
