"""`dicomnode-train unet1`, `unet2`, `crossval`, `export`: from a cohort to a model package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.lung_view import Finds
from pipeline.preprocess import Preprocessing
from pipeline.unet import LEVELS, Architecture
from training import export as exporting
from training import lung_origin, runs
from training.cli_options import (
    CohortDir,
    Device,
    Features,
    Json,
    LungChoice,
    LungRun,
    Lungs,
    Out,
    Phantoms,
    Seed,
    Threads,
    VolumeLabels,
    Volumes,
    console,
    identity_of,
    named,
    quiet_for,
    refuse_other_lungs,
    say_json,
    set_threads,
    show,
)
from training.crossval import CrossValidation, cross_validate
from training.data import Folders, Setting
from training.errors import RunError
from training.recipes import LUNGS, UNET1, UNET2
from training.runs import LungData, Where


def lungs(
    out: Out,
    cohort: Annotated[
        list[Path] | None, typer.Option(help="Folder with ct/ of mostly aerated lungs; repeatable.")
    ] = None,
    volumes: Volumes = None,
    volume_labels: VolumeLabels = "pseudo-label",
    phantoms: Phantoms = 0,
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(LUNGS)}.")] = "lungs",
    features: Features = 16,
    grid: Annotated[
        int, typer.Option(min=32, max=1024, help="Rows and columns of its network grid, a multiple of 16.")
    ] = 128,
    seed: Seed = 1,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Train the lung network on aerated lungs with synthetic opacities.

    Example: dicomnode-train lungs --cohort healthy --phantoms 14 --out runs/lungs
    """
    set_threads(threads)
    if grid % 2**LEVELS:
        raise RunError(f"--grid {grid} is no multiple of {2**LEVELS}")
    setting = Setting(
        architecture=Architecture(features=features, slices=1),
        preprocessing=Preprocessing(rows=grid, columns=grid),
        lungs="builtin",
        phantoms=phantoms,
    )
    of = LungData(cohort or (), volumes, volume_labels)
    runs.all_data_lungs(of, setting, named(LUNGS, recipe), seed, Where(out, device))
    console.print(f"the lung network is in {out}")


def unet1(
    out: Out,
    cohort: Annotated[Path | None, typer.Option(help="Folder with cases.csv, ct/ and label/.")] = None,
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(UNET1)}.")] = "plain",
    volumes: Volumes = None,
    volume_labels: VolumeLabels = "pseudo-label",
    lungs: Lungs = LungChoice.BUILTIN,
    lung_run: LungRun = None,
    phantoms: Phantoms = 0,
    features: Features = 32,
    start: Annotated[Path | None, typer.Option(help="Finished run of UNet-1 to go on from.")] = None,
    seed: Seed = 1,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Train UNet-1 (infection) on pixel labels, of a cohort or as a first stage of volumes alone.

    Example: dicomnode-train unet1 --cohort COHORT --recipe fine --phantoms 12 --out runs/unet1
    """
    set_threads(threads)
    where = Where(out, device)
    setting, network = _setting(lungs, lung_run, phantoms, features, where)
    folders = Folders(cohort, volumes, volume_labels)
    runs.all_data_unet1(folders, setting, named(UNET1, recipe), seed, where, start, network)
    console.print(f"UNet-1 is in {out}")


def unet2(
    cohort: CohortDir,
    start: Annotated[Path, typer.Option(help="Folder of the finished run of UNet-1.")],
    out: Out,
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(UNET2)}.")] = "phi2-averaged",
    lungs: Lungs = LungChoice.BUILTIN,
    lung_run: LungRun = None,
    phantoms: Phantoms = 0,
    seed: Seed = 1,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Train UNet-2 (consolidation) by EM from image-level labels.

    Example: dicomnode-train unet2 --cohort COHORT --start runs/unet1 --recipe split --out runs/unet2
    """
    set_threads(threads)
    where = Where(out, device)
    setting, network = _setting(lungs, lung_run, phantoms, Architecture().features, where)
    runs.all_data_unet2(Folders(cohort), setting, named(UNET2, recipe), start, seed, where, network)
    console.print(f"UNet-2 is in {out}")


