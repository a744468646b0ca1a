"""What a source has beside what the ledger knows: chest CT that the node never saw, or never finished.

`listed_series` and `listed_since` ask; `compare` is pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from pydicom.dataset import Dataset

from dicom_node import query
from dicom_node.completion import not_chest
from dicom_node.config import CompletionSection, Source
from dicom_node.ledger import SeriesRecord, Wanted
from dicom_node.states import SeriesState

S = SeriesState
UNDER_WAY = frozenset({S.RECEIVING, S.COMPLETE, S.QUEUED, S.ANALYSED})
RESULT = frozenset({S.QUEUED, S.ANALYSED, S.DELIVERED})
NORMAL = timedelta(hours=1)  # a series may be under way for so long before anybody needs to look


@dataclass(frozen=True)
class ListedSeries:
    """A CT series that a source lists. `instances` is None where it does not give the number."""

    source: str
    study_uid: str
    series_uid: str
    instances: int | None
    patient_id: str = ""
    patient_id_issuer: str = ""
    accession_number: str = ""
    study_date: str = ""
    description: str = ""
    not_chest: str = ""

    @property
    def wanted(self) -> Wanted:
        """For `Ledger.request_retrievals`."""
        return Wanted(self.study_uid, self.series_uid)


@dataclass(frozen=True)
class Finding:
    """A series that was never seen or never finished.

    Attributes:
        received: instances that are here.
        state: in the ledger; None where it was never seen.
        reason: what is wrong, a sentence.
        fetch: whether fetching it may help.
    """

    series: ListedSeries
    received: int
    state: SeriesState | None
    reason: str
    fetch: bool


def listed_since(source: Source, since: date, today: date, calling_ae: str) -> list[ListedSeries]:
    """CT series of the studies of these days, as far as tags do not say that they are of another body part.

    Day by day: many archives cut an answer off at some hundred matches and do not say so.
    """
    days = [since + timedelta(days=number) for number in range((today - since).days + 2)]  # clocks differ
    keys = {**dict.fromkeys(query.STUDY_KEYS, ""), "ModalitiesInStudy": "CT"}
    queries = [query.identifier("STUDY", {**keys, "StudyDate": f"{day:%Y%m%d}"}) for day in days]
    studies = [match for matches in query.find(source, queries, calling_ae) for match in matches]
    return [series for series in _series_of(source, studies, calling_ae) if not series.not_chest]


def listed_series(source: Source, keys: Mapping[str, str], calling_ae: str) -> list[ListedSeries]:
    """Every CT series of the studies that match `keys`, of whatever body part."""
    return _series_of(source, query.find_studies(source, keys, calling_ae), calling_ae)


def compare(
    listed: Sequence[ListedSeries],
    known: Mapping[str, SeriesRecord],
    rules: CompletionSection,
    now: datetime,
) -> list[Finding]:
    """What is to be told of. A study that has a result and lacks nothing is finished, whatever else it holds.

    Args:
        listed: by one source.
        known: the series records of these, and of no others, by SeriesInstanceUID.
        rules: series of fewer slices than are analysed are passed over.
        now: the present.
    """
    enough = [item for item in listed if item.instances is None or item.instances >= rules.min_slices]
    finished = {
        item.study_uid
        for item in enough
        if (record := known.get(item.series_uid)) is not None
        and record.state in RESULT
        and not _lacks(item, record)
    }
    found = [_finding(item, known.get(item.series_uid), item.study_uid in finished, now) for item in enough]
    return [finding for finding in found if finding is not None]


def _finding(
    item: ListedSeries, record: SeriesRecord | None, study_is_finished: bool, now: datetime
) -> Finding | None:
    if record is None:
        if study_is_finished:
            return None
        return Finding(item, 0, None, "never seen", fetch=True)
    if _lacks(item, record) and record.state is not S.CANCELLED and now - record.changed_at >= _patience(record):
        reason = f"{item.instances} instances there, {record.instances} here"
        told = f"{reason}; {record.reason}" if record.reason else reason
        return Finding(item, record.instances, record.state, told, fetch=True)
    stuck = record.state in UNDER_WAY and now - record.changed_at >= NORMAL
    if stuck or record.state in (S.INCOMPLETE, S.FAILED):
        reason = record.reason or f"{record.state} since {record.changed_at:%Y-%m-%d %H:%M} UTC"
        return Finding(item, record.instances, record.state, reason, fetch=False)
    return None


def _lacks(item: ListedSeries, record: SeriesRecord) -> bool:
    return item.instances is not None and item.instances > record.instances


def _patience(record: SeriesRecord) -> timedelta:
    """One that is under way may get by itself what it lacks."""
    return NORMAL if record.state in UNDER_WAY else timedelta(0)


def _series_of(source: Source, studies: Iterable[Dataset], calling_ae: str) -> list[ListedSeries]:
    """The CT series of these studies, asked for on one association."""
    unique = {query.text(study, "StudyInstanceUID"): study for study in studies if _may_hold_ct(study)}
    unique.pop("", None)
    keys = {**dict.fromkeys(query.SERIES_KEYS, ""), "Modality": "CT"}
    queries = [query.identifier("SERIES", {**keys, "StudyInstanceUID": uid}) for uid in unique]
    if not queries:
        return []
    answers = query.find(source, queries, calling_ae)
    found = [
        _listed(source, study, match)
        for study, matches in zip(unique.values(), answers, strict=True)
        for match in matches
        if query.text(match, "Modality") in ("CT", "") and query.text(match, "SeriesInstanceUID")
    ]
    return list({item.series_uid: item for item in found}.values())


def _may_hold_ct(study: Dataset) -> bool:
    """Not every archive matches ModalitiesInStudy, and not every one gives it."""
    value = study.get("ModalitiesInStudy")
    modalities: Collection[str] = [value] if isinstance(value, str) else value or []
    return not any(modalities) or "CT" in modalities


def _listed(source: Source, study: Dataset, match: Dataset) -> ListedSeries:
    header = {
        "BodyPartExamined": query.text(match, "BodyPartExamined"),
        "SeriesDescription": query.text(match, "SeriesDescription"),
        "ProtocolName": query.text(match, "ProtocolName"),
        "StudyDescription": query.text(study, "StudyDescription"),
    }
    return ListedSeries(
        source=source.name,
        study_uid=query.text(study, "StudyInstanceUID"),
        series_uid=query.text(match, "SeriesInstanceUID"),
        instances=query.number(match, "NumberOfSeriesRelatedInstances"),
        patient_id=query.text(study, "PatientID"),
        patient_id_issuer=query.text(study, "IssuerOfPatientID"),
        accession_number=query.text(study, "AccessionNumber"),
        study_date=query.text(study, "StudyDate"),
        description=header["SeriesDescription"],
        not_chest=not_chest(header),
    )
