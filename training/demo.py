"""`dicomnode-train demo`: the whole way of training on phantoms, small enough for a first look.

Synthetic studies → cohort → prepared arrays → UNet-1 from contours → UNet-2 by EM from what is known of each
patient → model package → evaluation on studies that nothing has seen. The result is a toy: it knows drawn chests
alone.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.random import Generator

from pipeline import phantom
from pipeline.package import Licence
from pipeline.phantom import Lesion, PhantomSpec
from pipeline.preprocess import Preprocessing
from pipeline.types import Lung, PipelineSettings
from pipeline.unet import Architecture
from training import cohort, export, prepare, runs
from training.data import Folders, Setting
from training.errors import RunError
from training.export import Label
from training.recipes import TOY, TOY_EM
from training.runs import Where

KINDS = ("both", "ggo", "healthy")
COLUMNS = ("case", "patient", "split", "ggo", "consolidation")
TITLE = "A toy model on synthetic chests"
STORY = "A toy: trained on drawn chests alone by `dicomnode-train demo`. It says nothing about patients.\n"
APACHE = "https://www.apache.org/licenses/LICENSE-2.0"
LICENCE = Licence(name="Apache-2.0", url=APACHE, notice="Trained on synthetic studies alone.")
Progress = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        train, test: studies; a third each has GGO with consolidation, GGO alone, nothing.
        spec: of a study; its lesions are replaced.
        grid: rows and columns of the networks.
        features: of the networks' first level.
        epochs, em_epochs: of UNet-1 and UNet-2.
    """

    train: int = 12
    test: int = 6
    spec: PhantomSpec = PhantomSpec(slices=32, rows=160, columns=160, slice_spacing_mm=9.5, noise_hu=12.0)
    grid: int = 128
    features: int = 8
    epochs: int = TOY.epochs
    em_epochs: int = TOY_EM.epochs


@dataclass
class Took:
    """Seconds by stage, of this call."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure one."""
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began


@dataclass(frozen=True)
class Row:
    """Scores of one held-out study beside the truth, fractions of the lungs."""

    case: str
    severity: float | None
    severity_truth: float
    consolidation: float | None
    consolidation_truth: float


@dataclass(frozen=True)
class Outcome:
    """Metrics of the evaluation, scores of the held-out studies, and seconds by stage."""

    metrics: dict[str, Any]
    rows: Sequence[Row]
    seconds: Mapping[str, float]


def lesions(kind: str, rng: Generator) -> tuple[Lesion, ...]:
    """Two or three places with GGO; where there is consolidation it lies within two of them."""
    found: list[Lesion] = []
    for number in range(0 if kind == "healthy" else int(rng.integers(2, 4))):
        lung = Lung.RIGHT if number % 2 else Lung.LEFT
        centre = (float(rng.uniform(70, 95)), float(rng.uniform(-10, 40)), float(rng.uniform(100, 210)))
        size = float(rng.uniform(24, 36))
        found.append(Lesion("ggo", lung, centre, (size, size, size)))
        if kind == "both" and number < 2:
            found.append(Lesion("consolidation", lung, centre, (size * 0.6,) * 3))
    return tuple(found)


def study(kind: str, seed: int, spec: PhantomSpec) -> phantom.Phantom:
    """A phantom of this kind; the seed gives it again."""
    return phantom.make(replace(spec, lesions=lesions(kind, np.random.default_rng(seed))), seed)


def run(out: Path, size: Size, seed: int, device: str, progress: Progress) -> Outcome:
    """Everything, in the folder `out`; what an interrupted call has done there is taken up again.

    Raises RunError where the folder holds another one, and as each stage does.
    """
    from training import evaluate  # as in `cli_evaluate`

    took, grid = Took(), Preprocessing(rows=size.grid, columns=size.grid)
    setting = Setting(architecture=Architecture(features=size.features), preprocessing=grid, lungs="builtin")
    folders = Folders(out / "prepared")
    first, second = out / "unet1", out / "unet2"
    with took.stage("draw the studies"):
        _draw(out / "cohort", size, seed, progress)
    with took.stage("prepare them"), prepare.executor(min(2, os.cpu_count() or 1)) as workers:
        prepare.prepare(out / "cohort", out / "prepared", grid, prepare.Lungs("builtin"), workers)
    with took.stage("train UNet-1 on contours"):
        recipe = TOY.model_copy(update={"epochs": size.epochs})
        runs.all_data_unet1(folders, setting, recipe, seed, Where(first, device))
    with took.stage("train UNet-2 by EM"):
        em = TOY_EM.model_copy(update={"epochs": size.em_epochs})
        runs.all_data_unet2(folders, setting, em, first, seed, Where(second, device))
    if not (out / "package").exists():
        label = Label("toy", "1", ("synthetic studies of pipeline.phantom",), LICENCE, {}, {"MODEL_CARD.md": STORY})
        export.export(first, second, label, out / "package")
    with took.stage("evaluate on unseen studies"):
        cases = cohort.of_splits(cohort.read(out / "cohort"), "test")
        settings = PipelineSettings(model=out / "package", device=device)
        plan = evaluate.Plan(TITLE, cases, settings, "pipeline", False, datetime.now().astimezone())
        metrics = evaluate.evaluate(plan, out / "evaluation", progress)
    return Outcome(metrics, _rows(out / "evaluation" / evaluate.CASES), took.seconds)


def _draw(folder: Path, size: Size, seed: int, progress: Progress) -> None:
    """Write the cohort, `cases.csv` last. Raises RunError where the folder holds another one."""
    rows = []
    for number in range(size.train + size.test):
        kind, split = KINDS[number % len(KINDS)], "train" if number < size.train else "test"
        rows.append((f"s{number:03d}-{kind}", f"p{number:03d}", split, int(kind != "healthy"), int(kind == "both")))
    text = "\n".join([",".join(COLUMNS), *(",".join(map(str, row)) for row in rows)]) + "\n"
    table = folder / "cases.csv"
    if table.is_file():
        if table.read_text(encoding="utf-8") != text:
            raise RunError(f"{folder} holds another cohort: choose an empty folder, or give the same options again")
        return
    for number, (name, *_) in enumerate(progress(rows, "drawing")):
        drawn = study(KINDS[number % len(KINDS)], 1000 * seed + number, size.spec)
        _write(folder / "ct" / f"{name}.nii.gz", drawn.hu, drawn)
        label = drawn.lesions.infection.astype(np.uint8) + drawn.lesions.consolidation
        _write(folder / "label" / f"{name}.nii.gz", label, drawn)
    table.write_text(text, encoding="utf-8")


def _write(path: Path, array: np.ndarray[Any, Any], drawn: phantom.Phantom) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(drawn.spacing_mm[::-1])  # type: ignore[no-untyped-call]
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)


def _rows(table: Path) -> list[Row]:
    def number(text: str) -> float | None:
        return float(text) if text else None

    with table.open(newline="", encoding="utf-8") as file:
        return [
            Row(
                row["case"],
                number(row["severity"]),
                number(row["severity_reference"]) or 0.0,
                number(row["consolidation_score"]),
                number(row["consolidation_score_reference"]) or 0.0,
            )
            for row in csv.DictReader(file)
        ]
