"""`dicomnode-train evaluate`: a package over a labelled cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.types import PipelineSettings
from training import evaluate as evaluation
from training import runs
from training.cli_options import CohortDir, Device, Threads, show


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
    show(evaluation.evaluate(cohort, labels, model, settings, out, repeated), out)
