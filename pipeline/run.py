"""The steps in order: files of one CT series → analysis → result objects on disk.

`analyse_series` is the one door that the node uses, in a worker process. `process_folder` and
``python -m pipeline.run DIR`` are the same steps for a folder, without any server.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pydicom
import torch
from pydicom.dataset import Dataset

from pipeline import (
    __version__,
    accuracy,
    checks,
    document,
    lung_network,
    lungs,
    others,
    package,
    picture,
    picture_series,
    priors,
    quality,
    rejection,
    scores,
    seg,
    segment,
    series_files,
    sr,
    trend,
    volume,
)
from pipeline.arrays import CtVolume, LesionMasks, LungMask
from pipeline.errors import PipelineError, ResultError, SeriesRejected
from pipeline.others import OtherSeries
from pipeline.package import ModelPackage
from pipeline.priors import Priors
from pipeline.segment import Probabilities
from pipeline.types import (
    Analysis,
    AnalysisOutcome,
    AnalysisRequest,
    ObjectReference,
    PipelineSettings,
    Profile,
    Region,
    RegionScores,
    ResultContext,
    ResultKind,
    ResultObject,
    Scores,
)

PICTURE, REPORT = "picture.png", "result.json"
REJECTED = "rejected-"  # before the SOP instance UID: the name of an object that failed the checks
FILE_NAMES: Mapping[ResultKind, str] = {
    ResultKind.LESIONS: "seg.dcm",
    ResultKind.LUNGS: "lungs.dcm",
    ResultKind.PICTURE: "picture.dcm",
    ResultKind.SLICES: "slices.dcm",
    ResultKind.DOCUMENT: "document.dcm",
    ResultKind.SR: "sr.dcm",
    ResultKind.REJECTION: "rejection.dcm",
}


@dataclass(frozen=True)
class Findings:
    """What is found in a volume, whatever it was read from."""

    lungs: LungMask
    probabilities: Probabilities
    lesions: LesionMasks
    scores: Scores


def find_lungs(ct: CtVolume, model: ModelPackage, settings: PipelineSettings) -> LungMask:
    """The lungs by the settings' method and the package's lung network. Raises as `examine` does."""
    network = lung_network.of(model, settings)
    return lungs.segment(ct, settings.lung_weights, settings.device, network, settings.min_lungs_ml)


def examine(
    ct: CtVolume, model: ModelPackage, settings: PipelineSettings, lung_mask: LungMask | None = None
) -> Findings:
    """Lungs, lesions and scores of a volume; `lung_mask` takes the place of the pipeline's own lungs.

    Raises:
        SeriesRejected: no lungs were found.
        ModelError: the networks or the lung weights are unusable.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if lung_mask is None:
        lung_mask = find_lungs(ct, model, settings)
    found = segment.probabilities(ct, lung_mask, model, settings)
    lesions = segment.masks(found, lung_mask, model)
    return Findings(lung_mask, found, lesions, scores.measure(ct, lung_mask, lesions))


def analyse(files: Sequence[Path], settings: PipelineSettings) -> Analysis:
    """Segment and measure one series.

    Args:
        files: every instance of the series, in any order.

    Raises:
        SeriesRejected: the series cannot be analysed; the message is the reason.
        ModelError: the model package or the lung weights are unusable.
    """
    model = package.load(settings.model)
    ct = volume.load(files, settings)
    found, metrics = examine(ct, model, settings), model.manifest.metrics
    return Analysis(
        volume=ct,
        lungs=found.lungs,
        lesions=found.lesions,
        scores=found.scores,
        flags=quality.flags(ct, found.lungs, found.lesions, found.scores, accuracy.found_in_healthy(metrics)),
        model=model.identity,
        source_digest=volume.source_digest(files),
        resampling=model.manifest.preprocessing.rule(ct.spacing_mm[0]),
        accuracy=accuracy.sentence(metrics),
    )


