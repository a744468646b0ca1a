"""Earlier results in the report: what they said, and what changed since the latest of them.

The figures of a prior stand in a container of their own ("Previous Findings", TID 1500 is extensible), not in a
measurement group with a time point (TID 1502): what reads the groups of Imaging Measurements takes them all for
findings of this examination. Changes are Derived Imaging Measurements (row 10), inferred from the prior report.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime

from highdicom.sr import (
    CompositeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DateContentItem,
    RelationshipTypeValues,
    TimeContentItem,
    UIDRefContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.sr.coding import Code

from pipeline import codes, trend
from pipeline.priors import Prior, Technique
from pipeline.sr_items import ACQUISITION_CONTEXT, CONTAINS, container, lung_number, number, text
from pipeline.types import Analysis, ObjectReference, Region, ResultContext


def containers(analysis: Analysis, context: ResultContext) -> Iterator[ContainerContentItem]:
    """Changes since the latest prior, then every prior, oldest first; nothing where there is none."""
    if context.priors is None or context.priors.latest is None:
        return
    derived = container(codes.DERIVED_MEASUREMENTS)
    derived.ContentSequence.extend(_changes(analysis, context, context.priors.latest))
    if derived.ContentSequence:  # a lung that was not measured then or now has no change
        yield derived
    for prior in context.priors.results:
        yield _previous(analysis, context, prior)


def reports(context: ResultContext) -> list[ObjectReference]:
    """The prior reports that `containers` refers to: pertinent other evidence (PS3.3 C.17.2.3)."""
    found = context.priors.results if context.priors else ()
    return [prior.report(context.profile.name) for prior in found]


def acquisition(moment: str) -> Iterator[ContentItem]:
    """When a CT was acquired (TID 1602), from `Prior.acquired`."""
    if not moment:
        return
    when = datetime.fromisoformat(moment)
    yield DateContentItem(codes.ACQUISITION_DATE, date(when.year, when.month, when.day), ACQUISITION_CONTEXT)
    if "T" in moment:
        yield TimeContentItem(codes.ACQUISITION_TIME, when.time(), ACQUISITION_CONTEXT)


def thickness(technique: Technique) -> Iterator[ContentItem]:
    """Slice thickness (TID 1604)."""
    if technique.thickness_mm is not None:
        yield number(codes.SLICE_THICKNESS, technique.thickness_mm, codes.MILLIMETRE, ACQUISITION_CONTEXT)


def statements(technique: Technique) -> Iterator[ContentItem]:
    """How figures were obtained, in the words that `sr_reader` reads back."""
    model = technique.model
    yield text(codes.MODEL, f"{model.name} {model.version}, SHA-256 {model.digest}")
    for name, words in (
        (codes.LUNG_METHOD, technique.lungs),
        (codes.RESAMPLING, technique.resampling),
        (codes.KERNEL, technique.kernel),
    ):
        if words:
            yield text(name, words)


def _changes(analysis: Analysis, context: ResultContext, prior: Prior) -> Iterator[ContentItem]:
    for region, change in trend.changes(analysis, prior).items():
        for name, difference in (
            (codes.SEVERITY_CHANGE, change.severity),
            (codes.CONSOLIDATION_CHANGE, change.consolidation),
        ):
            if difference is not None:
                item = lung_number(name, 100.0 * difference, codes.PERCENT, region)
                item.ContentSequence.append(_report(prior, context, RelationshipTypeValues.INFERRED_FROM))
                yield item


def _previous(analysis: Analysis, context: ResultContext, prior: Prior) -> ContainerContentItem:
    item = container(codes.PREVIOUS_FINDINGS)
    content: ContentSequence = item.ContentSequence
    content.extend(acquisition(prior.acquired))
    study_uid = UIDRefContentItem(dictionary.DCM.StudyInstanceUID, prior.study_uid, ACQUISITION_CONTEXT)
    content.append(study_uid)
    content.extend(thickness(prior.technique))
    content.append(_report(prior, context, CONTAINS))
    content.extend(_shares(prior))
    content.extend(statements(prior.technique))
    content.extend(text(codes.COMPARABILITY, words) for words in trend.warnings(analysis, prior))
    return item


def _shares(prior: Prior) -> Iterator[ContentItem]:
    for region in Region:
        of = prior.shares[region]
        named: tuple[tuple[Code, float | None], ...] = (
            (codes.SEVERITY_SCORE, of.severity),
            (codes.CONSOLIDATION_SCORE, of.consolidation),
        )
        for name, share in named:
            if share is not None:
                yield lung_number(name, 100.0 * share, codes.PERCENT, region)


def _report(prior: Prior, context: ResultContext, relationship: RelationshipTypeValues) -> CompositeContentItem:
    reference = prior.report(context.profile.name)
    return CompositeContentItem(
        codes.PRIOR_REPORT, reference.sop_class_uid, reference.sop_instance_uid, relationship
    )


def evidence(context: ResultContext) -> list[Dataset]:
    """A small data set per prior report."""
    return [named(reference) for reference in reports(context)]


def named(reference: ObjectReference) -> Dataset:
    """A data set that names an object."""
    ds = Dataset()
    ds.StudyInstanceUID = reference.study_uid
    ds.SeriesInstanceUID = reference.series_uid
    ds.SOPClassUID = reference.sop_class_uid
    ds.SOPInstanceUID = reference.sop_instance_uid
    return ds
