"""Studies that may become cases, in folders or in the node's archive, and the one series of each that does.

Whether a series is whole and which one of a study is taken is decided by the node's own rules
(`dicom_node.completion`, `dicom_node.selection`), so that a network is trained on what the node will show it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pydicom
from pydicom.uid import CTImageStorage

from dicom_node import completion, selection
from dicom_node.completion import Ending
from dicom_node.config import CompletionSection
from dicom_node.errors import NotParsable
from dicom_node.ledger import InstanceRecord, Ledger, SeriesIdentity, SeriesRecord
from dicom_node.received import Received
from dicom_node.received import read as read_received
from dicom_node.states import InstanceState, SeriesState
from pipeline.pixels import DAMAGED
from training import contours, report_documents

ANNOTATIONS = contours.SOP_CLASSES | report_documents.SOP_CLASSES
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
WHO = ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID")
LookedAt = Callable[[int], None]
KeptSeries = tuple[SeriesRecord, Sequence[InstanceRecord]]


@dataclass(frozen=True)
class Study:
    """One study as it was found.

    Attributes:
        series: CT series with their instances; paths are relative to `root`.
        annotations: files of SEG, RTSTRUCT and SR objects.
        faults: what could not be read, a sentence each.
    """

    uid: str
    root: Path
    series: Sequence[KeptSeries]
    annotations: Sequence[Path] = ()
    faults: Sequence[str] = ()


@dataclass(frozen=True)
class Chosen:
    """The CT series of a study that becomes a case; `patient` is a pseudonym made of PatientID and its issuer."""

    identity: SeriesIdentity
    files: Sequence[Path]
    annotations: Sequence[Path]

    @property
    def patient(self) -> str:
        """Says nothing by itself, but whoever knows a PatientID can make it again: no anonymisation."""
        whose = self.identity.patient_id or self.identity.study_uid
        return "p-" + _short(f"patient\0{self.identity.patient_id_issuer}\0{whose}")

    @property
    def case(self) -> str:
        """Name of the case: follows from the series alone."""
        return "c-" + _short(f"series\0{self.identity.series_uid}")


@dataclass(frozen=True)
class Wanted:
    """Which studies are looked at: between two dates (YYYYMMDD, empty is open), of a list where one is given."""

    since: str = ""
    until: str = ""
    study_uids: Collection[str] | None = None
    but_not: Collection[str] = field(default_factory=frozenset)

    def takes(self, study_uid: str) -> bool:
        """Whether the study is looked at at all."""
        return study_uid not in self.but_not and (self.study_uids is None or study_uid in self.study_uids)

    def in_time(self, study_date: str) -> bool:
        """Whether the date fits; a study without one fits only where no date is asked for."""
        if not study_date:
            return not self.since and not self.until
        return self.since <= study_date <= (self.until or study_date)


def choose(study: Study, rules: CompletionSection) -> Chosen | str:
    """The series that becomes a case, or why none does."""
    now = datetime.now(UTC)
    candidates, reasons = [], list(study.faults)
    kept = {record.series_uid: instances for record, instances in study.series}
    for record, instances in study.series:
        ending = completion.judge(record, instances, now, rules)
        if isinstance(ending, Ending) and ending.state is SeriesState.COMPLETE:
            candidates.append(selection.candidate(record, instances))
        else:
            reasons.append(f"series {record.series_uid}: {ending.reason}")
    if not candidates:
        return "; ".join(reasons) or "no CT series"
    best = selection.choose(candidates, [record for record, _ in study.series]).chosen
    assert best is not None  # noqa: S101 - there are candidates
    files = [study.root / instance.path for instance in completion.slices(kept[best.series_uid])]
    gone = sum(not path.is_file() for path in files)
    if gone:
        return f"series {best.series_uid}: {gone} of {len(files)} files are not there any more"
    return Chosen(best.identity, files, study.annotations)


# --- The archive of the node -------------------------------------------------------------------------------------


def in_archive(ledger: Ledger, archive: Path, wanted: Wanted) -> Iterator[Study]:
    """The studies that the node has received, by UID; cancelled series are left out."""
    studies: dict[str, list[SeriesRecord]] = {}
    for record in ledger.list_series(limit=None):
        fits = wanted.takes(record.study_uid) and wanted.in_time(record.identity.study_date)
        if fits and record.state is not SeriesState.CANCELLED:
            studies.setdefault(record.study_uid, []).append(record)
    for uid, records in sorted(studies.items()):
        kept: list[KeptSeries] = [(record, ledger.current_instances(record.series_uid)) for record in records]
        yield Study(
            uid,
            archive,
            [(record, of) for record, of in kept if any(one.sop_class_uid == CTImageStorage for one in of)],
            [
                archive / one.path
                for _, of in kept
                for one in of
                if one.sop_class_uid in ANNOTATIONS and one.state is InstanceState.CURRENT
            ],
        )


# --- Folders -----------------------------------------------------------------------------------------------------


@dataclass
class _Files:
    """The files of one study in folders: CT by series, and annotations."""

    ct: dict[str, list[Path]] = field(default_factory=dict)
    annotations: list[Path] = field(default_factory=list)


def in_folders(
    folders: Sequence[Path], wanted: Wanted, looked_at: LookedAt = lambda count: None
) -> Iterator[Study]:
    """The studies in the DICOM files below some folders, by UID; other files are passed over.

    `looked_at` is told the number of files while the folders are walked.
    """
    studies: dict[str, _Files] = {}
    damaged: dict[Path, list[str]] = {}
    paths = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    for number, path in enumerate(paths, start=1):
        looked_at(number)
        _sort_in(path, studies, damaged)
    for uid, files in sorted(studies.items()):
        if wanted.takes(uid):
            study = _study(uid, files, damaged)
            dates = [record.identity.study_date for record, _ in study.series]
            if not dates or any(map(wanted.in_time, dates)):
                yield study


def _sort_in(path: Path, studies: dict[str, _Files], damaged: dict[Path, list[str]]) -> None:
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(WHO))
        sop_class, study, series = (str(ds.get(keyword) or "") for keyword in WHO)
    except DAMAGED:
        sop_class, study, series = "", "", ""
    if not all((sop_class, study, series)):
        if _claims_dicom(path):
            damaged.setdefault(path.parent, []).append(path.name)
    elif sop_class in ANNOTATIONS:
        studies.setdefault(study, _Files()).annotations.append(path)
    elif sop_class == CTImageStorage:
        studies.setdefault(study, _Files()).ct.setdefault(series, []).append(path)


def _claims_dicom(path: Path) -> bool:
    """PS3.10 7.1: the prefix after the preamble. A DICOMDIR is passed over."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" and path.name.upper() != "DICOMDIR"


