"""The checks of `pipeline.checks` for what a report says of earlier results, read as a receiver would."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from pydicom.dataset import Dataset

from pipeline import codes
from pipeline.checks_sr import Number, numbers, walk
from pipeline.priors import Prior, Priors, Shares
from pipeline.types import Analysis, Region

_TOLERANCE = 1e-5  # relative, and absolute for differences: NumericValue has six digits
_NAMES = {codes.SEVERITY_SCORE.value: "severity", codes.CONSOLIDATION_SCORE.value: "consolidation"}
_CHANGES = {codes.SEVERITY_CHANGE.value: "severity", codes.CONSOLIDATION_CHANGE.value: "consolidation"}
Shown = Mapping[tuple[str, Region | None], float]


def prior_complaints(ds: Dataset, analysis: Analysis, priors: Priors) -> Iterator[str]:
    """Other priors than those that were given, other figures, a change that is not their difference."""
    previous = list(_containers(ds, codes.PREVIOUS_FINDINGS.value))
    if len(previous) != len(priors.results):
        yield f"{len(previous)} earlier results are shown, {len(priors.results)} were given"
        return
    for item, prior in zip(previous, priors.results, strict=True):
        yield from _previous_complaints(item, prior)
    derived = list(_containers(ds, codes.DERIVED_MEASUREMENTS.value))
    shown = _shown(number for item in derived for number in numbers(item))
    yield from _change_complaints(shown, analysis, priors)
    yield from _evidence_complaints(ds, priors)


def _containers(ds: Dataset, code: str) -> Iterator[Dataset]:
    for item in ds.ContentSequence:
        if item.ValueType == "CONTAINER" and item.ConceptNameCodeSequence[0].CodeValue == code:
            yield item


def _shown(found: Iterator[Number]) -> Shown:
    return {(number.name, number.region): number.value for number in found if number.unit == "%"}


def _previous_complaints(item: Dataset, prior: Prior) -> Iterator[str]:
    moment = "T".join(
        part
        for part in (_text(item, codes.ACQUISITION_DATE.value), _text(item, codes.ACQUISITION_TIME.value))
        if part
    )
    if moment != prior.acquired.replace("-", "").replace(":", ""):
        yield f"an earlier result of {prior.acquired} is dated {moment}"
    shown = _shown(numbers(item))
    for region in Region:
        for name, field in _NAMES.items():
            expected = _percent(prior.shares[region], field)
            if not _agree(shown.get((name, region)), expected):
                yield f"{field} of {region} of {prior.acquired} is {shown.get((name, region))}, it was {expected}"


def _change_complaints(shown: Shown, analysis: Analysis, priors: Priors) -> Iterator[str]:
    latest = priors.latest
    for region, scores in analysis.scores.regions.items():
        now = Shares(scores.severity_score, scores.consolidation_score)
        for name, field in _CHANGES.items():
            before = _percent(latest.shares[region], field) if latest else None
            since = _percent(now, field)
            expected = None if before is None or since is None else since - before
            if not _agree(shown.get((name, region)), expected):
                yield f"the change of {field} of {region} is {shown.get((name, region))}, not {expected}"


def _evidence_complaints(ds: Dataset, priors: Priors) -> Iterator[str]:
    """What is referred to as a report is one of the priors, and is listed as other evidence."""
    evidence = {
        str(instance.ReferencedSOPInstanceUID)
        for study in ds.get("PertinentOtherEvidenceSequence", ())
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    named = {
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in walk(ds)
        if item.ValueType == "COMPOSITE"
    }
    given = {reference.sop_instance_uid for prior in priors.results for reference in prior.reports.values()}
    if named != evidence or not named <= given or len(named) != len(priors.results):
        yield "the prior reports referred to are not those that were given, or not the pertinent other evidence"


def _percent(shares: Shares, field: str) -> float | None:
    fraction: float | None = getattr(shares, field)
    return None if fraction is None else 100.0 * fraction


def _agree(shown: float | None, expected: float | None) -> bool:
    if shown is None or expected is None:
        return shown is expected
    return math.isclose(shown, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def _text(item: Dataset, code: str) -> str:
    for child in item.ContentSequence:
        if child.ConceptNameCodeSequence[0].CodeValue == code:
            return str(child.get("Date") or child.get("Time") or "")
    return ""
