"""Result SRs of a patient in one archive: asked for (C-FIND), fetched (C-GET), read as earlier results.

Nothing that comes is kept as a file. Its size and number are bounded, what it says is judged by
`pipeline.sr_reader`, and whose it is by the report itself: some archives match PatientID without case, or ignore
its issuer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, Comprehensive3DSRStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from dicom_node import query, retrieve
from dicom_node.association_server import Answer
from dicom_node.config import Source
from dicom_node.errors import NotParsable
from dicom_node.received import parsing
from dicom_node.upper_layer import Discarded, InstanceMemory
from pipeline import priors, sr_reader
from pipeline.priors import Priors
from pipeline.sr_reader import NotAPrior, ReadReport

DESCRIPTION = "Lung opacity report"  # how the SeriesDescription of every report begins
MAX_STUDIES = 40  # looked at, the newest: more are never shown
MAX_REPORTS = 100  # fetched for one patient
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@dataclass(frozen=True)
class Patient:
    """Whose reports are wanted, and before which CT; `acquired` as in `pipeline.priors.Prior`."""

    patient_id: str
    issuer: str
    birth_date: str
    study_uid: str
    acquired: str

    @property
    def can_be_asked_for(self) -> bool:
        """Whether a query for it means this patient alone."""
        return priors.identifies(self.patient_id) and query.is_exact(self.patient_id) and bool(self.acquired)


def fetch(source: Source, patient: Patient, calling_ae: str) -> Priors:
    """Results of earlier studies of the patient; the sentence names the archive and what was refused.

    Raises:
        TransientError, PermanentError: as in `association`; an archive without C-GET is permanent.
    """
    reports: list[ReadReport] = []
    retired: set[str] = set()  # by reports that are not this patient's too: a correction may have moved the CT away
    refused: dict[str, int] = {}
    for data, syntax in _instances(source, patient, calling_ae):
        try:
            report, birth_date = _read(data, syntax, source.name)
            retired.update(report.replaces)
            _refuse_others(report, birth_date, patient)
            reports.append(report)
        except (NotAPrior, NotParsable) as error:
            refused[str(error)] = refused.get(str(error), 0) + 1
    counting, contradicting = sr_reader.current(reports, retired)
    if contradicting:
        refused["contradicting results of one study"] = contradicting
    told = f"{source.name}, {len(counting) or 'no'} earlier report{'' if len(counting) == 1 else 's'}"
    told += "".join(f"; {number} refused: {why}" for why, number in sorted(refused.items()))
    return Priors(tuple(report.prior for report in counting.values()), told)


def _instances(source: Source, patient: Patient, calling_ae: str) -> list[tuple[bytes, UID]]:
    """Encoded data sets of what may be reports, with their transfer syntaxes."""
    requests = [
        request
        for study_uid in _studies(source, patient, calling_ae)
        for series_uid in _series(source, study_uid, calling_ae)
        for request in retrieve.identifiers(study_uid, series_uid)
    ][:MAX_REPORTS]
    kept: list[tuple[bytes, UID]] = []

    def keep(request: C_STORE, sop_class: UID, transfer_syntax: UID) -> Answer:
        if len(kept) >= MAX_REPORTS or isinstance(request.DataSet, Discarded) or request.DataSet is None:
            return Answer(0xA700, "more than is read as an earlier report")
        kept.append((request.DataSet.getvalue(), transfer_syntax))
        return Answer(0x0000)

    if requests:
        contexts = [build_context(Comprehensive3DSRStorage, list(SYNTAXES))]
        memory = InstanceMemory(sr_reader.MAX_BYTES, 2 * sr_reader.MAX_BYTES)
        retrieve.get(source, requests, calling_ae, contexts, keep, memory, source.timeout_s)
    return kept


def _studies(source: Source, patient: Patient, calling_ae: str) -> list[str]:
    """Other studies of the patient up to the day of the CT, the newest first."""
    day = patient.acquired[:10].replace("-", "")
    found = query.find_studies(source, {"PatientID": patient.patient_id, "StudyDate": f"-{day}"}, calling_ae)
    mine = [match for match in found if _may_be(match, patient)]
    mine.sort(key=lambda match: query.text(match, "StudyDate"), reverse=True)
    return [query.text(match, "StudyInstanceUID") for match in mine[:MAX_STUDIES]]


def _may_be(match: Dataset, patient: Patient) -> bool:
    modalities, issuer = match.get("ModalitiesInStudy") or "SR", query.text(match, "IssuerOfPatientID")
    return (
        query.text(match, "PatientID") == patient.patient_id.strip()
        and issuer in ("", patient.issuer.strip())
        and query.text(match, "StudyInstanceUID") not in ("", patient.study_uid)
        and ("SR" in ([modalities] if isinstance(modalities, str) else modalities))
    )


def _series(source: Source, study_uid: str, calling_ae: str) -> Iterator[str]:
    for match in query.find_series(source, {"StudyInstanceUID": study_uid, "Modality": "SR"}, calling_ae):
        description = query.text(match, "SeriesDescription")
        if query.text(match, "Modality") == "SR" and (not description or description.startswith(DESCRIPTION)):
            yield query.text(match, "SeriesInstanceUID")


def _read(data: bytes, syntax: UID, origin: str) -> tuple[ReadReport, str]:
    """One data set, and the patient's birth date in it. Raises NotAPrior, NotParsable."""
    with parsing():
        ds = read_dataset(BytesIO(data), syntax.is_implicit_VR, is_little_endian=True)
        return sr_reader.read(ds, origin), str(ds.get("PatientBirthDate") or "")


def _refuse_others(report: ReadReport, birth_date: str, patient: Patient) -> None:
    """Raise NotAPrior unless the report is of this patient."""
    found = report.prior
    if (found.patient_id.strip(), found.patient_id_issuer.strip()) != (
        patient.patient_id.strip(),
        patient.issuer.strip(),
    ):
        raise NotAPrior("of another patient or issuer")
    if birth_date and patient.birth_date and birth_date != patient.birth_date:
        raise NotAPrior("same PatientID, other birth date")
