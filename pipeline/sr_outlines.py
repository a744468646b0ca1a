"""Outlines on the key slices as SCOORD in TID 1410 groups, for viewers that show a report but no SEG from it.

OHIF (3.13) merges groups of one tracking UID and fails on a report where one of them has no SCOORD. So the largest
region of each subject carries the subject's own tracking identifiers, the other regions have theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from highdicom.sr import (
    GraphicTypeValues,
    ImageRegion,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    SourceImageForRegion,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset

from pipeline import codes, keyslices, uids
from pipeline.arrays import MaskArray
from pipeline.sr_groups import Figure, grouped_segments, measurement
from pipeline.subjects import DESCRIPTIONS, Subject, mask
from pipeline.types import Analysis, ResultContext

MIN_REGION_MM2 = 50.0  # smaller ones are not outlined, unless they are the largest of all
MAX_REGIONS = 5  # of one finding on one slice


def key_slice_groups(
    analysis: Analysis, context: ResultContext
) -> Iterator[PlanarROIMeasurementsAndQualitativeEvaluations]:
    """The larger regions of each finding on the key slices; of each lung that has a group, its largest region."""
    for subject in grouped_segments(context) or (Subject.INFECTION,):
        found = mask(analysis, subject)
        if found.any():
            yield from _outlines(analysis, context, subject, found)


def _outlines(
    analysis: Analysis, context: ResultContext, subject: Subject, found: MaskArray
) -> Iterator[PlanarROIMeasurementsAndQualitativeEvaluations]:
    _, row_mm, column_mm = analysis.volume.spacing_mm
    is_lung = DESCRIPTIONS[subject].is_lung
    fullest = int(np.count_nonzero(found, axis=(1, 2)).argmax())
    pixels = analysis.volume.to_source(found)
    for canonical in dict.fromkeys([fullest, *([] if is_lung else keyslices.lesion_slices(analysis))]):
        place = keyslices.source_index(analysis, canonical)
        source = analysis.volume.headers[place]
        for number, region in enumerate(islice(keyslices.regions(pixels[place]), MAX_REGIONS), start=1):
            area_mm2 = region.pixels * row_mm * column_mm
            if canonical == fullest and number == 1:
                name, key = subject.value, subject.value
            elif is_lung or area_mm2 < MIN_REGION_MM2:
                break
            else:
                name = f"{subject.value}, {keyslices.slice_name(analysis, canonical)}, region {number}"
                key = f"{source.SOPInstanceUID} {name}"
            tracker = TrackingIdentifier(uids.tracking(analysis, context, key), name)
            yield _group(analysis, subject, source, region, area_mm2, tracker)


def _group(
    analysis: Analysis,
    subject: Subject,
    source: Dataset,
    region: keyslices.Region,
    area_mm2: float,
    tracker: TrackingIdentifier,
) -> PlanarROIMeasurementsAndQualitativeEvaluations:
    area = Figure(subject, DESCRIPTIONS[subject].region, codes.AREA, area_mm2, codes.SQUARE_MILLIMETRE)
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracker,
        referenced_region=ImageRegion(
            GraphicTypeValues.POLYLINE,
            region.outline.astype(float),
            SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID),
        ),
        finding_type=DESCRIPTIONS[subject].type,
        measurements=[measurement(analysis, area)],
    )
