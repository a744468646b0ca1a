"""`dicomnode-train evaluate`: a package over a labelled cohort."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import track
from rich.table import Table

from pipeline import lungs as pipeline_lungs
from pipeline.types import PipelineSettings
from training import cohort as cohorts
from training import prepared
from training.cli_options import CohortDir, Device, Json, Threads, console, quiet_for, say_json, set_threads
from training.cohort import Case
from training.errors import CohortError

LungSource = Literal["builtin", "cohort", "weights"]
Split = Literal["train", "validation", "test"]
DEFAULT_LABELS = "label"


def evaluate(
    cohort: CohortDir,
    out: Annotated[Path, typer.Option(help="Folder for evaluation.html, metrics.json, cases.csv and summary.md.")],
    model: Annotated[Path | None, typer.Option(help="Model package; the shipped one by default.")] = None,
    labels: Annotated[str, typer.Option(help="Folder of the labels beside ct/.")] = DEFAULT_LABELS,
    split: Annotated[Split | None, typer.Option(help="Only the cases of this split; all by default.")] = None,
    lungs: Annotated[
        LungSource,
        typer.Option(
            help="The node's own (with the package's lung network), lung/, or lungmask with --lung-weights."
        ),
    ] = "builtin",
    lung_weights: Annotated[Path | None, typer.Option(help="lungmask R231 weights, for --lungs weights.")] = None,
    repeated: Annotated[bool, typer.Option(help="Show every slice as a stack of itself (for comparison).")] = False,
    device: Device = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Run a package over a labelled cohort as the node would: the paper's figures for it, on one page.

    JSON: the content of metrics.json.

    Example: dicomnode-train evaluate --cohort COHORT --out evaluation
    """
    from training import evaluate as evaluation  # figures take a second to load: no other command waits for them
    from training import tables

    quiet_for(json)
    if (lungs == "weights") != (lung_weights is not None):
        raise CohortError("--lungs weights and --lung-weights PATH go together")
    if lung_weights is not None:
        pipeline_lungs.check_weights(lung_weights)
    set_threads(threads)
    plan = evaluation.Plan(
        title=f"Evaluation on {cohort.resolve().name}" + (f", {split} cases" if split else ""),
        cases=_cases(cohort, labels, split),
        settings=PipelineSettings(model=model, lung_weights=lung_weights, device=device),
        lungs="cohort" if lungs == "cohort" else "pipeline",
        repeated=repeated,
        started=datetime.now().astimezone(),
    )
    metrics = evaluation.evaluate(plan, out, _progress)
    if json:
        say_json(metrics)
    shown = Table("figure", "value", "95 % CI")
    for row in tables.key_figures(metrics):
        shown.add_row(*row)
    console.print(shown)
    for name, why in metrics["cohort"]["without_lungs"].items():
        console.print(f"no lungs found in {name}: {why}", style="yellow", markup=False, soft_wrap=True)
    console.print(str(out / evaluation.PAGE), markup=False, highlight=False, soft_wrap=True)


def _cases(cohort: Path, labels: str, split: str | None) -> list[Case]:
    if labels != DEFAULT_LABELS and not (cohort / labels).is_dir():
        raise CohortError(f"there is no folder {cohort / labels} with labels")
    if prepared.is_prepared(cohort):
        raise CohortError(f"{cohort} is a prepared cohort: give the cohort that it was made from")
    cases = cohorts.read(cohort, labels)
    chosen = cases if split is None else cohorts.of_splits(cases, split)
    if not chosen:
        raise CohortError(f"{cohort} has no case of the split {split!r}")
    return chosen


def _progress(cases: Sequence[Case], words: str) -> Iterable[Case]:
    return track(cases, words, console=console, transient=True)
