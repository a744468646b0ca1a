"""The ledger's room for earlier results of a patient: which an analysis is given, kept with its job.

They are chosen once, with the first attempt, and stay: an analysis that is done again after a crash gives the same
bytes. A patient is PatientID and IssuerOfPatientID together (PS3.3 C.7.1.1), equal to the letter; a birth date that
contradicts is another patient all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, exists, select
from sqlalchemy.orm import Session, aliased

from dicom_node.ledger_records import JobRecord, SeriesRecord
from dicom_node.ledger_rows import job_record, object_reference, series_query, series_record
from dicom_node.ledger_writer import LedgerRoom
from dicom_node.result_file import QUARANTINED
from dicom_node.states import DeliveryState, InstanceState, JobState
from dicom_node.tables import DeliveryRow, InstanceRow, JobRow, ResultRow, SeriesRow
from pipeline import priors
from pipeline.priors import Prior, Priors, Shares, Technique
from pipeline.types import ModelIdentity, ObjectReference, Region, ResultKind

HERE = "this node"


@dataclass(frozen=True)
class PriorRules:
    """How many earlier studies are shown, the newest ones, and how old they may be."""

    max_count: int
    max_age_days: int


@dataclass(frozen=True)
class CurrentCt:
    """What the images of an analysis say of themselves; `acquired` as in `pipeline.priors.Prior`."""

    acquired: str
    birth_date: str


def waits_for_earlier_study() -> ColumnElement[bool]:
    """Whether an earlier study of the same patient is still to be analysed, whose result will be a prior."""
    job, series = aliased(JobRow), aliased(SeriesRow)
    return exists().where(
        job.series_id == series.id,
        job.state.in_((JobState.WAITING, JobState.RUNNING)),
        series.patient_id == SeriesRow.patient_id,
        series.patient_id_issuer == SeriesRow.patient_id_issuer,
        series.patient_id != "",
        series.study_uid != SeriesRow.study_uid,
        series.study_date != "",
        series.study_date < SeriesRow.study_date,  # a strict order: never two that wait for each other
    )


class PriorRoom(LedgerRoom):
    """Earlier results."""

    def fix_priors(self, job: JobRecord, current: CurrentCt, rules: PriorRules, now: datetime) -> Priors:
        """The priors of a job: those that an earlier attempt was given, else chosen now and kept."""
        with self._write(now) as writer:
            row = writer.session.get_one(JobRow, job.id)
            if row.priors is None:
                series = writer.session.get_one(SeriesRow, row.series_id)
                elsewhere = priors.from_json(row.priors_found) if row.priors_found else None
                found = _choose(writer.session, series, current, rules, elsewhere)
                row.priors = priors.to_json(found)
                writer.event("job", f"earlier results: {found.search}", series_id=series.id, subject_id=row.id)
            return priors.from_json(row.priors)

    def jobs_to_search(self) -> list[tuple[JobRecord, SeriesRecord]]:
        """WAITING jobs for which archives were not asked yet, longest waiting first."""
        query = (
            series_query()
            .add_columns(JobRow)
            .join(JobRow, JobRow.series_id == SeriesRow.id)
            .where(JobRow.state == JobState.WAITING, JobRow.priors_found.is_(None))
            .order_by(JobRow.id)
        )
        with self._read() as session:
            return [
                (job_record(job, series.series_uid), series_record(series, instances))
                for series, instances, job in session.execute(query)
            ]

    def keep_found(self, job: JobRecord, found: Priors, now: datetime) -> None:
        """What archives have; nothing where the job is not WAITING any more, or has an answer already."""
        with self._write(now) as writer:
            row = writer.session.get_one(JobRow, job.id)
            if row.state == JobState.WAITING and row.priors_found is None:
                row.priors_found = priors.to_json(found)
                told = f"archives were asked for earlier results: {found.search}"
                writer.event("job", told, series_id=row.series_id, subject_id=row.id)


def _choose(
    session: Session, series: SeriesRow, current: CurrentCt, rules: PriorRules, elsewhere: Priors | None
) -> Priors:
    if not priors.identifies(series.patient_id) or len(series.patient_id_issuer) > priors.MAX_ID:
        return Priors(search=f"{priors.NOT_LOOKED_FOR}: the CT has no PatientID that tells patients apart")
    if not current.acquired:
        return Priors(search=f"{priors.NOT_LOOKED_FOR}: the CT has neither an acquisition nor a study date")
    by_study = _of_archives(session, elsewhere, current)
    unreadable = contradicting = 0
    for other, job in _results_of_patient(session, series):
        if _contradicts(_birth_date(session, other), current.birth_date):
            contradicting += 1
            continue
        try:
            prior = _prior(session, other, job)
        except (ValueError, KeyError, TypeError):  # of a version of this software that kept less of it
            unreadable += 1
            continue
        if priors.is_earlier(prior.acquired, current.acquired):
            by_study[prior.study_uid] = prior
    newest = sorted(by_study.values(), key=lambda prior: (prior.acquired, prior.study_uid))
    recent = [p for p in newest if priors.days_between(p.acquired, current.acquired) <= rules.max_age_days]
    kept = tuple(recent[-rules.max_count :])
    told = _told(len(kept), len(newest) - len(kept), contradicting, unreadable)
    looked_for = f"looked for in {HERE}" + (f"; {elsewhere.search}" if elsewhere else "")
    return Priors(kept, f"{told}; {looked_for}")


def _of_archives(session: Session, found: Priors | None, current: CurrentCt) -> dict[str, Prior]:
    """By study, results of earlier studies that this node did not analyse: of its own it knows which count."""
    other = {
        prior.study_uid: prior
        for prior in (found.results if found else ())
        if priors.is_earlier(prior.acquired, current.acquired)
    }
    analysed = select(SeriesRow.study_uid).join(JobRow, JobRow.series_id == SeriesRow.id)
    known = set(session.scalars(analysed.where(SeriesRow.study_uid.in_(sorted(other)))))
    return {study_uid: prior for study_uid, prior in other.items() if study_uid not in known}


def _told(kept: int, passed_over: int, contradicting: int, unreadable: int) -> str:
    told = f"{kept or 'no'} earlier result{'' if kept == 1 else 's'} of this patient"
    for number, why in (
        (passed_over, "left out as too old or too many"),
        (contradicting, "left out: same PatientID, other birth date"),
        (unreadable, "left out: not readable"),
    ):
        if number:
            told += f"; {number} {why}"
    return told


def _results_of_patient(session: Session, series: SeriesRow) -> Sequence[Row[SeriesRow, JobRow]]:
    """Analyses whose results count at present, of other studies of the patient; the last of a study comes last."""
    has_results = exists().where(ResultRow.job_id == JobRow.id, ResultRow.current, ResultRow.kind == ResultKind.SR)
    quarantined = exists().where(
        ResultRow.job_id == JobRow.id,
        ResultRow.current,
        DeliveryRow.result_id == ResultRow.id,
        DeliveryRow.state == DeliveryState.FAILED,
        DeliveryRow.reason.startswith(QUARANTINED),
    )
    query = (
        select(SeriesRow, JobRow)
        .join(JobRow, JobRow.series_id == SeriesRow.id)
        .where(
            SeriesRow.patient_id == series.patient_id,
            SeriesRow.patient_id_issuer == series.patient_id_issuer,
            SeriesRow.study_uid != series.study_uid,
        )
        .where(and_(JobRow.state == JobState.DONE, has_results, ~quarantined))
        .order_by(JobRow.id)
    )
    return session.execute(query).all()


def _birth_date(session: Session, series: SeriesRow) -> str:
    query = (
        select(InstanceRow.header)
        .where(InstanceRow.series_id == series.id, InstanceRow.state == InstanceState.CURRENT)
        .limit(1)
    )
    header = session.scalar(query) or {}
    return str(header.get("PatientBirthDate") or "")


def _contradicts(one: str, other: str) -> bool:
    return bool(one and other) and one != other


def _prior(session: Session, series: SeriesRow, job: JobRow) -> Prior:
    """From the content of result.json. Raises ValueError, KeyError or TypeError where that is not enough."""
    report: Mapping[str, Any] = job.report or {}
    return Prior(
        patient_id=series.patient_id,
        patient_id_issuer=series.patient_id_issuer,
        acquired=report.get("acquired") or priors.acquired({"StudyDate": series.study_date}),
        study_uid=series.study_uid,
        shares={
            Region.BOTH: _shares(report),
            Region.RIGHT: _shares(report["right"]),
            Region.LEFT: _shares(report["left"]),
        },
        technique=_technique(report),
        reports=_reports(session, job),
        origin=HERE,
    )


def _shares(figures: Mapping[str, Any]) -> Shares:
    return Shares(figures["severity_score"], figures["consolidation_score"])


def _technique(report: Mapping[str, Any]) -> Technique:
    model = report["model"]
    identity = ModelIdentity(model["name"], model["version"], model["digest"])
    known = {name: value for name, value in (report.get("technique") or {}).items() if name != "model"}
    return replace(Technique(identity, lungs=report.get("lungs_method", "")), **known)


def _reports(session: Session, job: JobRow) -> dict[str, ObjectReference]:
    """The current SR of each profile, by its name."""
    query = select(ResultRow).where(ResultRow.job_id == job.id, ResultRow.current, ResultRow.kind == ResultKind.SR)
    return {row.profile: object_reference(row) for row in session.scalars(query.order_by(ResultRow.profile))}
