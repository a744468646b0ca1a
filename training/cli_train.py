"""`dicomnode-train unet1`, `unet2`, `crossval`, `export`: from a cohort to a model package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.unet import Architecture
from training import export as exporting
from training import runs
from training.cli_options import (
    CohortDir,
    Device,
    Features,
    LungChoice,
    Lungs,
    Out,
    Phantoms,
    Seed,
    Threads,
    VolumeLabels,
    Volumes,
    console,
    named,
    show,
)
from training.data import Folders, Setting
from training.recipes import UNET1, UNET2
from training.runs import CrossValidation, Where


def unet1(
    cohort: CohortDir,
    out: Out,
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(UNET1)}.")] = "plain",
    volumes: Volumes = None,
    volume_labels: VolumeLabels = "pseudo-label",
    lungs: Lungs = LungChoice.BUILTIN,
    phantoms: Phantoms = 0,
    features: Features = 32,
    start: Annotated[Path | None, typer.Option(help="Finished run of UNet-1 to go on from.")] = None,
    seed: Seed = 1,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Train UNet-1 (infection) on pixel labels."""
    runs.set_threads(threads)
    setting = _setting(lungs, phantoms, features)
    folders = Folders(cohort, volumes, volume_labels)
    runs.all_data_unet1(folders, setting, named(UNET1, recipe), seed, Where(out, device), start)
    console.print(f"UNet-1 is in {out}")


def unet2(
    cohort: CohortDir,
    start: Annotated[Path, typer.Option(help="Folder of the finished run of UNet-1.")],
    out: Out,
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(UNET2)}.")] = "phi2-averaged",
    lungs: Lungs = LungChoice.BUILTIN,
    phantoms: Phantoms = 0,
    seed: Seed = 1,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Train UNet-2 (consolidation) by EM from image-level labels."""
    runs.set_threads(threads)
    setting = _setting(lungs, phantoms, Architecture().features)
    runs.all_data_unet2(Folders(cohort), setting, named(UNET2, recipe), start, seed, Where(out, device))
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
    phantoms: Phantoms = 0,
    features: Features = 32,
    folds: Annotated[int, typer.Option(min=2)] = 5,
    seed: Seed = 1,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Cross-validate both networks, patients kept together; scored with labels that no lung mask has clipped."""
    runs.set_threads(threads)
    what = CrossValidation(
        Folders(cohort, volumes, volume_labels),
        _setting(lungs, phantoms, features),
        [named(UNET1, name) for name in recipe or ["plain"]],
        [named(UNET2, name) for name in em or ()],
        folds,
        seed,
    )
    show(runs.cross_validate(what, Where(out, device)), out)


def export(
    unet1: Annotated[Path, typer.Option(help="Folder of the finished run of UNet-1.")],
    unet2: Annotated[Path, typer.Option(help="Folder of the finished run of UNet-2.")],
    label: Annotated[Path, typer.Option(help="JSON file: name, version, data, licence, metrics.")],
    out: Annotated[Path, typer.Option(help="Folder of the new package.")],
    paper: Annotated[list[Path] | None, typer.Option(help="Texts to put beside the weights.")] = None,
) -> None:
    """Write a model package from two finished runs."""
    papers = {path.name: path.read_text(encoding="utf-8") for path in paper or ()}
    wanted = exporting.read_label(label, papers)
    made = exporting.export(unet1, unet2, wanted, out)
    console.print(f"{made.identity.name} {made.identity.version} is in {out}, SHA-256 {made.identity.digest}")


def _setting(lungs: LungChoice, phantoms: int, features: int) -> Setting:
    return Setting.model_validate(
        {"architecture": {"features": features}, "lungs": lungs.value, "phantoms": phantoms}
    )
