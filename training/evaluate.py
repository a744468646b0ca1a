"""A model package over a labelled cohort, by the code that serves the node: its lungs, preprocessing and masks.

Labels are not clipped by the lung mask. A single slice is shown as a stack of itself, because the networks were
trained on such stacks and a series of one slice does not reach the node. A case in which the lung method finds no
lungs counts as one in which nothing was found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from pipeline import lungs, package, segment
from pipeline.errors import SeriesRejected
from pipeline.package import ModelPackage
from pipeline.types import CtVolume, HuArray, LesionMasks, LungMask, MaskArray, PipelineSettings
from training import cohort, crossval, dataset
from training.dataset import Source
from training.errors import CohortError
from training.score import Overlap, overlap, summary

FIGURES = ("infection", "consolidation", "threshold")


@dataclass(frozen=True)
class Judged:
    """Counts of one case by figure, and how many labelled voxels the lung mask holds."""

    scores: dict[str, Overlap]
    infection_voxels: int
    infection_inside: int
    consolidation_voxels: int
    consolidation_inside: int


def evaluate(
    folder: Path, labels: str, model: Path | None, settings: PipelineSettings, out: Path, repeated: bool = False
) -> dict[str, Any]:
    """Score every case; writes metrics.json and one CSV per figure into `out`, gives the metrics."""
    loaded = package.load(model)
    judged = []
    for case in cohort.read(folder, labels):
        source = dataset.load(case, None)
        judged.append(judge(source, loaded, settings, repeated))
    out.mkdir(parents=True, exist_ok=True)
    metrics = _metrics(judged)
    for figure in FIGURES:
        crossval.write_scores(out / f"{figure}.csv", [(0, one.scores[figure]) for one in judged])
    metrics["model"] = asdict(loaded.identity)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def judge(source: Source, model: ModelPackage, settings: PipelineSettings, repeated: bool = False) -> Judged:
    """Run the pipeline on one case and count. `repeated` shows every slice as a stack of itself."""
    if source.label is None:
        raise CohortError(f"{source.case.name} has no label")
    found, lung = _analyse(source, model, settings, repeated)
    infection, consolidation = source.label >= 1, source.label >= 2
    rival = found.infection & (source.hu > crossval.RIVAL_HU)
    name = source.case.name
    return Judged(
        scores={
            "infection": overlap(name, found.infection, infection),
            "consolidation": overlap(name, found.consolidation, consolidation),
            "threshold": overlap(name, rival, consolidation),
        },
        infection_voxels=int(infection.sum()),
        infection_inside=int((infection & lung).sum()),
        consolidation_voxels=int(consolidation.sum()),
        consolidation_inside=int((consolidation & lung).sum()),
    )


def _analyse(
    source: Source, model: ModelPackage, settings: PipelineSettings, repeated: bool
) -> tuple[LesionMasks, MaskArray]:
    """Masks and lungs on the source's grid."""
    single = len(source.hu) == 1
    shown = _again(source, 0, model) if single else _as_volume(source.hu, source.spacing_mm)
    try:
        mask = lungs.segment(shown, settings.lung_weights, settings.device)
    except SeriesRejected:
        nothing = np.zeros(source.hu.shape, np.bool_)
        return LesionMasks(nothing, nothing), nothing
    if single:
        return _middle(segment.segment(shown, mask, model, settings)), mask.both[:1]
    if not repeated:
        return segment.segment(shown, mask, model, settings), mask.both
    parts = []
    for k in range(len(source.hu)):
        again = _again(source, k, model)
        labels = np.broadcast_to(mask.labels[k], again.hu.shape)
        parts.append(_middle(segment.segment(again, LungMask(labels, mask.method), model, settings)))
    return LesionMasks(
        np.concatenate([part.infection for part in parts]),
        np.concatenate([part.consolidation for part in parts]),
    ), mask.both


def _again(source: Source, k: int, model: ModelPackage) -> CtVolume:
    """Slice k as a stack of itself, at the package's own slice spacing."""
    spacing_mm = (model.manifest.preprocessing.slice_spacing_mm, *source.spacing_mm[1:])
    return _as_volume(np.repeat(source.hu[k : k + 1], model.unet1.arch.slices, axis=0), spacing_mm)


def _middle(found: LesionMasks) -> LesionMasks:
    middle = len(found.infection) // 2
    return LesionMasks(found.infection[middle : middle + 1], found.consolidation[middle : middle + 1])


def _as_volume(hu: HuArray, spacing_mm: tuple[float, float, float]) -> CtVolume:
    slice_mm, row_mm, column_mm = spacing_mm
    return CtVolume(hu, np.diag([column_mm, row_mm, slice_mm, 1.0]), tuple(Dataset() for _ in hu))


def _metrics(judged: Sequence[Judged]) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        figure: asdict(summary([one.scores[figure] for one in judged])) for figure in FIGURES
    }
    inside = {}
    for what in ("infection", "consolidation"):
        voxels = sum(getattr(one, f"{what}_voxels") for one in judged)
        held = sum(getattr(one, f"{what}_inside") for one in judged)
        inside[f"{what}_inside"] = held / voxels if voxels else None
    metrics["lungs"] = inside
    return metrics
