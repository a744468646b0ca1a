"""A cohort on disk: `cases.csv`, `ct/<case>.nii.gz`, optional labels and lungs beside it.

Columns: `case`; optional `patient`, `site`, `ggo`, `consolidation` (0, 1, empty is unknown). A folder without
`cases.csv` is a cohort in which every image is a case and a patient of its own.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.errors import CohortError

SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class Case:
    """One image of a cohort. `ggo` and `consolidation` are image-level labels; None is unknown."""

    name: str
    patient: str
    image: Path
    label: Path | None = None
    lung: Path | None = None
    ggo: bool | None = None
    consolidation: bool | None = None
    site: str = ""


def read(folder: Path, label_folder: str = "label") -> list[Case]:
    """The cases of a cohort, sorted by name. Raises CohortError with every complaint at once."""
    table = folder / "cases.csv"
    rows = _table(table) if table.is_file() else _listing(folder / "ct")
    complaints: list[str] = []
    names = [row.get("case", "").strip() for row in rows]
    complaints += [f"case {name!r} is listed twice" for name in sorted(set(names)) if names.count(name) > 1]
    cases = [_case(folder, label_folder, row, complaints) for row in rows]
    if not cases:
        complaints.append(f"no cases in {folder}: it needs cases.csv or ct/<case>{SUFFIX}")
    if complaints:
        raise CohortError(f"{folder} cannot be used: " + "; ".join(complaints))
    return sorted(cases, key=lambda case: case.name)


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if "case" not in (reader.fieldnames or ()):
            raise CohortError(f"{path} has no column 'case'")
        return list(reader)


def _listing(folder: Path) -> list[dict[str, str]]:
    return [{"case": path.name.removesuffix(SUFFIX)} for path in folder.glob(f"*{SUFFIX}")]


def _case(folder: Path, label_folder: str, row: Mapping[str, str], complaints: list[str]) -> Case:
    name = (row.get("case") or "").strip()
    if not name or Path(name).name != name:
        complaints.append(f"{name!r} is no usable case name")
        name = "unnamed"
    image = folder / "ct" / f"{name}{SUFFIX}"
    if not image.is_file():
        complaints.append(f"{name}: no {image}")
    label, lung = (folder / sub / f"{name}{SUFFIX}" for sub in (label_folder, "lung"))
    return Case(
        name=name,
        patient=(row.get("patient") or "").strip() or name,
        image=image,
        label=label if label.is_file() else None,
        lung=lung if lung.is_file() else None,
        ggo=_flag(row, "ggo", name, complaints),
        consolidation=_flag(row, "consolidation", name, complaints),
        site=(row.get("site") or "").strip(),
    )


def _flag(row: Mapping[str, str], column: str, name: str, complaints: list[str]) -> bool | None:
    text = (row.get(column) or "").strip()
    if text not in {"", "0", "1"}:
        complaints.append(f"{name}: {column} is {text!r}, not 0, 1 or empty")
    return {"0": False, "1": True}.get(text)


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
