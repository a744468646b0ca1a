"""A prepared cohort on disk: one file of arrays per case, mapped into memory when it is used.

`prepared.json` says how it was made, `cases.csv` lists the cases, `rejected.csv` those left out and why.
`arrays/<case>.safetensors` holds the network grid (`values`, `label`, `lung`) and, where there is a pixel label,
the source grid (`source_hu`, `source_label`, `source_lung`), which held-out cases are scored on. Nothing is read
before it is used, and the system may drop it from memory again: training needs no room for the whole cohort.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.preprocess import Preprocessing
from training.cohort import SUFFIX, Case
from training.dataset import Example, Source
from training.errors import CohortError

ABOUT, CASES, REJECTED, ARRAYS = "prepared.json", "cases.csv", "rejected.csv", "arrays"
FLAGS = {"0": False, "1": True, "": None}


class About(BaseModel):
    """How a prepared cohort was made.

    `lungs` and `lung_network` are as in `data.Setting`, `labels` is the folder of the labels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cohort: str
    preprocessing: Preprocessing
    lungs: str
    lung_network: str = ""
    labels: str = "label"
    software: str


@dataclass(frozen=True)
class Entry:
    """A prepared case: what the table says of it, and the hashes of image and label ("" where there is none)."""

    case: Case
    slices: int
    image_sha256: str
    label_sha256: str

    @property
    def hashed(self) -> tuple[str, str, str]:
        """Name and hashes; as `data.hashes` gives them of a cohort that is not prepared."""
        return self.case.name, self.image_sha256, self.label_sha256


@dataclass(frozen=True)
class PreparedCohort:
    """What lies in a prepared folder."""

    folder: Path
    about: About
    entries: Sequence[Entry]


def is_prepared(folder: Path) -> bool:
    """Whether a folder is a prepared cohort, not a cohort itself."""
    return (folder / ABOUT).is_file()


def arrays_file(folder: Path, name: str) -> Path:
    """Where the arrays of a case lie."""
    return folder / ARRAYS / f"{name}.safetensors"


def open_folder(folder: Path, preprocessing: Preprocessing, lungs: str, lung_network: str) -> PreparedCohort:
    """Read the tables of a cohort that was prepared in this way.

    Raises:
        CohortError: it was prepared in another way, is unfinished or damaged.
    """
    if not (folder / CASES).is_file():
        raise CohortError(f"{folder} is not finished: give its `prepare` command again, it goes on where it was")
    try:
        about = About.model_validate_json((folder / ABOUT).read_text())
        with (folder / CASES).open(newline="", encoding="utf-8") as file:
            entries = [_entry(row, about) for row in csv.DictReader(file)]
    except (OSError, ValidationError, KeyError, ValueError, csv.Error) as error:
        raise CohortError(f"{folder} is no prepared cohort that can be read: {error}") from error
    if (about.preprocessing, about.lungs) == (preprocessing, lungs) and about.lung_network != lung_network:
        raise CohortError(
            f"{folder} was prepared with another lung network: give the --lung-run of its `prepare` command, or "
            "prepare it again in another folder"
        )
    if (about.preprocessing, about.lungs) != (preprocessing, lungs):
        raise CohortError(
            f"{folder} was prepared with lungs {about.lungs!r} and {about.preprocessing}; this run wants "
            f"{lungs!r} and {preprocessing}: give --lungs {about.lungs}, or prepare it again in another folder"
        )
    lost = [entry.case.name for entry in entries if not arrays_file(folder, entry.case.name).is_file()]
    if lost:
        raise CohortError(f"{folder} has lost the arrays of {len(lost)} cases ({lost[0]}): prepare it again")
    return PreparedCohort(folder, about, entries)


def example(prepared: PreparedCohort, entry: Entry) -> Example:
    """The case on the network grid; `label` is all 0 where there is no pixel label."""
    arrays = _load(prepared, entry)
    return Example(entry.case.name, arrays["values"], arrays["label"], arrays["lung"], entry.case.consolidation)


def source(prepared: PreparedCohort, entry: Entry) -> Source:
    """The case on its own grid. Raises CohortError where it has no pixel label, so that no source was kept."""
    arrays = _load(prepared, entry)
    if "source_hu" not in arrays:
        raise CohortError(f"{entry.case.name} has no label")
    lung = arrays["source_lung"].numpy() if "source_lung" in arrays else None
    spacing_mm = arrays["spacing_mm"].tolist()
    return Source(
        entry.case,
        arrays["source_hu"].numpy(),
        arrays["source_label"].numpy(),
        lung,
        (spacing_mm[0], spacing_mm[1], spacing_mm[2]),
    )


def _load(prepared: PreparedCohort, entry: Entry) -> dict[str, Tensor]:
    path = arrays_file(prepared.folder, entry.case.name)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CohortError(f"{path} cannot be read: {error}; prepare the cohort again") from error


def write_arrays(path: Path, arrays: Mapping[str, Any], notes: Mapping[str, str]) -> None:
    """Whole or not at all. `arrays` are numpy arrays or tensors; `notes` is kept in the header of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".part-{os.getpid()}-{path.name}")
    tensors = {
        name: value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
        for name, value in arrays.items()
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft, dict(notes))
    draft.replace(path)


def notes_of(path: Path) -> dict[str, str]:
    """The notes in a file of arrays; none where there is no whole one."""
    try:
        with safe_open(path, "numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def write_about(folder: Path, about: About) -> None:
    """Say how the folder is being made. Raises CohortError where it was begun in another way."""
    path = folder / ABOUT
    if path.is_file():
        try:
            before = About.model_validate_json(path.read_text())
        except ValidationError as error:
            raise CohortError(f"{path} cannot be read; remove {folder} and prepare again") from error
        if before.model_copy(update={"software": about.software}) != about:
            raise CohortError(f"{folder} was prepared in another way (see {ABOUT} there): give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".part-{ABOUT}"
    draft.write_text(json.dumps(about.model_dump(mode="json"), indent=2) + "\n")
    draft.replace(path)


def write_tables(folder: Path, entries: Sequence[Entry], rejected: Mapping[str, str]) -> None:
    """cases.csv and rejected.csv, each whole or not at all."""
    names = ("case", "patient", "site", "split", "ggo", "consolidation")
    flags = {flag: text for text, flag in FLAGS.items()}
    rows = [
        [
            *(entry.case.name, entry.case.patient, entry.case.site, entry.case.split),
            *(flags[entry.case.ggo], flags[entry.case.consolidation]),
            *(str(entry.slices), entry.image_sha256, entry.label_sha256),
        ]
        for entry in entries
    ]
    _write(folder / REJECTED, ["case", "reason"], [[name, reason] for name, reason in sorted(rejected.items())])
    _write(folder / CASES, [*names, "slices", "image_sha256", "label_sha256"], rows)


def _write(path: Path, heading: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    draft = path.with_name(f".part-{path.name}")
    with draft.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heading, *rows])
    draft.replace(path)


def _entry(row: Mapping[str, str], about: About) -> Entry:
    folder = Path(about.cohort)
    label = folder / about.labels / f"{row['case']}{SUFFIX}" if row["label_sha256"] else None
    case = Case(
        name=row["case"],
        patient=row["patient"],
        image=folder / "ct" / row["case"],
        label=label,
        ggo=FLAGS[row["ggo"]],
        consolidation=FLAGS[row["consolidation"]],
        site=row["site"],
        split=row["split"],
    )
    return Entry(case, int(row["slices"]), row["image_sha256"], row["label_sha256"])
