"""Studies → a cohort folder: images, labels and `cases.csv`, one case after the other.

After every case the table on disk is whole and names only what lies beside it, so that an interrupted command goes
on where it was. Rows that are there already are left as they are: what a person has corrected stays.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from dicom_node.config import CompletionSection
from pipeline import volume
from pipeline.arrays import Affine, LabelArray
from pipeline.errors import SeriesRejected
from pipeline.pixels import DAMAGED
from pipeline.types import PipelineSettings
from training import cohort, contours, images, report_documents, reports
from training.errors import CohortError
from training.report_documents import Keys
from training.reports import Decision, Judgement, Terms
from training.structures import Structures
from training.studies import Chosen, Study, choose

CASES, REJECTED = "cases.csv", "rejected.csv"
FINDINGS = ("ggo", "consolidation")
COLUMNS = (
    "case",
    "patient",
    "site",
    "split",
    *FINDINGS,
    *(f"{finding}_{what}" for finding in FINDINGS for what in ("from", "sentence")),
    "drawn",
    "study_uid",
    "series_uid",
    "accession",
    "study_date",
)
Row = dict[str, str]


@dataclass(frozen=True)
class Plan:
    """How cases are made.

    Attributes:
        validation, test: shares of the patients.
        site: of all cases; empty takes InstitutionName.
        reports: texts by case, StudyInstanceUID, accession number or patient ID.
        labels: rows of a table by the same keys, with `ggo` and `consolidation`; they count before reports.
        unmentioned_absent: a finding that a report does not mention is taken to be absent.
        limit: so many cases at most are added.
    """

    validation: float = 0.15
    test: float = 0.15
    site: str = ""
    structures: Structures = field(default_factory=lambda: Structures(algorithms=(), structures=()))
    languages: Sequence[Terms] = ()
    reports: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    unmentioned_absent: bool = False
    limit: int | None = None
    rules: CompletionSection = CompletionSection()


@dataclass(frozen=True)
class Built:
    """Names of new cases, why not each of the other studies, and which labels and reports are of no study."""

    added: Sequence[str]
    rejected: Mapping[str, str]
    unmatched: Sequence[str] = ()


def existing(out: Path) -> list[Row]:
    """The rows of the cohort as it stands; none where there is none yet.

    Raises:
        CohortError: the table cannot be read, or was not made by this command.
    """
    table = out / CASES
    if not table.is_file():
        return []
    columns, rows = cohort.read_table(table)
    lacking = [name for name in ("case", "patient", "split", "study_uid", *FINDINGS) if name not in columns]
    if lacking:
        raise CohortError(
            f"{table} lacks the columns {', '.join(lacking)}: put them back, or give another folder where it was "
            "not made by this command"
        )
    return rows


def build(
    studies: Iterable[Study], out: Path, plan: Plan, on_study: Callable[[str], None] = lambda text: None
) -> Built:
    """Add a case for each study that has a series to be analysed; `on_study` is told what became of each.

    Raises:
        CohortError: a table cannot be used.
    """
    rows = existing(out)
    splits = {row["patient"]: row["split"] for row in rows}
    known = {row["case"] for row in rows}
    columns = [*COLUMNS, *dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)]
    used = {row.get(name, "") for row in rows for name in ("case", "study_uid", "accession")}
    out.mkdir(parents=True, exist_ok=True)
    added: list[str] = []
    rejected: dict[str, str] = {}
    limited = False
    for study in studies:
        if plan.limit is not None and len(added) >= plan.limit:
            limited = True
            break
        used.add(study.uid)
        chosen = choose(study, plan.rules)
        if not isinstance(chosen, str):
            used |= set(keys_of(chosen))
            if chosen.case in known:
                on_study(f"{chosen.case}: is there already")
                continue
        made = chosen if isinstance(chosen, str) else _case(chosen, out, plan)
        if isinstance(made, str):
            rejected[study.uid] = made
            on_study(f"{study.uid}: {made}")
            continue
        made = {name: _plain(value) for name, value in made.items()}
        made["split"] = splits.setdefault(made["patient"], made["split"])  # a person may have moved the patient
        rows.append(made)
        added.append(made["case"])
        known.add(made["case"])
        _write_table(out / CASES, columns, rows)
        on_study(f"{made['case']}: consolidation {made['consolidation'] or 'unknown'}")
    reasons = [{"study_uid": uid, "reason": _plain(reason)} for uid, reason in rejected.items()]
    _write_table(out / REJECTED, ("study_uid", "reason"), reasons)
    unmatched = [] if limited else [key for key in (*plan.labels, *plan.reports) if key not in used]
    return Built(added, rejected, unmatched)


def one_kind_only(out: Path) -> str:
    """What is missing for UNet-2, or nothing: it learns from patients with and without consolidation."""
    counts = Counter(row["consolidation"] for row in existing(out) if row["split"] == "train")
    missing = [words for flag, words in (("1", "with"), ("0", "without")) if not counts[flag]]
    return f"no training case is known to be {' or '.join(missing)} consolidation" if missing else ""


def _case(chosen: Chosen, out: Path, plan: Plan) -> Row | str:
    """Images and labels on disk, and the row; or why there is none."""
    try:
        drawn = _drawn(chosen, plan.structures)
        row = _labelled(chosen, plan, drawn.present)
        _place(chosen, out / "ct" / chosen.case)
        aside = drawn.write(out, chosen.case)
    except (SeriesRejected, CohortError) as error:
        return str(error)
    identity = chosen.identity
    return row | {
        "case": chosen.case,
        "patient": chosen.patient,
        "site": plan.site or _institution(chosen.files[0]),
        "split": cohort.split_of(chosen.patient, plan.validation, plan.test),
        "drawn": "; ".join(filter(None, (drawn.told, aside))),
        "study_uid": identity.study_uid,
        "series_uid": identity.series_uid,
        "accession": identity.accession_number,
        "study_date": identity.study_date,
    }


@dataclass(frozen=True)
class _Masks:
    """What was drawn on the grid of the CT, and what to tell of it."""

    label: LabelArray | None = None
    lung: LabelArray | None = None
    affine: Affine | None = None
    present: frozenset[str] = frozenset()
    told: str = ""

    def write(self, out: Path, case: str) -> str:
        """Into label/ and lung/. A mask that lies there and is not drawn now is set aside; what to tell of that."""
        told = []
        for folder, mask in (("label", self.label), ("lung", self.lung)):
            path = out / folder / f"{case}{cohort.SUFFIX}"
            if mask is not None and self.affine is not None:
                images.write_mask(path, mask, self.affine)
            elif path.is_file():
                aside = path.with_name(f"{case}.before{cohort.SUFFIX}")
                path.replace(aside)
                told.append(f"set aside: {folder}/{aside.name}")
        return "; ".join(told)


def _drawn(chosen: Chosen, table: Structures) -> _Masks:
    drawings = [path for path in chosen.annotations if _is_drawing(path)]
    if not drawings:
        return _Masks()
    ct = volume.load(chosen.files, PipelineSettings())
    drawn = [contours.read(path, ct, table) for path in drawings]
    every = [one for each in drawn for one in each.drawings]
    label, lung = contours.labels(every, ct)
    taken = dict.fromkeys(name for each in drawn for one in each.drawings for name in one.names)
    others = dict.fromkeys(name for each in drawn for name in each.others)
    told = [", ".join(taken), f"not taken: {', '.join(others)}" if others else ""]
    present = frozenset(one.value.value for one in contours.newest(every).values() if one.mask.any())
    return _Masks(label, lung, ct.affine, present, "; ".join(filter(None, told)))


def _labelled(chosen: Chosen, plan: Plan, drawn: frozenset[str]) -> Row:
    """The patient-level labels: of the table, else of what was drawn, else of the report."""
    keys = keys_of(chosen)
    given = next((plan.labels[key] for key in keys if key in plan.labels), {})
    said = _said(chosen, keys, plan)
    row: Row = {}
    for finding in FINDINGS:
        flag, origin, sentence = given.get(finding, ""), "table", ""
        if flag not in {"", "0", "1"}:
            raise CohortError(f"the table of labels says {finding} = {flag!r}, not 0, 1 or empty")
        if not flag and finding in drawn:
            flag, origin = "1", "drawing"
        if not flag and finding in said:
            judgement = said[finding]
            flag, origin, sentence = _flag(judgement, plan), f"report: {judgement.decision}", judgement.sentence
        row |= {
            finding: flag,
            f"{finding}_from": origin if flag or sentence else "",
            f"{finding}_sentence": sentence,
        }
    return row


def keys_of(chosen: Chosen) -> Keys:
    """By which a table or a report may name it."""
    identity = chosen.identity
    return Keys(chosen.case, identity.study_uid, identity.accession_number, identity.patient_id)


def _flag(judgement: Judgement, plan: Plan) -> str:
    if judgement.decision is Decision.NOT_MENTIONED and plan.unmentioned_absent:
        return "0"
    return {True: "1", False: "0"}.get(judgement.decision.flag, "") if judgement.decision.flag is not None else ""


def _said(chosen: Chosen, keys: Keys, plan: Plan) -> Mapping[str, Judgement]:
    texts = [text for key in keys if (text := plan.reports.get(key, "")).strip()][:1]  # an empty one says nothing
    if not texts and plan.languages:
        documents = (path for path in chosen.annotations if not _is_drawing(path))
        texts = list(filter(None, (report_documents.from_document(path) for path in documents)))
    if not texts or not plan.languages:
        return {}
    return reports.judge("\n\n".join(texts), plan.languages)


def _is_drawing(path: Path) -> bool:
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        return str(ds.get("SOPClassUID") or "") in contours.SOP_CLASSES
    except DAMAGED as error:
        raise CohortError(f"{path.name} cannot be read: {error}") from error


def _institution(path: Path) -> str:
    ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["InstitutionName", "SpecificCharacterSet"])
    return str(ds.get("InstitutionName") or "")


def _place(chosen: Chosen, folder: Path) -> None:
    """The instances in a folder of their own, linked where that can be, else copied; whole or not at all.

    A folder that is there is of a case that the table does not name: it is made anew.
    """
    draft = folder.with_name(f".part-{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for number, path in enumerate(chosen.files, start=1):
        target = draft / f"{number:04d}.dcm"
        try:
            os.link(path.resolve(), target)
        except OSError:
            shutil.copyfile(path, target)
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Whole or not at all."""
    draft = path.with_name(f".part-{path.name}")
    with draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
    draft.replace(path)


def _plain(value: str) -> str:
    """One line that a spreadsheet does not take for a formula."""
    line = " ".join(value.split())
    return f"'{line}" if line[:1] in {"=", "+", "-", "@"} else line
