"""Result SRs of a patient in one archive: found (C-FIND), brought (`report_retrieval`), read as earlier results.

What a report says is judged by `pipeline.sr_reader`, and whose it is by the report itself: some archives match
PatientID without case, or ignore its issuer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, Comprehensive3DSRStorage

from dicom_node import query
from dicom_node.config import Source
from dicom_node.errors import NotParsable
from dicom_node.expected import Expected
from dicom_node.received import parsing
from dicom_node.report_retrieval import MAX_REPORTS, ReportSeries, bring
from pipeline import priors, sr_reader
from pipeline.priors import Priors
from pipeline.sr_reader import NotAPrior, ReadReport

DESCRIPTION = "Lung opacity report"  # how the SeriesDescription of every report begins
MAX_STUDIES = 40  # looked at, the newest: more are never shown
SERIES_KEYS = ("StudyInstanceUID", "SeriesInstanceUID", "SeriesDescription")
IMAGE_KEYS = {"SOPInstanceUID": "", "SOPClassUID": ""}


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


def fetch(source: Source, patient: Patient, calling_ae: str, expected: Expected) -> Priors:
    """Results of earlier studies of the patient; the sentence names the archive and what was refused.

    Args:
        source: the archive.
        patient: whose results.
        calling_ae: our AE title, and the destination of a C-MOVE.
        expected: where the receiver hands over what a C-MOVE brings.

    Raises:
        TransientError, PermanentError: as in `association` and `report_retrieval.bring`.
    """
    reports: list[ReadReport] = []
    retired: set[str] = set()  # by reports that are not this patient's too: a correction may have moved the CT away
    refused: dict[str, int] = {}
    series = list(_series(source, _studies(source, patient, calling_ae), calling_ae))
    brought = bring(source, _so_many(series), calling_ae, expected)
    for data, syntax in brought:
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
    told += _lacking(source, series, len(brought))
    told += "".join(f"; {number} refused: {why}" for why, number in sorted(refused.items()))
    return Priors(tuple(report.prior for report in counting.values()), told)


def _lacking(source: Source, series: Sequence[ReportSeries], brought: int) -> str:
    """What of them could not be had, as a clause."""
    unlisted = sum(not one.instance_uids for one in series) if source.retrieve == "move" else 0
    lacking = sum(len(one.instance_uids) for one in series) - brought
    told = f"; {lacking} could not be fetched" if lacking > 0 else ""
    return told + (f"; {unlisted} series could not, as their instances are not listed" if unlisted else "")


def _so_many(series: Iterable[ReportSeries]) -> list[ReportSeries]:
    """The first of them, as many as all of whose reports may be fetched."""
    kept, left = [], MAX_REPORTS
    for one in series:
        if len(one.instance_uids) <= left:
            left -= len(one.instance_uids)
            kept.append(one)
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


def _series(source: Source, study_uids: Sequence[str], calling_ae: str) -> Iterator[ReportSeries]:
    """Their series that may hold reports."""
    keys = dict.fromkeys(SERIES_KEYS, "") | {"Modality": "SR"}
    queries = [query.identifier("SERIES", keys | {"StudyInstanceUID": uid}) for uid in study_uids]
    matches = [match for found in _find(source, queries, calling_ae) for match in found]
    listed = [query.identifier("IMAGE", _uids(match) | IMAGE_KEYS) for match in matches if _may_hold_reports(match)]
    for identifier, images in zip(listed, _find(source, listed, calling_ae), strict=True):
        reports = [each for each in images if query.text(each, "SOPClassUID") in ("", Comprehensive3DSRStorage)]
        uids = {query.text(each, "SOPInstanceUID") for each in reports} - {""}
        if uids or not images:  # others are of another SOP class
            yield ReportSeries(
                str(identifier.StudyInstanceUID), str(identifier.SeriesInstanceUID), tuple(sorted(uids))
            )


def _find(source: Source, queries: Sequence[Dataset], calling_ae: str) -> list[list[Dataset]]:
    return query.find(source, queries, calling_ae) if queries else []


def _uids(match: Dataset) -> dict[str, str]:
    return {keyword: query.text(match, keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID")}


def _may_hold_reports(match: Dataset) -> bool:
    """Archives that do not tell the description are believed to have some."""
    description = query.text(match, "SeriesDescription")
    return (
        query.text(match, "Modality") == "SR"
        and bool(query.text(match, "SeriesInstanceUID"))
        and (not description or description.startswith(DESCRIPTION))
    )


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
