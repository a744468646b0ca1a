"""`dicomnode-train demo`: a researcher's first look at training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track
from rich.table import Table

from pipeline import RESEARCH_USE_ONLY, notation
from training import demo as demonstration
from training.cli_options import Device, Json, Seed, Threads, console, quiet_for, say_json, set_threads
from training.demo import Outcome, Size


def demo(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for everything; an interrupted call there is resumed. By default a new one."),
    ] = None,
    studies: Annotated[int, typer.Option(min=3, help="Synthetic studies to train on.")] = Size.train,
    unseen: Annotated[int, typer.Option(min=3, help="Synthetic studies to evaluate on.")] = Size.test,
    epochs: Annotated[int, typer.Option(min=1, help="Of UNet-1.")] = Size.epochs,
    em_epochs: Annotated[int, typer.Option(min=1, help="Of UNet-2.")] = Size.em_epochs,
    seed: Seed = 1,
    device: Device = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Train and evaluate a toy model on synthetic chests, in minutes: the whole way, to look at and to change.

    JSON: folder, page, package, seconds (by stage), cases, metrics.

    Example: dicomnode-train demo --out first-hour
    """
    from training.evaluate import PAGE  # as in `cli_evaluate`

    quiet_for(json)
    set_threads(threads)
    folder = out or Path(tempfile.mkdtemp(prefix="dicomnode-train-demo-"))
    console.print(f"dicomnode-train demo. {RESEARCH_USE_ONLY}. A toy: it learns from drawn chests alone.")
    console.print(f"everything lies in {folder}", markup=False, highlight=False, soft_wrap=True)
    size = Size(train=studies, test=unseen, epochs=epochs, em_epochs=em_epochs)
    found = demonstration.run(folder, size, seed, device, _progress)
    page, package = folder / "evaluation" / PAGE, folder / "package"
    if json:
        told = {"folder": folder, "page": page, "package": package, "seconds": found.seconds}
        say_json({**told, "cases": [asdict(row) for row in found.rows], "metrics": found.metrics})
    _tell(found)
    console.print(f"the package, for `dicomnode models install`: {package}", highlight=False, soft_wrap=True)
    console.print(f"the page of figures, for a browser: {page}", highlight=False, soft_wrap=True)


def _progress(items: Sequence[Any], words: str) -> Iterable[Any]:
    return track(items, words, console=console, transient=True)


def _tell(found: Outcome) -> None:
    scores = Table("study", "severity", "truth", "consolidation", "truth ", title="studies that nothing has seen")
    for row in found.rows:
        numbers = (row.severity, row.severity_truth, row.consolidation, row.consolidation_truth)
        scores.add_row(row.case, *(notation.percent(number) for number in numbers))
    from training import tables

    figures = Table("figure", "value", "95 % CI")
    for figure in tables.key_figures(found.metrics):
        figures.add_row(*figure)
    times = Table("stage", "s")
    for name, seconds in found.seconds.items():
        times.add_row(name, f"{seconds:.0f}")
    times.add_row("together", f"{sum(found.seconds.values()):.0f}")
    for table in (scores, figures, times):
        console.print(table)