def build_results(analysis: Analysis, context: ResultContext) -> Iterator[tuple[ResultKind, Dataset]]:
    """One result set for `context.profile`, SEG before the SR that names it; empty segments are left out."""
    segmentations: dict[ResultKind, Dataset] = {}
    for kind, build in ((ResultKind.LESIONS, seg.build), (ResultKind.LUNGS, seg.build_lungs)):
        ds = build(analysis, context)
        if ds is not None:
            segmentations[kind] = ds
            yield kind, ds
    context = replace(context, segmentations=segmentations)
    builders: Mapping[ResultKind, Callable[[Analysis, ResultContext], Dataset | None]] = {
        ResultKind.PICTURE: picture.build,
        ResultKind.SLICES: picture_series.build,
        ResultKind.DOCUMENT: document.build,
        ResultKind.SR: sr.build,
        ResultKind.REJECTION: rejection.build,
    }
    for kind, builder in builders.items():
        ds = builder(analysis, context)
        if ds is not None:
            yield kind, ds


def settings_digest(settings: PipelineSettings, analysis: Analysis) -> str:
    """SHA-256 over what changes a result beside source, model and software: lungs and arithmetic of the device."""
    relevant = {"lungs": analysis.lungs.method, "device": settings.device.split(":")[0]}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def report(
    analysis: Analysis, earlier: Priors | None = None, other_series: Sequence[OtherSeries] = ()
) -> dict[str, Any]:
    """The content of result.json: fractions of 1, millilitres, Hounsfield units."""
    regions = analysis.scores.regions
    return {
        "series_uid": analysis.volume.series_uid,
        "study_uid": str(analysis.volume.headers[0].StudyInstanceUID),
        **_figures(regions[Region.BOTH]),
        "left": _figures(regions[Region.LEFT]),
        "right": _figures(regions[Region.RIGHT]),
        "severity_class": analysis.scores.severity_class,
        "lungs_method": analysis.lungs.method,
        "model": {
            "name": analysis.model.name,
            "version": analysis.model.version,
            "digest": analysis.model.digest,
        },
        "software": f"dicomnode {__version__}",
        "flags": [{"code": flag.code, "text": flag.text} for flag in analysis.flags],
        "acquired": priors.first_acquired(analysis.volume.headers),
        "not_analysed": others.sentence(other_series),
        **trend.report(analysis, earlier),
    }


def _figures(region: RegionScores) -> dict[str, Any]:
    return {
        "severity_score": region.severity_score,
        "consolidation_score": region.consolidation_score,
        "ggo_score": region.ggo_score,
        "lung_volume_ml": region.lung_volume_ml,
        "infection_volume_ml": region.infection_volume_ml,
        "consolidation_volume_ml": region.consolidation_volume_ml,
        "ggo_volume_ml": region.ggo_volume_ml,
        "lung_mean_hu": region.lung_mean_hu,
        "infection_mean_hu": region.infection_mean_hu,
    }


def analyse_series(request: AnalysisRequest) -> AnalysisOutcome:
    """Analyse the files of a request and write one result set per profile below ``request.out_dir``.

    Every file is on stable storage when this returns. A second call writes the same names again.

    Raises:
        SeriesRejected, ModelError, ResultError: as the steps do.
    """
    analysis = analyse(request.files, request.settings)
    earlier = priors.usable(request.priors, analysis.volume.headers) if request.priors else None
    objects: list[ResultObject] = []
    for profile in request.profiles:
        context = ResultContext(
            created=request.created,
            profile=profile,
            revision=request.revision,
            completeness=request.completeness,
            settings_digest=settings_digest(request.settings, analysis),
            predecessor=request.predecessors.get(profile.name),
            superseded=request.superseded.get(profile.name, ()),
            priors=earlier,
            others=request.others,
        )
        objects += write_results(analysis, context, request.out_dir / profile.name)
    return AnalysisOutcome(report=report(analysis, earlier, request.others), objects=tuple(objects))