def _study(uid: str, files: _Files, damaged: Mapping[Path, Sequence[str]]) -> Study:
    """What is damaged beside a series may be a part of it, so that the series is not taken."""
    series, faults = [], []
    for series_uid, paths in sorted(files.ct.items()):
        lost = [name for folder in {path.parent for path in paths} for name in damaged.get(folder, ())]
        if lost:
            faults.append(f"series {series_uid}: {len(lost)} files beside it cannot be read: {lost[0]}")
            continue
        try:
            instances = _records(paths)
        except (NotParsable, OSError) as error:
            faults.append(f"series {series_uid}: {error}")
        else:
            series.append((_series_record(series_uid, instances), instances))
    return Study(uid, Path("/"), series, files.annotations, faults)


def _records(paths: Sequence[Path]) -> list[InstanceRecord]:
    """As the ledger would hold them: a file that is there twice counts once, two versions of one are a conflict."""
    found: dict[str, list[Received]] = {}
    for path in paths:
        try:
            item = read_received(path.resolve())
        except NotParsable as error:
            raise NotParsable(f"{path.name}: {error}") from error
        versions = found.setdefault(item.sop_instance_uid, [])
        if all(version.dataset_sha256 != item.dataset_sha256 for version in versions):
            versions.append(item)
    return [
        _record(item, InstanceState.CURRENT if item is versions[0] else InstanceState.CONFLICTING)
        for versions in found.values()
        for item in versions
    ]


def _record(item: Received, state: InstanceState) -> InstanceRecord:
    return InstanceRecord(
        id=0,
        series_uid=item.series_uid,
        sop_instance_uid=item.sop_instance_uid,
        sop_class_uid=str(item.header["SOPClassUID"]),
        transfer_syntax_uid=item.transfer_syntax_uid,
        state=state,
        path=str(item.path).removeprefix("/"),
        size_bytes=item.size_bytes,
        dataset_sha256=item.dataset_sha256,
        pixel_sha256=item.pixel_sha256,
        header=item.header,
        received_at=LONG_AGO,
    )


def _series_record(series_uid: str, instances: Sequence[InstanceRecord]) -> SeriesRecord:
    return SeriesRecord(
        id=0,
        identity=SeriesIdentity.of(instances[0].header, series_uid),
        state=SeriesState.RECEIVING,
        reason="",
        completeness="",
        revision=1,
        version=1,
        candidate=False,
        preferred=False,
        instances=len(instances),
        created_at=LONG_AGO,
        last_instance_at=LONG_AGO,
        changed_at=LONG_AGO,
    )


def _short(text: str) -> str:
    return hashlib.sha256(f"dicomnode {text}".encode()).hexdigest()[:12]
