"""A cohort on disk: `cases.csv`, `ct/<case>.nii.gz` or `ct/<case>/` of DICOM instances, labels and lungs beside it.

Columns: `case`; optional `patient`, `site`, `split` (train, validation, test), `ggo`, `consolidation` (0, 1, empty
is unknown); others are passed over. A folder without `cases.csv` is a cohort in which every image is a case and a
patient of its own. All cases of a patient lie in one split and, in cross-validation, in one fold.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.errors import CohortError

SUFFIX = ".nii.gz"
OTHER_FORMATS = (".nii", ".nrrd", ".seg.nrrd", ".mha", ".mhd")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Case:
    """One image of a cohort; `image` is a file, or a folder of DICOM instances.

    `ggo` and `consolidation` are image- or patient-level labels, None is unknown. `split` is one of `SPLITS`,
    or empty.
    """

    name: str
    patient: str
    image: Path
    label: Path | None = None
    lung: Path | None = None
    ggo: bool | None = None
    consolidation: bool | None = None
    site: str = ""
    split: str = ""


def read(folder: Path, label_folder: str = "label") -> list[Case]:
    """The cases of a cohort, sorted by name. Raises CohortError with every complaint at once."""
    table = folder / "cases.csv"
    rows = _table(table) if table.is_file() else _listing(folder / "ct")
    complaints: list[str] = []
    names = [row.get("case", "").strip() for row in rows]
    complaints += [f"case {name!r} is listed twice" for name in sorted(set(names)) if names.count(name) > 1]
    cases = [_case(folder, label_folder, row, complaints) for row in rows]
    complaints += _straddling(cases)
    if not cases:
        complaints.append(f"no cases in {folder}: it needs cases.csv, ct/<case>{SUFFIX} or ct/<case>/")
    if complaints:
        raise CohortError(f"{folder} cannot be used: " + "; ".join(complaints))
    return sorted(cases, key=lambda case: case.name)


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a CSV file in UTF-8, with or without byte order mark.

    Raises:
        CohortError: it cannot be read, or its columns are separated by semicolons.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            rows = [{name: value or "" for name, value in row.items()} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CohortError(
            f"{path} cannot be read as CSV in UTF-8 ({error}): in Excel, save it as CSV UTF-8"
        ) from error
    if len(columns) == 1 and ";" in columns[0]:
        raise CohortError(f"{path} has semicolons between its columns: save it with commas")
    spare = [number for number, row in enumerate(rows, start=1) if any(row.pop(None, []))]
    if spare:
        raise CohortError(f"{path}: row {spare[0]} has more values than there are columns")
    return columns, rows


def _table(path: Path) -> list[dict[str, str]]:
    columns, rows = read_table(path)
    if "case" not in columns:
        raise CohortError(f"{path} has no column 'case'")
    return rows


def _listing(folder: Path) -> list[dict[str, str]]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return [
        {"case": path.name.removesuffix(SUFFIX)}
        for path in paths
        if path.name.endswith(SUFFIX) or (path.is_dir() and not path.name.startswith("."))
    ]


def _image(folder: Path, name: str) -> Path:
    series = folder / "ct" / name
    return series if series.is_dir() else folder / "ct" / f"{name}{SUFFIX}"


def _case(folder: Path, label_folder: str, row: Mapping[str, str], complaints: list[str]) -> Case:
    name = (row.get("case") or "").strip()
    if not name or Path(name).name != name or name.startswith("."):
        complaints.append(f"{name!r} is no usable case name")
        name = "unnamed"
    image = _image(folder, name)
    if not image.exists():
        complaints.append(f"{name}: no {image}")
    split = (row.get("split") or "").strip()
    if split and split not in SPLITS:
        complaints.append(f"{name}: split is {split!r}, not {', '.join(SPLITS)} or empty")
    label, lung = (_mask(folder / sub / f"{name}{SUFFIX}", name, complaints) for sub in (label_folder, "lung"))
    return Case(
        name=name,
        patient=(row.get("patient") or "").strip() or name,
        image=image,
        label=label,
        lung=lung,
        ggo=_flag(row, "ggo", name, complaints),
        consolidation=_flag(row, "consolidation", name, complaints),
        site=(row.get("site") or "").strip(),
        split=split,
    )


def _mask(path: Path, name: str, complaints: list[str]) -> Path | None:
    """A label or lung mask; None where there is none. One in another format is no case without a label."""
    if path.is_file():
        return path
    others = (path.with_name(f"{name}{suffix}") for suffix in OTHER_FORMATS)
    complaints += [
        f"{name}: {path.parent.name}/{other.name} is not read: save it as {path.name}"
        for other in others
        if other.is_file()
    ]
    return None


def _flag(row: Mapping[str, str], column: str, name: str, complaints: list[str]) -> bool | None:
    text = (row.get(column) or "").strip()
    if text not in {"", "0", "1"}:
        complaints.append(f"{name}: {column} is {text!r}, not 0, 1 or empty")
    return {"0": False, "1": True}.get(text)


def _straddling(cases: Sequence[Case]) -> list[str]:
    splits: dict[str, set[str]] = {}
    for case in cases:
        splits.setdefault(case.patient, set()).add(case.split)
    return [
        f"patient {patient!r} is in {len(found)} splits ({', '.join(sorted(split or 'none' for split in found))})"
        for patient, found in sorted(splits.items())
        if len(found) > 1
    ]


def of_splits(cases: Sequence[Case], *splits: str) -> list[Case]:
    """The cases of these splits; a cohort without splits is all training data."""
    return [case for case in cases if (case.split or "train") in splits]


def split_of(patient: str, validation: float, test: float) -> str:
    """The split of a patient: by a hash of the name alone, so that it stays whatever else is in the cohort.

    `validation` and `test` are shares of 1; a larger share of one of them only takes patients from "train".
    """
    digest = hashlib.sha256(b"dicomnode split\0" + patient.encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < test:
        return "test"
    return "validation" if place >= 1 - validation else "train"


def folds(cases: Sequence[Case], count: int, seed: int) -> list[int]:
    """The fold (0 … count − 1) of each case.

    A patient lies wholly in one fold. Patients with and without consolidation are dealt separately, so that
    every fold has both kinds where there are enough.
    """
    patients = sorted({case.patient for case in cases})
    if not 2 <= count <= len(patients):
        raise CohortError(f"{count} folds of {len(patients)} patients: give a number from 2 to {len(patients)}")
    positive = {case.patient for case in cases if case.consolidation}
    shuffled = [patients[k] for k in np.random.default_rng(seed).permutation(len(patients))]
    dealt = sorted(shuffled, key=lambda patient: patient in positive)
    fold = {patient: position % count for position, patient in enumerate(dealt)}
    return [fold[case.patient] for case in cases]
