"""What a command trains on: cohort, volumes and phantoms, read, prepared and named by their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.lung_builtin import Finds
from pipeline.lungs import builtin
from pipeline.preprocess import Preprocessing
from pipeline.types import HuArray, LabelArray
from pipeline.unet import Architecture
from training import cohort, dataset, images, phantoms
from training.batches import Pool
from training.cohort import Case
from training.dataset import Example, Lungs, Source
from training.errors import CohortError

LungSource = Literal["none", "builtin", "network", "cohort"]
PHANTOM_SEED = 7


class Setting(BaseModel):
    """Everything about a run that is not its recipe; kept in the run folder and copied to the package.

    Attributes:
        lungs: "none" trains on whole images, "builtin" with the pipeline's own method, "network" with that and a
            lung network, "cohort" with `lung/`.
        lung_network: SHA-256 of the weights of the lung network.
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
    """Cases with their HU, labels and lungs; `network` where the lungs are "network"."""
    if lungs == "cohort":
        return [dataset.load(case, _drawn(case)) for case in cases]
    found = None if lungs == "none" else partial(builtin, network=network)
    return [dataset.load(case, found) for case in cases]


def _drawn(case: Case) -> Lungs:
    def lungs(hu: HuArray, spacing_mm: tuple[float, float, float]) -> LabelArray:
        if case.lung is None:
            raise CohortError(f"{case.name} has no lung mask in lung/")
        mask, _ = images.read(case.lung)
        if mask.shape != hu.shape:
            raise CohortError(f"{case.name}: the lung mask has another grid than the image")
        return np.asarray(mask, np.uint8)

    return lungs


def digest(cases: Sequence[Case]) -> str:
    """SHA-256 (hex) over the names and bytes of images and labels."""
    total = hashlib.sha256()
    for case in cases:
        total.update(case.name.encode())
        for path in (case.image, case.label):
            total.update(bytes.fromhex(images.digest(path)) if path is not None else b"-")
    return total.hexdigest()


def pool(folders: Folders, setting: Setting, network: Finds | None = None) -> tuple[Pool, Setting]:
    """Read and prepare all of it; the setting comes back with the data's hash."""
    main = cohort.of_splits(cohort.read(folders.cohort), "train") if folders.cohort else []
    volumes = cohort.read(folders.volumes, folders.volume_labels) if folders.volumes else []
    synthetic = phantoms.make(setting.phantoms, PHANTOM_SEED, setting.lungs != "none")

    def prepared(of: Sequence[Source]) -> list[Example]:
        return [dataset.prepare(source, setting.preprocessing) for source in of]

    made = Pool(
        prepared(sources(main, setting.lungs, network)),
        prepared(sources(volumes, setting.lungs, network)),
        prepared(synthetic),
    )
    return made, setting.model_copy(update={"data_sha256": digest([*main, *volumes])})
