"""A model package over a cohort, by the code that serves the node: figures, tables and one page.

Everything is made in a draft beside the files it replaces, and moved into place at the end: an interrupted run
leaves what was there before.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pipeline import __version__, package
from pipeline.package import ModelPackage
from pipeline.types import PipelineSettings
from training import case_table, data, judge, metrics, overlays, tables
from training.cohort import Case
from training.dataset import Source
from training.errors import CohortError, RunError
from training.gallery import gallery
from training.judge import Cohort, Judged
from training.overlays import Shown
from training.page import page

METRICS, CASES, PAGE, SUMMARY = "metrics.json", "cases.csv", "evaluation.html", "summary.md"
Item = TypeVar("Item")
Progress = Callable[[Sequence[Item], str], Iterable[Item]]


@dataclass(frozen=True)
class Plan:
    """What to evaluate.

    Attributes:
        title: of the page.
        lungs: "cohort" takes the masks in lung/, "pipeline" the pipeline's own.
        repeated: show every slice of a volume as a stack of itself.
        started: on the page.
    """

    title: str
    cases: Sequence[Case]
    settings: PipelineSettings
    lungs: str
    repeated: bool
    started: datetime


def quiet(items: Sequence[Item], words: str) -> Iterable[Item]:
    """No progress."""
    return items


def evaluate(plan: Plan, out: Path, progress: Progress[Case] = quiet) -> dict[str, Any]:
    """Score every case and write metrics.json, cases.csv, summary.md and evaluation.html; gives the metrics.

    Raises:
        CohortError: cases that cannot be used, every one named; found before the first is analysed.
        RunError: the folder `out` cannot be made.
        ModelError, PipelineError: as the pipeline does.
    """
    model = package.load(plan.settings.model)
    verify(plan, progress)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out} cannot be made: {error.strerror}") from error
    with tempfile.TemporaryDirectory(dir=out, prefix=".draft-") as name:
        draft = Path(name)
        judged = []
        for k, case in enumerate(progress(plan.cases, "analysing")):
            one, slice_ = _judge(_source(case, plan), model, plan)
            slice_.save(draft / f"{k}.npz")
            judged.append(one)
        slices = {one.case.name: draft / f"{k}.npz" for k, one in enumerate(judged)}
        cohort = Cohort(judged)
        found = {**metrics.compute(cohort), "model": asdict(model.identity), "software": f"dicomnode {__version__}"}
        chosen = [(one, Shown.load(slices[one.case.name])) for one in overlays.choose(judged)]
        texts = {
            METRICS: json.dumps(found, indent=2, allow_nan=False) + "\n",
            CASES: case_table.write(cohort),
            SUMMARY: "\n\n\n".join(table.markdown() for table in tables.tables(found)) + "\n",
            PAGE: page(plan.title, _facts(plan, model), found, gallery(cohort, found, model.manifest, chosen)),
        }
        for file, text in texts.items():
            (draft / file).write_text(text, encoding="utf-8")
        for file in texts:
            (draft / file).replace(out / file)
    return found


def verify(plan: Plan, progress: Progress[Case] = quiet) -> None:
    """Read every case once. Raises CohortError with every complaint, so that none is found after hours."""
    if not any(case.label is not None or case.consolidation is not None for case in plan.cases):
        raise CohortError(
            "there is nothing to compare with: no case has a pixel label, or a 0 or 1 in the column consolidation"
        )
    complaints = []
    for case in progress(plan.cases, "checking"):
        try:
            _source(case, plan)
        except CohortError as error:
            complaints.append(str(error))
    if complaints:
        raise CohortError("this cohort cannot be evaluated: " + "; ".join(complaints))


def _source(case: Case, plan: Plan) -> Source:
    return data.sources([case], "cohort" if plan.lungs == "cohort" else "none")[0]


def _judge(source: Source, model: ModelPackage, plan: Plan) -> tuple[Judged, Shown]:
    found = judge.find(source, model, plan.settings, plan.repeated)
    return judge.judge(source, found, model.manifest.preprocessing), overlays.shown(source, found)


def _facts(plan: Plan, model: ModelPackage) -> list[tuple[str, str]]:
    weights = plan.settings.lung_weights
    lungs = {"cohort": "masks of the cohort (lung/)", "pipeline": "the pipeline's own"}[plan.lungs]
    return [
        ("model package", f"{model.identity.name} {model.identity.version}, SHA-256 {model.identity.digest}"),
        ("trained on", "; ".join(model.manifest.training.data)),
        ("lungs", f"lungmask, {weights.name}" if weights is not None else lungs),
        ("slices of volumes", "each as a stack of itself" if plan.repeated else "with their real neighbours"),
        ("device", plan.settings.device),
        ("software", f"dicomnode {__version__}"),
        ("made", plan.started.isoformat(timespec="minutes")),
    ]
