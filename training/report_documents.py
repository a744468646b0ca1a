"""Where report texts come from: text files, a table, or SR documents (PS3.3 A.35)."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from pipeline.pixels import DAMAGED
from pipeline.provenance import MANUFACTURER
from training import cohort
from training.errors import CohortError

SOP_CLASSES = frozenset({BasicTextSRStorage, EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage})
KEYS = ("case", "study_uid", "accession", "patient_id")  # columns that name a study, in this order
TEXT_COLUMNS = ("report", "text")
SUFFIXES = {".txt", ".text"}
MAX_DEPTH = 16  # of a content tree; documents nest four or five deep
# Containers that tell no findings of this examination: History, Request, Procedure, Prior, Indications.
SKIPPED_CODES = frozenset(
    {("121060", "DCM"), ("121062", "DCM"), ("121064", "DCM"), ("121068", "DCM"), ("18785-6", "LN")}
    | {("11329-0", "LN"), ("55115-0", "LN"), ("55111-9", "LN"), ("55114-3", "LN"), ("18834-2", "LN")}
)
TextPiece = tuple[str, str]


@dataclass(frozen=True)
class Keys:
    """By which a study is found in a table or among files; empty ones are not looked for."""

    case: str
    study_uid: str
    accession: str
    patient_id: str

    def __iter__(self) -> Iterator[str]:
        return (key for key in (self.case, self.study_uid, self.accession, self.patient_id) if key)


def from_folder(folder: Path) -> dict[str, str]:
    """Report texts by file name without suffix: case, StudyInstanceUID, accession number or patient ID."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise CohortError(f"{folder} holds no reports: name them <accession number>.txt or <StudyInstanceUID>.txt")
    return {path.stem: _decoded(path) for path in paths}


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):  # "Unicode" of Windows
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")  # what hospital systems on Windows write


def from_table(path: Path, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Rows of a CSV by the key that each gives; `columns` are those of which it must have one.

    Raises:
        CohortError: it cannot be read, lacks a key or the columns, or names a study twice.
    """
    there, rows = cohort.read_table(path)
    names = [name for name in KEYS if name in there]
    if not names or not set(columns) & set(there):
        raise CohortError(f"{path} needs a column of {', '.join(KEYS)} and one of {', '.join(columns)}")
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        key = next((value for name in names if (value := (row.get(name) or "").strip())), "")
        if key in found:
            raise CohortError(f"{path} names {key!r} twice")
        if key:
            found[key] = {name: value.strip() for name, value in row.items()}
    return found


def read(path: Path) -> dict[str, str]:
    """Reports of a folder of text files, or of a CSV with a column `report`."""
    if path.is_dir():
        return from_folder(path)
    rows = from_table(path, TEXT_COLUMNS)
    return {key: next(filter(None, (row.get(name, "") for name in TEXT_COLUMNS)), "") for key, row in rows.items()}


def from_document(path: Path) -> str:
    """The text of an SR document, each piece under its heading; empty for the node's own documents.

    Raises:
        CohortError: it cannot be read.
    """
    try:
        ds = pydicom.dcmread(path)
        if str(ds.get("Manufacturer") or "") == MANUFACTURER:
            return ""
        pieces = list(_pieces(ds, "", 0))
    except DAMAGED as error:
        first_line = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise CohortError(f"{path.name} cannot be read as an SR document: {first_line}") from error
    return "\n\n".join(f"{heading}:\n{text}" if heading else text for heading, text in pieces)


def _pieces(item: Dataset, heading: str, depth: int) -> Iterator[TextPiece]:
    """(heading, text) of the TEXT items below a content item (PS3.3 C.17.3); the nearest heading counts."""
    if depth > MAX_DEPTH:
        return
    for child in item.get("ContentSequence") or ():
        name = next(iter(child.get("ConceptNameCodeSequence") or ()), None)
        if name is not None and (name.get("CodeValue"), name.get("CodingSchemeDesignator")) in SKIPPED_CODES:
            continue
        said = str(name.get("CodeMeaning") or "") if name is not None else ""
        if child.get("ValueType") == "TEXT":
            yield heading or said, str(child.get("TextValue") or "")
        yield from _pieces(child, said or heading, depth + 1)