def crossval(
    cohort: CohortDir,
    out: Out,
    recipe: Annotated[
        list[str] | None, typer.Option(help=f"UNet-1, may be repeated for stages: {', '.join(UNET1)}.")
    ] = None,
    em: Annotated[list[str] | None, typer.Option(help=f"UNet-2, may be repeated: {', '.join(UNET2)}.")] = None,
    volumes: Volumes = None,
    volume_labels: VolumeLabels = "pseudo-label",
    lungs: Lungs = LungChoice.BUILTIN,
    lung_run: LungRun = None,
    phantoms: Phantoms = 0,
    features: Features = 32,
    start: Annotated[
        Path | None,
        typer.Option(help="Finished run of UNet-1 that every fold goes on from; on other data than the cohort."),
    ] = None,
    folds: Annotated[int, typer.Option(min=2)] = 5,
    choose: Annotated[
        bool,
        typer.Option(
            "--choose",
            help="Train UNet-2 also with the priors that each fold's training part chooses, by pixel labels and by "
            "image-level labels.",
        ),
    ] = False,
    seed: Seed = 1,
    device: Device = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Cross-validate both networks, patients kept together; scored with labels that no lung mask has clipped.

    JSON: the figures of each network and recipe.

    Example: dicomnode-train crossval --cohort COHORT --recipe fine --em split --folds 5 --out runs/crossval
    """
    quiet_for(json)
    set_threads(threads)
    where = Where(out, device)
    setting, network = _setting(lungs, lung_run, phantoms, features, where)
    what = CrossValidation(
        Folders(cohort, volumes, volume_labels),
        setting,
        [named(UNET1, name) for name in recipe or ["plain"]],
        [named(UNET2, name) for name in em or ()],
        folds,
        seed,
        network,
        start,
        choose,
    )
    metrics = cross_validate(what, where)
    if json:
        say_json(metrics)
    show(metrics, out)


def export(
    unet1: Annotated[Path, typer.Option(help="Folder of the finished run of UNet-1.")],
    unet2: Annotated[Path, typer.Option(help="Folder of the finished run of UNet-2.")],
    label: Annotated[Path, typer.Option(help="JSON file: name, version, data, licence, metrics.")],
    out: Annotated[Path, typer.Option(help="Folder of the new package.")],
    lungs: Annotated[
        Path | None,
        typer.Option(
            help="Finished run of the lung network or a package with one; else the shipped one, if trained with it."
        ),
    ] = None,
    paper: Annotated[list[Path] | None, typer.Option(help="Texts to put beside the weights.")] = None,
    json: Json = False,
) -> None:
    """Write a model package from finished runs.

    JSON: name, version, sha256, folder.

    Example: dicomnode-train export --unet1 runs/unet1 --unet2 runs/unet2 --label label.json --out package
    """
    papers = {path.name: path.read_text(encoding="utf-8") for path in paper or ()}
    wanted = exporting.read_label(label, papers)
    made = exporting.export(unet1, unet2, wanted, out, lungs)
    if json:
        say_json(identity_of(made, out))
        return
    console.print(f"{made.identity.name} {made.identity.version} is in {out}, SHA-256 {made.identity.digest}")


def _setting(
    lungs: LungChoice, lung_run: Path | None, phantoms: int, features: int, where: Where
) -> tuple[Setting, Finds | None]:
    """The setting of a run, and what finds its lungs beside the built-in method."""
    refuse_other_lungs(lungs, lung_run)
    values = {"architecture": {"features": features}, "lungs": lungs.value, "phantoms": phantoms}
    if lungs is not LungChoice.NETWORK:
        return Setting.model_validate(values), None
    origin = lung_origin.read(lung_run)
    setting = Setting.model_validate({**values, "lung_network": origin.mark})
    return setting, origin.ready(where.room).finds
