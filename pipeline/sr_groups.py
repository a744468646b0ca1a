"""Measurement groups of the SR: TID 1411 for what a SEG shows, TID 1501 where none does.

The first group always holds the whole summary, for a healthy chest as explicit zeros. PS3.16 lets the templates be
mixed, but PixelMed's validator takes all groups for TID 1411 as soon as one refers to a segment; so figures of what
has no segment of its own (the lungs, ground glass) stand in the first group under names that say whose they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    FindingSite,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    ReferencedSegment,
    SourceImageForMeasurementGroup,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from pipeline import codes, provenance, uids
from pipeline.sr_items import LATERALITY
from pipeline.subjects import DESCRIPTIONS, Subject
from pipeline.types import Analysis, Region, RegionScores, ResultContext, ResultKind

Group = MeasurementsAndQualitativeEvaluations | VolumetricROIMeasurementsAndQualitativeEvaluations


@dataclass(frozen=True)
class Figure:
    """One number of a group. `subject` is whose it is; `derivation` is given where it is a statistic."""

    subject: Subject
    region: Region
    name: Code
    value: float
    unit: Code
    derivation: Code | None = None


def summary(analysis: Analysis, host: Subject) -> list[Figure]:
    """All figures of both lungs, right and left, as they are named in the group of `host`."""
    subjects = (Subject.INFECTION, Subject.CONSOLIDATION, Subject.GGO, Subject.LUNGS)
    return [
        figure
        for region in Region
        for subject in subjects
        for figure in _figures(subject, region, analysis.scores.regions[region], is_own=subject is host)
    ]


def own_figures(analysis: Analysis, subject: Subject) -> list[Figure]:
    """The figures of one subject in its own group: a lung's, or a finding's in both lungs, right and left."""
    about = DESCRIPTIONS[subject]
    wanted = [about.region] if about.is_lung else list(Region)
    return [
        figure
        for region in wanted
        for figure in _figures(subject, region, analysis.scores.regions[region], is_own=True)
    ]


def _figures(subject: Subject, region: Region, scores: RegionScores, is_own: bool) -> Iterator[Figure]:
    """Volume, score and mean HU of a subject; in a group that is not its own, under names of its own.

    What was not measured is left out: a NUM without value (PS3.3 C.18.1 allows it) breaks readers.
    """
    volume_name, mean_name = _FOREIGN_NAMES[subject] if not is_own else (codes.VOLUME, codes.ATTENUATION)
    volume_ml, mean_hu = {
        Subject.INFECTION: (scores.infection_volume_ml, scores.infection_mean_hu),
        Subject.CONSOLIDATION: (scores.consolidation_volume_ml, None),
        Subject.GGO: (scores.ggo_volume_ml, None),
    }.get(subject, (scores.lung_volume_ml, scores.lung_mean_hu))
    fraction = {
        Subject.INFECTION: (codes.SEVERITY_SCORE, scores.severity_score),
        Subject.CONSOLIDATION: (codes.CONSOLIDATION_SCORE, scores.consolidation_score),
        Subject.GGO: (codes.GGO_SCORE, scores.ggo_score),
    }.get(subject)
    yield Figure(subject, region, volume_name, volume_ml, codes.MILLILITRE)
    if fraction is not None and fraction[1] is not None:
        yield Figure(subject, region, fraction[0], 100.0 * fraction[1], codes.PERCENT)
    if mean_hu is not None:
        yield Figure(subject, region, mean_name, mean_hu, codes.HOUNSFIELD_UNIT, codes.MEAN)


_FOREIGN_NAMES = {
    Subject.INFECTION: (codes.OPACITY_VOLUME, codes.OPACITY_ATTENUATION),
    Subject.CONSOLIDATION: (codes.CONSOLIDATION_VOLUME, codes.ATTENUATION),
    Subject.GGO: (codes.GGO_VOLUME, codes.ATTENUATION),
    Subject.LUNGS: (codes.LUNG_VOLUME, codes.LUNG_ATTENUATION),
}


def grouped_segments(context: ResultContext) -> dict[Subject, tuple[Dataset, Dataset]]:
    """What has a TID 1411 group: the SEG and the segment of each subject; nothing where there is no lesion SEG."""
    if ResultKind.LESIONS not in context.segmentations:
        return {}
    return {
        Subject(segment.TrackingID): (ds, segment)
        for kind in (ResultKind.LESIONS, ResultKind.LUNGS)
        if (ds := context.segmentations.get(kind)) is not None
        for segment in ds.SegmentSequence
        if "TrackingUID" in segment  # the background of a label map has none
    }


def subject_groups(analysis: Analysis, context: ResultContext) -> list[Group]:
    """A TID 1411 group per segment, the first with the summary; without lesion SEG one TID 1501 group."""
    segments = grouped_segments(context)
    if not segments:
        return [_group_without_segment(analysis, context)]
    host = next(iter(segments))
    figures = {subject: own_figures(analysis, subject) for subject in segments} | {host: summary(analysis, host)}
    return [
        _group_of_segment(analysis, context, subject, figures[subject], *named)
        for subject, named in segments.items()
    ]


def _group_of_segment(
    analysis: Analysis,
    context: ResultContext,
    subject: Subject,
    figures: Sequence[Figure],
    ds: Dataset,
    segment: Dataset,
) -> Group:
    """TID 1411. The source of the segment is the series, not a list of its images."""
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=ReferencedSegment(
            sop_class_uid=ds.SOPClassUID,
            sop_instance_uid=ds.SOPInstanceUID,
            segment_number=int(segment.SegmentNumber),
            source_series=SourceSeriesForSegmentation(analysis.volume.series_uid),
        ),
        **_content(analysis, context, subject, figures),
    )


def _group_without_segment(analysis: Analysis, context: ResultContext) -> Group:
    """TID 1501: nothing was found, or the profile has no lesion SEG. A lung SEG is named as source."""
    lungs = context.segmentations.get(ResultKind.LUNGS)
    sources = [SourceImageForMeasurementGroup(lungs.SOPClassUID, lungs.SOPInstanceUID)] if lungs else None
    content = _content(analysis, context, Subject.INFECTION, summary(analysis, Subject.INFECTION))
    return MeasurementsAndQualitativeEvaluations(source_images=sources, **content)


def _content(
    analysis: Analysis, context: ResultContext, subject: Subject, figures: Sequence[Figure]
) -> dict[str, Any]:
    """What groups of both templates share; the tracking identifiers are those of the segment."""
    about = DESCRIPTIONS[subject]
    return {
        "tracking_identifier": TrackingIdentifier(uids.tracking(analysis, context, subject), subject.value),
        "finding_type": about.type,
        "finding_category": about.category,
        "measurements": [measurement(analysis, figure) for figure in figures],
    }


def measurement(analysis: Analysis, figure: Figure) -> Measurement:
    """TID 300. NumericValue is what people read, six digits; FloatingPointValue is exact."""
    algorithm = provenance.algorithm(analysis, figure.subject)
    item = Measurement(
        name=figure.name,
        value=float(figure.value),
        unit=figure.unit,
        derivation=figure.derivation,
        finding_sites=[FindingSite(codes.LUNG, laterality=LATERALITY[figure.region])],
        algorithm_id=AlgorithmIdentification(
            name=algorithm.name,
            version=algorithm.version,
            parameters=[f"{name}={value}" for name, value in algorithm.parameters.items()],
            family=algorithm.family,
        ),
    )
    item[0].MeasuredValueSequence[0].NumericValue = f"{figure.value:.6g}"
    return item