def write_results(analysis: Analysis, context: ResultContext, folder: Path) -> list[ResultObject]:
    """Build, check and write one result set with its picture.png and result.json.

    The set takes the place of an earlier one in the folder: no file of that is left, other files are not touched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    objects = []
    segmentations: dict[ResultKind, Dataset] = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".draft-") as name:
        draft = Path(name)
        for kind, ds in build_results(analysis, context):
            pydicom.dcmwrite(draft / FILE_NAMES[kind], ds, enforce_file_format=True)
            _gate(draft / FILE_NAMES[kind], analysis, context, segmentations, folder)
            if kind in (ResultKind.LESIONS, ResultKind.LUNGS):
                segmentations[kind] = ds
            objects.append(_written(kind, context.profile, draft / FILE_NAMES[kind], folder, ds))
        if context.profile.picture:
            picture.render(analysis, context).save(draft / PICTURE)
        told = report(analysis, context.priors, context.others)
        (draft / REPORT).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        _replace(draft, folder)
    for path in (folder, folder.parent):
        _sync(path)
    return objects


def _gate(
    file: Path,
    analysis: Analysis,
    context: ResultContext,
    segmentations: Mapping[ResultKind, Dataset],
    folder: Path,
) -> None:
    """Check an object as it would be sent; one that fails is kept in `folder`, and the error says where."""
    ds = pydicom.dcmread(file)
    try:
        checks.check(ds, analysis, segmentations, context.superseded, context.priors)
    except ResultError as error:
        error.rejected = file.replace(folder / f"{REJECTED}{ds.get('SOPInstanceUID', file.stem)}.dcm")
        raise


def _replace(draft: Path, folder: Path) -> None:
    """Move the files of a draft into the folder, in the place of every file that a result set may have."""
    for name in (*FILE_NAMES.values(), PICTURE, REPORT):
        if (draft / name).exists():
            _sync(draft / name)
            (draft / name).replace(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _written(kind: ResultKind, profile: Profile, draft: Path, folder: Path, ds: Dataset) -> ResultObject:
    reference = ObjectReference(
        study_uid=str(ds.StudyInstanceUID),
        series_uid=str(ds.SeriesInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
    )
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()
    return ResultObject(
        kind=kind, profile=profile.name, path=folder / draft.name, reference=reference, sha256=digest
    )


def _sync(path: Path) -> None:
    """fsync a file or folder, so that a row in the ledger never points to bytes that a power cut takes back."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class FolderResult:
    """What `process_folder` wrote."""

    report: Mapping[str, Any]
    objects: tuple[ResultObject, ...]


def process_folder(
    files: Sequence[Path],
    out: Path,
    settings: PipelineSettings,
    profile: Profile,
    created: datetime,
    other_series: Sequence[OtherSeries] = (),
) -> FolderResult:
    """The files of one series in, seg.dcm, sr.dcm, picture.dcm, picture.png and result.json in `out`."""
    analysis = analyse(files, settings)
    context = ResultContext(
        created=created,
        profile=profile,
        settings_digest=settings_digest(settings, analysis),
        others=tuple(other_series),
    )
    objects = write_results(analysis, context, out)
    return FolderResult(report=report(analysis, other_series=other_series), objects=tuple(objects))


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m pipeline.run DIR [--series UID]``; 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.run", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--series", default="", help="SeriesInstanceUID, where the folder holds several")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--lung-weights", type=Path)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args(argv)
    settings = PipelineSettings(model=arguments.model, lung_weights=arguments.lung_weights, device=arguments.device)
    try:
        found = series_files.series_in(arguments.folder)
        chosen = arguments.series or next(iter(found))
        if chosen not in found or (len(found) > 1 and not arguments.series):
            raise SeriesRejected(f"choose one series with --series; the folder holds: {', '.join(found)}")
        others_there = series_files.others_in(found, chosen)
        now = datetime.now().astimezone()
        result = process_folder(found[chosen], arguments.out, settings, Profile(), now, others_there)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result.report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
