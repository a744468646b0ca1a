"""Options, tables and errors that the commands of `dicomnode-train` share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from rich.console import Console
from rich.table import Table

from dicom_node.console import as_json
from pipeline.package import ModelPackage
from training.errors import TrainingError
from training.recipes import Recipe

console = Console()
Named = TypeVar("Named", bound=Recipe)

LungChoice = StrEnum("LungChoice", {"NONE": "none", "BUILTIN": "builtin", "NETWORK": "network", "COHORT": "cohort"})

CohortDir = Annotated[Path, typer.Option("--cohort", help="Folder with cases.csv, ct/ and label/.")]
Volumes = Annotated[Path | None, typer.Option(help="Folder with ct/ of volumes, for real stacks of slices.")]
VolumeLabels = Annotated[str, typer.Option(help="Folder of their labels beside ct/.")]
Lungs = Annotated[
    LungChoice,
    typer.Option(help="Lung masks: none, the built-in method, that with a lung network, or lung/ of the cohort."),
]
LungRun = Annotated[
    Path | None,
    typer.Option(help="With --lungs network: its finished run or a package with one; else the shipped package's."),
]
Phantoms = Annotated[int, typer.Option(min=0, help="Synthetic studies to add.")]
Features = Annotated[int, typer.Option(min=4, help="Channels of the first level; 32 is the paper's.")]
Seed = Annotated[int, typer.Option(min=0, help="Everything random follows from it.")]
Device = Annotated[str, typer.Option(help='"auto", "cpu" or "cuda:0".')]
Threads = Annotated[int, typer.Option(min=0, help="Torch threads; 0: as many as there are cores.")]
Json = Annotated[bool, typer.Option("--json", help="JSON for programs.")]
Out = Annotated[Path, typer.Option(help="Folder of the run; an interrupted run there is resumed.")]


def quiet_for(json: bool) -> None:
    """One voice for all processes of torchrun, and standard output left to JSON where a program asked for it."""
    console.quiet = json or not _speaks()


def say_json(value: Any) -> None:
    """The answer for programs, once."""
    if _speaks():
        typer.echo(as_json(value))


def _speaks() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def identity_of(made: ModelPackage, folder: Path) -> dict[str, object]:
    """A new package, for programs."""
    return {
        "name": made.identity.name,
        "version": made.identity.version,
        "sha256": made.identity.digest,
        "folder": folder,
    }


def named(recipes: Mapping[str, Named], name: str) -> Named:
    """A recipe by name. Raises TrainingError with the names that exist."""
    if name not in recipes:
        raise TrainingError(f"there is no recipe {name!r}; the recipes are {', '.join(recipes)}")
    return recipes[name]


def refuse_other_lungs(lungs: LungChoice, lung_run: Path | None) -> None:
    """Raise TrainingError where a lung network is given that the choice of lungs has no use for."""
    if lung_run is not None and lungs is not LungChoice.NETWORK:
        raise TrainingError(f"--lung-run is for --lungs network, not for --lungs {lungs}")


def show(metrics: dict[str, Any], out: Path) -> None:
    """A table of Dice figures, and where they were written."""
    table = Table("what", "cases", "Dice per case", "SD", "median", "pooled")
    for name, one in metrics.items():
        if isinstance(one, dict) and "pooled" in one:
            figures = [f"{one[key]:.3f}" for key in ("mean", "sd", "median", "pooled")]
            table.add_row(name, str(one["cases"]), *figures)
    console.print(table)
    console.print(f"written to {out}")


def set_threads(threads: int) -> None:
    """Torch threads; 0 leaves the choice to torch."""
    if threads:
        torch.set_num_threads(threads)
