"""What a command trains on: cohort, volumes and phantoms, read, prepared and named by their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.arrays import HuArray, LabelArray
from pipeline.lung_view import Finds
from pipeline.lungs import builtin
from pipeline.preprocess import Preprocessing
from pipeline.unet import Architecture
from training import cohort, dataset, images, phantoms, prepared
from training.batches import Pool
from training.cohort import Case
from training.dataset import Example, Lungs, Source
from training.errors import CohortError
from training.held import Held
from training.regions import Regions

LungSource = Literal["none", "builtin", "network", "cohort"]
PHANTOM_SEED = 7
TRIED = ("train", "validation")  # splits that are looked at before the end
Hashed = tuple[str, str, str]  # name, SHA-256 of image and label ("" where there is none)


class Setting(BaseModel):
    """Everything about a run that is not its recipe; kept in the run folder and copied to the package.

    Attributes:
        lungs: "none" trains on whole images, "builtin" with the pipeline's own method, "network" with that and a
            lung network, "cohort" with `lung/`.
        lung_network: what tells the lung network from others (`lung_origin.LungOrigin.mark`).
        phantoms: synthetic studies beside the real ones.
        data_sha256: over names and contents of the images and labels used.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Architecture = Architecture()
    preprocessing: Preprocessing = Preprocessing()
    lungs: LungSource = "none"
    lung_network: str = ""
    phantoms: int = Field(default=0, ge=0)
    data_sha256: str = ""


@dataclass(frozen=True)
class Folders:
    """Where the images lie: a cohort with labels, and volumes with (pseudo) labels in `volume_labels`."""

    cohort: Path | None = None
    volumes: Path | None = None
    volume_labels: str = "pseudo-label"


def sources(cases: Sequence[Case], lungs: LungSource, network: Finds | None = None) -> list[Source]:
    """Cases with their HU, labels and lungs; `network` where the lungs are "network".

    Raises:
        CohortError: with the faults of all cases.
    """
    found = None if lungs == "none" else partial(builtin, network=network)
    made, faults = [], []
    for case in cases:
        try:
            made.append(dataset.load(case, _drawn(case) if lungs == "cohort" else found))
        except CohortError as error:
            faults.append(str(error))
    if faults:
        raise CohortError("\n".join(faults))
    return made


def _drawn(case: Case) -> Lungs:
    def lungs(hu: HuArray, spacing_mm: tuple[float, float, float]) -> LabelArray:
        if case.lung is None:
            raise CohortError(f"{case.name} has no lung mask in lung/")
        mask, _ = images.read(case.lung)
        if mask.shape != hu.shape:
            raise CohortError(f"{case.name}: the lung mask has another grid than the image")
        return np.asarray(mask, np.uint8)

    return lungs


def hashes(cases: Sequence[Case]) -> list[Hashed]:
    """Names and contents of images and labels."""
    return [
        (case.name, images.digest(case.image), images.digest(case.label) if case.label is not None else "")
        for case in cases
    ]


def digest(cases: Sequence[Case]) -> str:
    """SHA-256 (hex) over the names and contents of images and labels."""
    return _digest(hashes(cases))


def _digest(of: Iterable[Hashed]) -> str:
    total = hashlib.sha256()
    for name, *contents in of:
        total.update(name.encode())
        for sha256 in contents:
            total.update(bytes.fromhex(sha256) if sha256 else b"-")
    return total.hexdigest()


@dataclass(frozen=True)
class Data:
    """Examples with the cases that they are of, and the hashes of what they were made from."""

    cases: Sequence[Case]
    examples: Sequence[Example]
    hashes: Sequence[Hashed]

    def those(self, labelled: bool) -> list[Example]:
        """Those with pixel labels, or those without."""
        pairs = zip(self.cases, self.examples, strict=True)
        return [example for case, example in pairs if (case.label is not None) is labelled]


def read(
    folder: Path | None,
    setting: Setting,
    splits: Sequence[str],
    network: Finds | None = None,
    label_folder: str = "label",
) -> Data:
    """The cases of some splits, mapped from a prepared cohort or prepared now; none of no folder."""
    if folder is None:
        return Data((), (), ())
    if prepared.is_prepared(folder):
        there = prepared.open_folder(folder, setting.preprocessing, setting.lungs, setting.lung_network)
        entries = [entry for entry in there.entries if cohort.of_splits([entry.case], *splits)]
        examples = [prepared.example(there, entry) for entry in entries]
        return Data([entry.case for entry in entries], examples, [entry.hashed for entry in entries])
    cases = cohort.of_splits(cohort.read(folder, label_folder), *splits)
    found = sources(cases, setting.lungs, network)
    made = [dataset.prepare(_labelled(source), setting.preprocessing) for source in found]
    return Data(cases, made, hashes(cases))


def _labelled(source: Source) -> Source:
    """A case without label gets an empty one: it serves by its image alone."""
    return source if source.label is not None else replace(source, label=np.zeros(source.hu.shape, np.uint8))


@dataclass(frozen=True)
class HeldOut:
    """Labelled cases for cross-validation, and the hash of what they were made from."""

    cases: Sequence[Case]
    held: Sequence[Held]
    sha256: str


def held(folder: Path, setting: Setting, network: Finds | None = None) -> HeldOut:
    """Every labelled case but those of the test split. Raises CohortError where there is none."""
    if prepared.is_prepared(folder):
        there = prepared.open_folder(folder, setting.preprocessing, setting.lungs, setting.lung_network)
        entries = [
            one for one in there.entries if cohort.of_splits([one.case], *TRIED) and one.case.label is not None
        ]
        found = [Held(prepared.source(there, one), prepared.example(there, one)) for one in entries]
        cases, sha256 = [one.case for one in entries], _digest([one.hashed for one in entries])
    else:
        cases = [case for case in cohort.of_splits(cohort.read(folder), *TRIED) if case.label is not None]
        made = sources(cases, setting.lungs, network)
        found = [Held(one, dataset.prepare(one, setting.preprocessing)) for one in made]
        sha256 = digest(cases)
    if not cases:
        raise CohortError(f"no case of {folder} outside its test split has a pixel label in label/")
    return HeldOut(cases, found, sha256)


def pool(
    folders: Folders, setting: Setting, network: Finds | None = None, regions: Regions | None = None
) -> tuple[Pool, Setting]:
    """Read and prepare all of it; the setting comes back with the data's hash.

    Cases without pixel labels serve UNet-2 alone, where `regions` finds their infected region.
    """
    main = read(folders.cohort, setting, ("train",), network)
    volumes = read(folders.volumes, setting, TRIED, network, folders.volume_labels)
    synthetic = phantoms.make(setting.phantoms, PHANTOM_SEED, setting.lungs != "none")
    found = regions.of(main.those(labelled=False), setting.preprocessing) if regions is not None else []
    made = Pool(
        [*main.those(labelled=True), *found],
        volumes.those(labelled=True),
        [dataset.prepare(source, setting.preprocessing) for source in synthetic],
    )
    if folders.cohort is not None and not made.cohort:
        raise CohortError(f"no training case of {folders.cohort} has a pixel label in label/")
    return made, setting.model_copy(update={"data_sha256": _digest([*main.hashes, *volumes.hashes])})
