"""The note that rejects superseded objects: what it names, in which words, and what would be wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage, SegmentationStorage

from pipeline import checks, rejection, uids
from pipeline.types import Analysis, ObjectReference, Profile, ResultContext
from tests.fixtures.results import make_analysis, make_context, through_bytes

CLASSES = (SegmentationStorage, SecondaryCaptureImageStorage, Comprehensive3DSRStorage)


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return make_analysis()


def old_set(analysis: Analysis, revision: int = 1) -> tuple[ObjectReference, ...]:
    study = str(analysis.volume.headers[0].StudyInstanceUID)
    return tuple(
        ObjectReference(study, f"1.2.{revision}.{number}", str(sop_class), f"1.2.{revision}.{number}.1")
        for number, sop_class in enumerate(CLASSES)
    )


def context_of(analysis: Analysis, **changes: Any) -> ResultContext:
    return make_context(
        **{
            "revision": 2,
            "profile": Profile(rejection_note=True),
            "superseded": old_set(analysis),
            **changes,
        }
    )


def note(analysis: Analysis, context: ResultContext) -> Dataset:
    ds = rejection.build(analysis, context)
    assert ds is not None
    return through_bytes(ds)


def test_it_names_every_object_of_the_old_set(analysis: Analysis) -> None:
    ds = note(analysis, context_of(analysis))
    title = ds.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113001", "DCM")
    text, *items = ds.ContentSequence
    assert text.TextValue == "Superseded by revision 2 of the result"
    assert [item.ValueType for item in items] == ["IMAGE", "IMAGE", "COMPOSITE"]
    named = [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in items]
    assert named == [each.sop_instance_uid for each in old_set(analysis)]
    source = analysis.volume.headers[0]
    assert (ds.PatientID, str(ds.PatientName)) == (source.PatientID, str(source.PatientName))
    assert ds.StudyInstanceUID == source.StudyInstanceUID
    assert list(checks.complaints(ds, analysis, {}, old_set(analysis))) == []


def test_it_names_the_patient_and_the_study_as_the_objects_do_that_it_rejects() -> None:
    """An archive with patients of several issuers would file a note without issuer for another one."""
    attributes = {"IssuerOfPatientID": "HOSPITAL B", "PatientIdentityRemoved": "NO", "ClinicalTrialSiteID": "7"}
    analysis = make_analysis(attributes=attributes)
    ds = note(analysis, context_of(analysis))
    for keyword, value in {**attributes, "StudyDescription": "Synthetic chest CT"}.items():
        assert ds.get(keyword) == value
    assert str(ds.PatientName) == str(analysis.volume.headers[0].PatientName)
    del ds.IssuerOfPatientID
    assert list(checks.complaints(ds, analysis, {}, old_set(analysis))) == ["IssuerOfPatientID is not the source's"]


def test_only_where_the_profile_asks_and_something_is_superseded(analysis: Analysis) -> None:
    assert rejection.build(analysis, context_of(analysis, profile=Profile())) is None
    assert rejection.build(analysis, context_of(analysis, superseded=())) is None


def test_another_list_is_another_object(analysis: Analysis) -> None:
    longer = context_of(analysis, superseded=old_set(analysis) + old_set(analysis, 7))
    first, second = note(analysis, context_of(analysis)), note(analysis, longer)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert len(second.ContentSequence) == 7
    assert uids.result_set(analysis, longer) != uids.result_set(analysis, context_of(analysis))


def _other_title(ds: Dataset) -> None:
    ds.ConceptNameCodeSequence[0].CodeValue = "113000"


def _one_less(ds: Dataset) -> None:
    del ds.ContentSequence[-1]


def _no_evidence(ds: Dataset) -> None:
    del ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]


def _wrong_type(ds: Dataset) -> None:
    ds.ContentSequence[-1].ValueType = "IMAGE"


def _other_study(ds: Dataset) -> None:
    ds.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID = "1.2.3"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_other_title, "the note has the title"),
        (_one_less, "does not name exactly"),
        (_no_evidence, "evidence"),
        (_wrong_type, "referred to as IMAGE"),
        (_other_study, "objects of another study"),
    ],
)
def test_faults_are_found(analysis: Analysis, spoil: Callable[[Dataset], None], says: str) -> None:
    ds = note(analysis, context_of(analysis))
    spoil(ds)
    assert any(says in each for each in checks.complaints(ds, analysis, {}, old_set(analysis)))
