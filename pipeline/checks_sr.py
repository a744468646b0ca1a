"""The checks of `pipeline.checks` for structured reports: references, tracking identifiers, units and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset

from pipeline import codes
from pipeline.types import Analysis, Region, RegionScores, ResultKind

_TOLERANCE = 1e-5  # relative: NumericValue has six digits
_REGIONS = {
    codes.BILATERAL.value: Region.BOTH,
    codes.RIGHT.value: Region.RIGHT,
    codes.LEFT.value: Region.LEFT,
}
_TRACKING_UID, _FINDING, _REFERENCED_SEGMENT = "112040", "121071", "121191"
_FINDING_SITE, _LATERALITY = "363698007", "272741003"


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100.0 * fraction


Reader = Callable[[RegionScores], float | None]
_BY_NAME: Mapping[str, tuple[str, Reader]] = {  # measurement → unit, figure
    codes.SEVERITY_SCORE.value: ("%", lambda scores: _percent(scores.severity_score)),
    codes.CONSOLIDATION_SCORE.value: ("%", lambda scores: _percent(scores.consolidation_score)),
    codes.GGO_SCORE.value: ("%", lambda scores: _percent(scores.ggo_score)),
    codes.LUNG_VOLUME.value: ("ml", lambda scores: scores.lung_volume_ml),
    codes.OPACITY_VOLUME.value: ("ml", lambda scores: scores.infection_volume_ml),
    codes.CONSOLIDATION_VOLUME.value: ("ml", lambda scores: scores.consolidation_volume_ml),
    codes.GGO_VOLUME.value: ("ml", lambda scores: scores.ggo_volume_ml),
    codes.LUNG_ATTENUATION.value: ("[hnsf'U]", lambda scores: scores.lung_mean_hu),
    codes.OPACITY_ATTENUATION.value: ("[hnsf'U]", lambda scores: scores.infection_mean_hu),
}
_BY_FINDING: Mapping[tuple[str, str], tuple[str, Reader]] = {  # finding, measurement → unit, figure
    (codes.OPACITY.value, codes.VOLUME.value): ("ml", lambda scores: scores.infection_volume_ml),
    (codes.OPACITY.value, codes.ATTENUATION.value): ("[hnsf'U]", lambda scores: scores.infection_mean_hu),
    (codes.CONSOLIDATION.value, codes.VOLUME.value): ("ml", lambda scores: scores.consolidation_volume_ml),
    (codes.GROUND_GLASS_OPACITY.value, codes.VOLUME.value): ("ml", lambda scores: scores.ggo_volume_ml),
    (codes.LUNG.value, codes.VOLUME.value): ("ml", lambda scores: scores.lung_volume_ml),
    (codes.LUNG.value, codes.ATTENUATION.value): ("[hnsf'U]", lambda scores: scores.lung_mean_hu),
}


@dataclass(frozen=True)
class Number:
    """A NUM content item as it was read: of which finding and region, what, how much."""

    finding: str
    region: Region | None
    name: str
    meaning: str
    unit: str
    value: float


def sr_complaints(ds: Dataset, analysis: Analysis, segmentations: Mapping[ResultKind, Dataset]) -> Iterator[str]:
    """Everything that is wrong with an SR."""
    if (ds.get("CompletionFlag"), ds.get("VerificationFlag")) != ("COMPLETE", "UNVERIFIED"):
        yield "the report is not marked as complete and unverified"
    yield from _reference_complaints(ds, analysis, segmentations)
    groups = [item for item in walk(ds) if _name(item) == "125007"]
    read = [number for group in groups for number in numbers(group)]
    for number in read:
        yield from _number_complaints(number, analysis)
    for region in Region:
        for name in (codes.SEVERITY_SCORE, codes.CONSOLIDATION_SCORE, codes.GGO_SCORE, codes.LUNG_VOLUME):
            measured = _BY_NAME[name.value][1](analysis.scores.regions[region]) is not None
            if measured and not any((number.name, number.region) == (name.value, region) for number in read):
                yield f"{name.meaning} of {region} is missing"
    for group in groups:
        yield from _tracking_complaints(group, segmentations)


def walk(item: Dataset) -> Iterator[Dataset]:
    """Every content item below a document or an item."""
    for child in item.get("ContentSequence", ()):
        yield child
        yield from walk(child)


def numbers(group: Dataset) -> Iterator[Number]:
    """The NUM items of a measurement group."""
    finding = next((_value(item) for item in group.ContentSequence if _name(item) == _FINDING), "")
    for item in group.ContentSequence:
        if item.ValueType != "NUM":
            continue
        measured = item.MeasuredValueSequence[0]
        sides = [_value(child) for child in walk(item) if _name(child) == _LATERALITY]
        yield Number(
            finding=finding,
            region=_REGIONS.get(sides[0]) if len(sides) == 1 else None,
            name=_name(item),
            meaning=item.ConceptNameCodeSequence[0].CodeMeaning,
            unit=measured.MeasurementUnitsCodeSequence[0].CodeValue,
            value=float(measured.NumericValue),
        )


def _number_complaints(number: Number, analysis: Analysis) -> Iterator[str]:
    if number.name == codes.AREA.value:
        if number.unit != codes.SQUARE_MILLIMETRE.value or number.value <= 0:
            yield f"the area {number.value} {number.unit} is none"
        return
    unit, reader = _BY_NAME.get(number.name) or _BY_FINDING.get((number.finding, number.name)) or ("", None)
    if reader is None:
        yield f"{number.meaning} is not a figure of this report"
    elif number.region is None:
        yield f"{number.meaning} does not say of which lung"
    elif number.unit != unit:
        yield f"{number.meaning} has the unit {number.unit}, not {unit}"
    else:
        expected = reader(analysis.scores.regions[number.region])
        if expected is None or not math.isclose(number.value, expected, rel_tol=_TOLERANCE):
            yield f"{number.meaning} of {number.region} is {number.value}, measured was {expected}"


def _tracking_complaints(group: Dataset, segmentations: Mapping[ResultKind, Dataset]) -> Iterator[str]:
    """A group and the segment to which it refers carry the same TrackingUID."""
    tracking_uid = next((item.UID for item in group.ContentSequence if _name(item) == _TRACKING_UID), None)
    if tracking_uid is None:
        yield "a measurement group has no tracking UID"
    tracked = {
        (str(ds.SOPInstanceUID), int(segment.SegmentNumber)): segment.get("TrackingUID")
        for ds in segmentations.values()
        for segment in ds.SegmentSequence
    }
    for item in group.ContentSequence:
        if _name(item) == _REFERENCED_SEGMENT and segmentations:
            reference = item.ReferencedSOPSequence[0]
            key = (str(reference.ReferencedSOPInstanceUID), int(reference.ReferencedSegmentNumber))
            if tracked.get(key) != tracking_uid:
                yield f"the tracking UID of segment {key[1]} is another one in the SEG"


def _reference_complaints(
    ds: Dataset, analysis: Analysis, segmentations: Mapping[ResultKind, Dataset]
) -> Iterator[str]:
    evidence = {
        str(instance.ReferencedSOPInstanceUID)
        for study in ds.get("CurrentRequestedProcedureEvidenceSequence", ())
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    named = {
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in walk(ds)
        if item.ValueType == "IMAGE"
    }
    known = {str(header.SOPInstanceUID) for header in analysis.volume.headers}
    known |= {str(segmentation.SOPInstanceUID) for segmentation in segmentations.values()}
    if named - evidence:
        yield f"{len(named - evidence)} images are referred to but are not evidence"
    if segmentations and evidence - known:
        yield f"{len(evidence - known)} instances of evidence are neither source nor result"
    if known - evidence:
        yield f"{len(known - evidence)} instances of the source or the result are not evidence"


def _name(item: Dataset) -> str:
    sequence = item.get("ConceptNameCodeSequence")
    return str(sequence[0].CodeValue) if sequence else ""


def _value(item: Dataset) -> str:
    return str(item.ConceptCodeSequence[0].CodeValue)
