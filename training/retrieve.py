"""Studies of a cohort from a PACS: C-FIND by modality, body part and date, then series by series, gently.

CT comes by C-MOVE into the node, which must be running, or by C-GET into a folder of the cohort (`retrieve` of the
source in config.toml). Drawings and reports (SEG, RTSTRUCT, SR) come by C-GET into that folder always: the node
keeps none. What is asked for and has come stands in `retrieval.csv`, so that the command, given again, goes on.
What the table calls here is looked for until its study is a case: retention may have removed it from the node.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from pydicom.uid import UID, CTImageStorage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from dicom_node import query, retrieve
from dicom_node.association_server import Answer
from dicom_node.config import Config, Source
from dicom_node.errors import NodeError
from dicom_node.ledger import Ledger
from dicom_node.part10 import FileMeta
from dicom_node.supported import TRANSFER_SYNTAXES
from dicom_node.upper_layer import Discarded, InstanceMemory
from pipeline.uids import is_uid
from training.errors import CohortError
from training.studies import ANNOTATIONS, Study

TABLE, RECEIVED = "retrieval.csv", "received"
COLUMNS = ("study_uid", "series_uid", "modality", "instances", "state", "reason")
ANNOTATION_MODALITIES = frozenset({"SEG", "RTSTRUCT", "SR"})
STUDIES_PER_QUERY = 50
FAILURES_IN_A_ROW = 3  # then the PACS, or the way to it, is the fault
LOOKS, LOOK_EVERY_S = 240, 0.5  # until the ledger has what the archive says it has sent
UNCOMPRESSED = TRANSFER_SYNTAXES[:2]
OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0xA700, 0xC000


@dataclass(frozen=True)
class Criteria:
    """What is looked for. Dates are YYYYMMDD, empty is open; `body_part` may hold * and ?; a number of studies."""

    modality: str = "CT"
    body_part: str = ""
    since: str = ""
    until: str = ""
    limit: int = 1000


@dataclass(frozen=True)
class Row:
    """One series; `state` is "wanted", "here" or "failed", `instances` what the PACS counts (0: it does not)."""

    study_uid: str
    series_uid: str
    modality: str
    instances: int
    state: str = "wanted"
    reason: str = ""


@dataclass
class Retrieval:
    """Fetches what `Criteria` find from one source.

    Args:
        config: of the node; its AE title calls, and is sent to.
        source: the archive.
        ledger: tells what has come to the node.
        out: folder of the cohort.
        pause: waits so many seconds.
        cases: studies that are in the cohort already: what has come of them is not asked for again.

    Attributes:
        more: whether studies that match were left out because of the limit.
    """

    config: Config
    source: Source
    ledger: Ledger
    out: Path
    pause: Callable[[float], object]
    cases: Collection[str] = frozenset()
    rows: dict[str, Row] = field(default_factory=dict)
    more: bool = False

    def run(
        self, criteria: Criteria, per_minute: float, on_series: Callable[[int, int, Row], None] = lambda *_: None
    ) -> set[str]:
        """Find and fetch; the studies of which CT is here.

        Args:
            per_minute: series asked for in a minute at most; 0 is no limit.
            on_series: told number, total and row of each series.

        Raises:
            NodeError: the PACS does not answer, or refuses several times in a row; what has come stays.
        """
        self.rows = {row.series_uid: row for row in _read(self.out / TABLE)}
        for row in self._find(criteria):
            self.rows.setdefault(row.series_uid, row)
        self._write()
        failures = 0
        for number, row in enumerate(list(self.rows.values()), start=1):
            if not self._is_here(row):
                error = self._fetch(row)
                failures = failures + 1 if error is not None else 0
                if error is not None and failures == FAILURES_IN_A_ROW:
                    raise type(error)(f"{error}\nGive the command again to go on where it was.")
                if per_minute and error is None:
                    self.pause(60.0 / per_minute)
            on_series(number, len(self.rows), self.rows[row.series_uid])
        return {row.study_uid for row in self.rows.values() if row.modality == "CT" and row.state == "here"}

    def _find(self, criteria: Criteria) -> Iterator[Row]:
        """Series of so many studies at most, oldest study first."""
        dates = f"{criteria.since}-{criteria.until}" if criteria.since or criteria.until else ""
        keys = {"ModalitiesInStudy": criteria.modality, "StudyDate": dates}
        found = query.find_studies(self.source, keys, self.config.node.ae_title)
        studies = sorted({(query.text(one, "StudyDate"), query.text(one, "StudyInstanceUID")) for one in found})
        taken = 0
        for start in range(0, len(studies), STUDIES_PER_QUERY):
            uids = [uid for _, uid in studies[start : start + STUDIES_PER_QUERY]]
            for rows in self._series(uids, criteria):
                if taken == criteria.limit:
                    self.more = True
                    return
                taken += 1
                yield from rows

    def _series(self, study_uids: Sequence[str], criteria: Criteria) -> Iterator[list[Row]]:
        """The series of each study that has one of the modality and body part; of those, annotations too."""
        keys = dict.fromkeys(query.SERIES_KEYS, "")
        queries = [query.identifier("SERIES", keys | {"StudyInstanceUID": uid}) for uid in study_uids]
        for uid, matches in zip(
            study_uids, query.find(self.source, queries, self.config.node.ae_title), strict=True
        ):
            rows = []
            for match in matches:
                modality, part = query.text(match, "Modality"), query.text(match, "BodyPartExamined")
                fits = not criteria.body_part or not part or fnmatchcase(part.upper(), criteria.body_part.upper())
                if (modality == criteria.modality and fits) or modality in ANNOTATION_MODALITIES:
                    count = query.number(match, "NumberOfSeriesRelatedInstances") or 0
                    rows.append(Row(uid, query.text(match, "SeriesInstanceUID"), modality, count))
            if any(row.modality == criteria.modality for row in rows):
                yield rows

    def _fetch(self, row: Row) -> NodeError | None:
        """Ask for a series and note what came; the error that stopped it."""
        try:
            come = self._into_the_node(row) if self._goes_to_the_node(row) else self._into_the_folder(row)
        except NodeError as error:
            self._note(replace(row, state="failed", reason=str(error)))
            return error
        lacking = row.instances - come
        reason = f"{lacking} of {row.instances} instances have not come" if lacking > 0 or not come else ""
        self._note(replace(row, state="failed" if reason else "here", reason=reason))
        return None

    def _is_here(self, row: Row) -> bool:
        """Whether it needs no asking: the table says that it came, and it is still there or has become a case."""
        if row.state != "here" or row.study_uid in self.cases:
            return row.state == "here"
        return max(self._in_the_node(row), self._in_the_folder(row)) >= max(row.instances, 1)

    def _in_the_node(self, row: Row) -> int:
        """How many instances the ledger has whose files are there, not purged."""
        current = self.ledger.current_instances(row.series_uid)
        return len({record.sop_instance_uid for record in current if not record.purged})

    def _in_the_folder(self, row: Row) -> int:
        return len(list(self._folder(row).glob("*.dcm")))

    def _folder(self, row: Row) -> Path:
        return self.out / RECEIVED / hashlib.sha256(row.series_uid.encode()).hexdigest()[:32]

    def _goes_to_the_node(self, row: Row) -> bool:
        return row.modality not in ANNOTATION_MODALITIES and self.source.retrieve == "move"

    def _into_the_node(self, row: Row) -> int:
        """By C-MOVE; how many instances the node has in the end. Nothing is asked for that is there already."""
        here = self._in_the_node(row)
        if here and here >= row.instances:
            return here
        ae_title = self.config.node.ae_title
        requests = retrieve.identifiers(row.study_uid, row.series_uid)
        limit_s = self.source.retrieve_timeout_s
        sent = retrieve.move(self.source, requests, ae_title, ae_title, limit_s).completed
        for _ in range(LOOKS):
            here = self._in_the_node(row)
            if here >= (sent or row.instances):
                break
            self.pause(LOOK_EVERY_S)
        return here

    def _into_the_folder(self, row: Row) -> int:
        """By C-GET; how many instances came."""
        folder = self._folder(row)
        folder.mkdir(parents=True, exist_ok=True)
        classes = ANNOTATIONS if row.modality in ANNOTATION_MODALITIES else {CTImageStorage}
        syntaxes = UNCOMPRESSED if len(classes) > 1 else TRANSFER_SYNTAXES
        contexts = [build_context(uid, syntax) for uid in sorted(classes) for syntax in syntaxes]
        come: list[Path] = []

        def keep(request: C_STORE, sop_class: UID, transfer_syntax: UID) -> Answer:
            return _kept(request, sop_class, transfer_syntax, folder, self.source, come)

        memory = InstanceMemory(*(2 * [self.config.reception.max_instance_mb << 20]))
        requests = retrieve.identifiers(row.study_uid, row.series_uid)
        limit_s = self.source.retrieve_timeout_s
        retrieve.get(self.source, requests, self.config.node.ae_title, contexts, keep, memory, limit_s)
        return len(set(come))

    def _note(self, row: Row) -> None:
        self.rows[row.series_uid] = row
        self._write()

    def _write(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        draft = self.out / f".part-{TABLE}"
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows([*vars(row).values()] for row in self.rows.values())
        draft.replace(self.out / TABLE)


def joined(archived: Iterable[Study], received: Iterable[Study]) -> Iterator[Study]:
    """Studies of the node with what lies in the folder of them; those of the folder alone follow.

    CT of the folder counts where the node has purged a series of the study.
    """
    beside = {study.uid: study for study in received}
    for study in archived:
        other = beside.pop(study.uid, None)
        if other is not None:
            purged = any(instance.purged for _, instances in study.series for instance in instances)
            images = other if purged and other.series else study
            annotations = [*study.annotations, *other.annotations]
            study = replace(images, annotations=annotations, faults=[*study.faults, *other.faults])
        yield study
    yield from (study for study in beside.values() if study.series)


def _kept(
    request: C_STORE, sop_class: UID, transfer_syntax: UID, folder: Path, source: Source, come: list[Path]
) -> Answer:
    """Write one instance, whole or not at all; no part of its name comes off the wire."""
    if request.DataSet is None or isinstance(request.DataSet, Discarded):
        return Answer(CANNOT_UNDERSTAND, "there is no data set, or it is too long")
    uid = str(request.AffectedSOPInstanceUID)
    if not is_uid(uid):
        return Answer(CANNOT_UNDERSTAND, "SOPInstanceUID is not a valid UID")
    path = folder / f"{hashlib.sha256(uid.encode()).hexdigest()[:32]}.dcm"
    meta = FileMeta(sop_class, UID(uid), transfer_syntax, source.ae_title, source.host)
    draft = path.with_suffix(".part")
    try:
        draft.write_bytes(meta.encode() + request.DataSet.getvalue())
        draft.replace(path)
    except OSError as error:
        return Answer(OUT_OF_RESOURCES, f"cannot be stored: {error.strerror}")
    come.append(path)
    return Answer(0x0000)


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_row(**row) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise CohortError(f"{path} cannot be read: {error}; remove it to ask the PACS again") from error


def _row(instances: str, **texts: str) -> Row:
    return Row(instances=int(instances), **texts)
