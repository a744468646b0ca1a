"""The figures as Comprehensive 3D SR (PS3.3 A.35.13), Measurement Report TID 1500 (PS3.16)."""

from __future__ import annotations

from collections.abc import Iterator

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    ImageContentItem,
    LanguageOfContentItemAndDescendants,
    ObservationContext,
    ObserverContext,
    RelationshipTypeValues,
    UIDRefContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.sr.coding import Code

from pipeline import (
    RESEARCH_USE_ONLY,
    SOFTWARE_NAME,
    codes,
    header,
    others,
    priors,
    provenance,
    sr_groups,
    sr_outlines,
    sr_priors,
    uids,
)
from pipeline.header import SourceHeader
from pipeline.sr_items import ACQUISITION_CONTEXT, CONTAINS, container, text
from pipeline.types import Analysis, ResultContext, ResultKind

_LANGUAGE = CodedConcept("en", "RFC5646", "English")
_DISCLAIMER = (
    f"{RESEARCH_USE_ONLY}. The figures are measured by software and say how much of the lung is opaque, not why."
)


def build(analysis: Analysis, context: ResultContext) -> Dataset:
    """The SR of a result set. It names the SEG objects in `context.segmentations` and the SR that it replaces."""
    source = header.of_series(analysis.volume.headers)
    built = Comprehensive3DSR(
        evidence=[
            provenance.nameless(source),
            *header.evidence(analysis.volume.headers[1:]),
            *context.segmentations.values(),
            *sr_priors.evidence(context),
        ],
        content=_document(analysis, context, source),
        is_complete=True,
        is_verified=False,
        performed_procedure_codes=_performed_procedures(source),
        requested_procedures=_requested_procedures(source),
        previous_versions=[sr_priors.named(context.predecessor)] if context.predecessor else None,
        coding_schemes=codes.coding_schemes(),
        **provenance.arguments(analysis, context, source, ResultKind.SR),
    )
    return provenance.finish(built, analysis, context, source)


def _document(analysis: Analysis, context: ResultContext, source: SourceHeader) -> ContainerContentItem:
    """The root of TID 1500, row by row."""
    measurements = container(dictionary.DCM.ImagingMeasurements)
    for group in sr_groups.subject_groups(analysis, context):
        measurements.ContentSequence.extend(group)
    if context.profile.key_slices:
        for outline in sr_outlines.key_slice_groups(analysis, context):
            measurements.ContentSequence.extend(outline)
    statements = container(codes.QUALITATIVE_EVALUATIONS)
    statements.ContentSequence.extend(_statements(analysis, context, source))

    root = ContainerContentItem(name=dictionary.cid7021.ImagingMeasurementReport, template_id="1500")
    root.ContentSequence = ContentSequence()
    root.ContentSequence.extend(LanguageOfContentItemAndDescendants(_LANGUAGE))
    root.ContentSequence.extend(_observer(analysis))
    root.ContentSequence.append(
        CodeContentItem(
            dictionary.DCM.ProcedureReported, codes.PROCEDURE_REPORTED, RelationshipTypeValues.HAS_CONCEPT_MOD
        )
    )
    root.ContentSequence.extend([_image_library(analysis, source), measurements])
    root.ContentSequence.extend([*sr_priors.containers(analysis, context), statements])
    return root


def _observer(analysis: Analysis) -> ObservationContext:
    """TID 1001 and 1004: the software with its model is the observer."""
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=dictionary.DCM.Device,
            observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                uid=uids.device(analysis.model),
                name=provenance.device_name(analysis.model),
                manufacturer_name=provenance.MANUFACTURER,
                model_name=SOFTWARE_NAME,
                serial_number=provenance.serial_number(analysis.model),
            ),
        )
    )


def _image_library(analysis: Analysis, source: SourceHeader) -> ContainerContentItem:
    """TID 1600: every source slice, what they share once for the group (TID 1602)."""
    library, group = container(codes.IMAGE_LIBRARY), container(codes.IMAGE_LIBRARY_GROUP)
    group.ContentSequence.append(CodeContentItem(codes.MODALITY, codes.COMPUTED_TOMOGRAPHY, ACQUISITION_CONTEXT))
    group.ContentSequence.append(
        UIDRefContentItem(codes.FRAME_OF_REFERENCE_UID, source.ds.FrameOfReferenceUID, ACQUISITION_CONTEXT)
    )
    group.ContentSequence.extend(sr_priors.acquisition(priors.first_acquired(analysis.volume.headers)))
    group.ContentSequence.extend(sr_priors.thickness(priors.technique(analysis)))
    for image in analysis.volume.headers:
        group.ContentSequence.append(
            ImageContentItem(
                name=dictionary.SCT.Source,
                referenced_sop_class_uid=image.SOPClassUID,
                referenced_sop_instance_uid=image.SOPInstanceUID,
                relationship_type=CONTAINS,
            )
        )
    library.ContentSequence.append(group)
    return library


def _statements(analysis: Analysis, context: ResultContext, source: SourceHeader) -> Iterator[ContentItem]:
    """Rows 13 and 14: the severity class, and what a reader must know before the figures are used."""
    severity_class = codes.SEVERITY_CLASSES[analysis.scores.severity_class]
    yield CodeContentItem(codes.SEVERITY_CLASS, severity_class, CONTAINS)
    yield text(codes.INTENDED_USE, _DISCLAIMER)
    for flag in analysis.flags:
        yield text(codes.QUALITY_FINDING, f"{flag.text} [{flag.code}]")
    yield from sr_priors.statements(priors.technique(analysis))
    yield text(codes.PRIOR_SEARCH, context.priors.search if context.priors else priors.NOT_LOOKED_FOR)
    yield text(codes.COMPLETENESS, context.completeness)
    if context.others:
        yield text(codes.OTHER_SERIES, others.sentence(context.others))
    yield text(codes.REVISION, str(context.revision))
    if analysis.accuracy:
        yield text(codes.ACCURACY, analysis.accuracy)
    for note in source.notes:
        yield text(codes.HEADER_NOTE, note)


def _performed_procedures(source: SourceHeader) -> list[Code]:
    """The procedure of the source where it is coded, else CT of chest."""
    coded = [
        Code(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)
        for item in source.ds.get("ProcedureCodeSequence", [])
    ]
    return coded or [codes.CT_OF_CHEST]


def _requested_procedures(source: SourceHeader) -> list[Dataset] | None:
    """Referenced Request Sequence (PS3.3 C.17.2) where the source knows its request."""
    requests = source.ds.get("RequestAttributesSequence") or [source.ds]
    if not any(request.get("RequestedProcedureID") for request in requests) and not source.ds.AccessionNumber:
        return None
    return [_requested_procedure(request, source) for request in requests]


def _requested_procedure(request: Dataset, source: SourceHeader) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = source.ds.StudyInstanceUID
    item.ReferencedStudySequence = []
    item.AccessionNumber = source.ds.AccessionNumber
    item.RequestedProcedureCodeSequence = request.get("RequestedProcedureCodeSequence", [])
    for keyword in (
        "PlacerOrderNumberImagingServiceRequest",
        "FillerOrderNumberImagingServiceRequest",
        "RequestedProcedureID",
        "RequestedProcedureDescription",
    ):
        setattr(item, keyword, request.get(keyword) or source.ds.get(keyword, ""))
    return item
