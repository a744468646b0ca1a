"""The rejection note of a superseded result set: Key Object Selection Document (PS3.3 A.35.4, PS3.16 TID 2010).

Titled 113001 DCM "Rejected for Quality Reasons" (CID 7011), as IHE IOCM has it: archives that know it hide what is
named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, EncapsulatedPDFStorage

from pipeline import codes, header, provenance
from pipeline.types import Analysis, ObjectReference, ResultContext, ResultKind

_REPORTS = (Comprehensive3DSRStorage, EncapsulatedPDFStorage)  # the objects of a set that are no images


def build(analysis: Analysis, context: ResultContext) -> Dataset | None:
    """The note that names every object of earlier sets of this study, or None where there is nothing to reject."""
    if not context.profile.rejection_note or not context.superseded:
        return None
    source = header.of_series(analysis.volume.headers)
    patient = provenance.nameless(source)
    rejected = [_named(patient, reference) for reference in context.superseded]
    built = KeyObjectSelectionDocument(
        evidence=rejected,
        content=KeyObjectSelection(
            document_title=codes.REJECTED_FOR_QUALITY,
            referenced_objects=rejected,
            description=f"Superseded by revision {context.revision} of the result",
        ),
        **provenance.arguments(analysis, context, source, ResultKind.REJECTION),
    )
    built.copy_patient_and_study_information(patient)  # highdicom's class takes the mandatory attributes alone
    return provenance.finish(built, analysis, context, source)


def _named(patient: Dataset, reference: ObjectReference) -> Dataset:
    """The patient and study of the source with the UIDs of an object; Rows and Columns say what is an image."""
    ds = Dataset()
    for elem in patient:
        ds.add(copy(elem))
    if reference.sop_class_uid in _REPORTS:
        del ds.Rows, ds.Columns
    ds.StudyInstanceUID = reference.study_uid
    ds.SeriesInstanceUID = reference.series_uid
    ds.SOPClassUID = reference.sop_class_uid
    ds.SOPInstanceUID = reference.sop_instance_uid
    return ds


def complaints(ds: Dataset, superseded: Sequence[ObjectReference]) -> Iterator[str]:
    """Everything that is wrong with a note that is to reject `superseded` and nothing else."""
    title = ds.ConceptNameCodeSequence[0]
    if (title.CodeValue, title.CodingSchemeDesignator) != ("113001", "DCM"):
        yield f"the note has the title {title.CodeMeaning}"
    expected = {(each.sop_class_uid, each.sop_instance_uid) for each in superseded}
    named = {
        (str(reference.ReferencedSOPClassUID), str(reference.ReferencedSOPInstanceUID))
        for item in ds.ContentSequence
        if item.ValueType != "TEXT"
        for reference in item.ReferencedSOPSequence
    }
    evidence = {
        (str(study.StudyInstanceUID), str(series.SeriesInstanceUID), str(instance.ReferencedSOPInstanceUID))
        for study in ds.get("CurrentRequestedProcedureEvidenceSequence", ())
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    for item in ds.ContentSequence:
        is_sr = item.ValueType != "TEXT" and item.ReferencedSOPSequence[0].ReferencedSOPClassUID in _REPORTS
        if item.ValueType != "TEXT" and (item.ValueType == "COMPOSITE") is not is_sr:
            yield f"an object is referred to as {item.ValueType}"
    if named != expected:
        yield "the note does not name exactly what it is to reject"
    if evidence != {(each.study_uid, each.series_uid, each.sop_instance_uid) for each in superseded}:
        yield "the evidence of the note is not what it is to reject"
    if {study for study, _, _ in evidence} != {str(ds.StudyInstanceUID)}:
        yield "the note rejects objects of another study"
