"""`dicomnode-train`: from a cohort to a model package."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from pipeline.errors import PipelineError
from pipeline.types import PipelineSettings
from pipeline.unet import Architecture
from training import evaluate as evaluation
from training import export as exporting
from training import runs
from training.data import Folders, Setting
from training.errors import TrainingError
from training.recipes import UNET1, UNET2, Recipe
from training.runs import CrossValidation, Where

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, cross-validate, export and evaluate model packages. Research use only.",
)
console = Console()
Named = TypeVar("Named", bound=Recipe)

LungChoice = StrEnum("LungChoice", {"NONE": "none", "BUILTIN": "builtin", "COHORT": "cohort"})

CohortDir = Annotated[Path, typer.Option("--cohort", help="Folder with cases.csv, ct/ and label/.")]
Volumes = Annotated[Path | None, typer.Option(help="Folder with ct/ of volumes, for real stacks of slices.")]
VolumeLabels = Annotated[str, typer.Option(help="Folder of their labels beside ct/.")]
Lungs = Annotated[LungChoice, typer.Option(help="Lung masks: none, the built-in method, or lung/ of the cohort.")]
Phantoms = Annotated[int, typer.Option(min=0, help="Synthetic studies to add.")]
Features = Annotated[int, typer.Option(help="Channels of the first level; 32 is the paper's.")]
Seed = Annotated[int, typer.Option(help="Everything random follows from it.")]
Device = Annotated[str, typer.Option(help='"auto", "cpu" or "cuda:0".')]
Threads = Annotated[int, typer.Option(min=0, help="Torch threads; 0: as many as there are cores.")]
Out = Annotated[Path, typer.Option(help="Folder of the run; an interrupted run there is resumed.")]


@app.command()
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


@app.command()
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


@app.command()
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
    _show(runs.cross_validate(what, Where(out, device)), out)


@app.command()
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


@app.command()
def evaluate(
    cohort: CohortDir,
    out: Annotated[Path, typer.Option(help="Folder for metrics.json and cases.csv.")],
    model: Annotated[Path | None, typer.Option(help="Model package; the shipped one by default.")] = None,
    labels: Annotated[str, typer.Option(help="Folder of the labels beside ct/.")] = "label",
    repeated: Annotated[bool, typer.Option(help="Show every slice as a stack of itself (for comparison).")] = False,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Run a package over a labelled cohort as the node would, and score it."""
    runs.set_threads(threads)
    settings = PipelineSettings(model=model, device=device)
    _show(evaluation.evaluate(cohort, labels, model, settings, out, repeated), out)


def named(recipes: Mapping[str, Named], name: str) -> Named:
    """A recipe by name. Raises TrainingError with the names that exist."""
    if name not in recipes:
        raise TrainingError(f"there is no recipe {name!r}; the recipes are {', '.join(recipes)}")
    return recipes[name]


def _setting(lungs: LungChoice, phantoms: int, features: int) -> Setting:
    return Setting.model_validate(
        {"architecture": {"features": features}, "lungs": lungs.value, "phantoms": phantoms}
    )


def _show(metrics: dict[str, Any], out: Path) -> None:
    table = Table("what", "cases", "Dice per case", "SD", "median", "pooled")
    for name, one in metrics.items():
        if isinstance(one, dict) and "pooled" in one:
            figures = [f"{one[key]:.3f}" for key in ("mean", "sd", "median", "pooled")]
            table.add_row(name, str(one["cases"]), *figures)
    console.print(table)
    console.print(f"written to {out}")


def main() -> None:
    """Entry point: errors of ours are a sentence and exit status 1."""
    try:
        app()
    except (TrainingError, PipelineError) as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        raise SystemExit(1) from error
