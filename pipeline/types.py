"""The values that travel through the pipeline: frozen, units in their names, invariants checked on creation.

Every array of a case has the axes (slice, row, column) in *canonical* order: slices caudal to cranial, rows
anterior to posterior, columns from the patient's right to the left. That is the radiological view of an axial
slice, and the voxel order of an LPS image. `CtVolume.to_source` carries masks back to the grid and order of
the source instances.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # pydicom takes a third of a second: what only names types does without it
    from pydicom.dataset import Dataset

    from pipeline.priors import Priors

HuArray = npt.NDArray[np.int16]
MaskArray = npt.NDArray[np.bool_]
LabelArray = npt.NDArray[np.uint8]
Affine = npt.NDArray[np.float64]


class Lung(IntEnum):
    """Labels of `LungMask.labels`; the patient's right and left, as lungmask's R231 numbers them."""

    BACKGROUND = 0
    RIGHT = 1
    LEFT = 2


class Region(StrEnum):
    """What a score is measured over."""

    BOTH = "both"
    RIGHT = "right"
    LEFT = "left"


@dataclass(frozen=True)
class CtVolume:
    """A CT series as one volume in canonical order.

    Attributes:
        hu: (slice, row, column), Hounsfield units rounded to integers; padding is −1024.
        affine: 4×4, maps (column, row, slice, 1) of `hu` to LPS millimetres; an index is a voxel's centre
            (PS3.3 C.7.6.2.1.1).
        headers: one header without pixel data per slice, in the order of the *source* slices: sorted along the
            source normal (row × column direction of ImageOrientationPatient).
        transpose: True where canonical rows are source columns (the patient lies on a side).
        flips: for each canonical axis (slice, row, column), whether it runs against the source axis.
    """

    hu: HuArray
    affine: Affine
    headers: tuple[Dataset, ...] = field(repr=False)
    transpose: bool = False
    flips: tuple[bool, bool, bool] = (False, False, False)

    def __post_init__(self) -> None:
        if self.hu.ndim != 3 or self.affine.shape != (4, 4):
            raise ValueError("a volume has 3 axes and a 4×4 affine")
        if self.hu.shape[0] != len(self.headers):
            raise ValueError(f"{self.hu.shape[0]} slices but {len(self.headers)} headers")

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of voxel centres along (slice, row, column), mm."""
        column, row, slice_ = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slice_), float(row), float(column)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel, ml; exact for oblique grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID of the source."""
        return str(self.headers[0].SeriesInstanceUID)

    def to_source(self, mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A canonical array of this volume's shape, on the grid and slice order of `headers` (a view)."""
        if mask.shape != self.hu.shape:
            raise ValueError(f"mask {mask.shape} does not fit the volume {self.hu.shape}")
        axes = tuple(axis for axis, flipped in enumerate(self.flips) if flipped)
        turned = np.flip(mask, axes)
        return turned.transpose(0, 2, 1) if self.transpose else turned


@dataclass(frozen=True)
class LungMask:
    """Lungs on the grid of a `CtVolume`; `labels` holds `Lung` values, `method` says what made it."""

    labels: LabelArray
    method: str

    @property
    def both(self) -> MaskArray:
        """Either lung."""
        return self.labels > 0


@dataclass(frozen=True)
class LesionMasks:
    """Infected and consolidated lung on the grid of a `CtVolume`; consolidation lies inside infection."""

    infection: MaskArray
    consolidation: MaskArray

    def __post_init__(self) -> None:
        if self.infection.shape != self.consolidation.shape:
            raise ValueError("the masks differ in shape")
        # Slice by slice: a temporary of the whole volume would be 157 MB for 600 slices.
        if any(
            bool((solid > infected).any())
            for solid, infected in zip(self.consolidation, self.infection, strict=True)
        ):
            raise ValueError("consolidation outside opacity")

    @property
    def ggo(self) -> MaskArray:
        """Ground-glass opacity: infection that is not consolidation."""
        return self.infection & ~self.consolidation


@dataclass(frozen=True)
class RegionScores:
    """Figures of one region. Scores are fractions of 1 of that region's lung volume (eq. 14 and 15).

    The three scores are None where so little lung was found that it was not measured; never so for both lungs.
    """

    lung_volume_ml: float
    infection_volume_ml: float
    consolidation_volume_ml: float
    ggo_volume_ml: float
    severity_score: float | None
    consolidation_score: float | None
    ggo_score: float | None
    lung_mean_hu: float | None
    infection_mean_hu: float | None

    def __post_init__(self) -> None:
        if len({score is None for score in (self.severity_score, self.consolidation_score, self.ggo_score)}) > 1:
            raise ValueError("a region has all three scores or none")


SeverityClass = Literal["< 5 %", "5-25 %", "25-50 %", "> 50 %"]


@dataclass(frozen=True)
class Scores:
    """Scores of both lungs and of each; the class is that of the severity score of both."""

    regions: Mapping[Region, RegionScores]
    severity_class: SeverityClass

    def __post_init__(self) -> None:
        if set(self.regions) != set(Region):
            raise ValueError("scores for both lungs, right and left are needed")


@dataclass(frozen=True)
class Flag:
    """A warning about the quality of input or result: a stable code and a sentence for a radiologist (ASCII)."""

    code: str
    text: str


@dataclass(frozen=True)
class ModelIdentity:
    """Which model package made a result. `digest` is the SHA-256 (hex) over manifest and weights."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True)
class Analysis:
    """All that is known about a series before it is written as DICOM."""

    volume: CtVolume
    lungs: LungMask
    lesions: LesionMasks
    scores: Scores
    flags: tuple[Flag, ...]
    model: ModelIdentity
    source_digest: str  # SHA-256 (hex) over the sorted hashes of the source files
    resampling: str = ""  # the package's rule along z, and whether it applied
    accuracy: str = ""  # a sentence: how far the figures lie from an expert's


@dataclass(frozen=True)
class Profile:
    """What one kind of viewer is sent. A destination names a profile; each has its own result set."""

    name: str = "default"
    seg: Literal["BINARY", "LABELMAP", "NONE"] = "BINARY"
    lungs_seg: bool = False
    empty_frames: bool = False
    key_slices: bool = False  # TID 1410 groups with SCOORD on the key slices of the SR
    picture: bool = True
    slice_pictures: bool = False  # the key slices as frames of one Secondary Capture
    pdf: bool = False  # the picture as Encapsulated PDF
    rejection_note: bool = False  # name the objects of superseded sets in a Key Object Selection Document


class ResultKind(StrEnum):
    """The objects of a result set, in the order in which they are built and sent."""

    LESIONS = "lesions"
    LUNGS = "lungs"
    PICTURE = "picture"
    SLICES = "slices"
    DOCUMENT = "document"
    SR = "sr"
    REJECTION = "rejection"


@dataclass(frozen=True)
class ObjectReference:
    """Names one SOP instance of a study, as evidence or predecessor."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class ResultContext:
    """What the builders of result objects need beside the analysis. The pipeline has no clock: `created` is given.

    Attributes:
        created: time zone aware; ContentDate/Time of every object of the set.
        revision: 1 for the first result of a series.
        completeness: a sentence, how it was shown that the series is whole; goes into the SR.
        settings_digest: SHA-256 (hex) over the settings that change a result.
        predecessor: the SR that this set replaces.
        superseded: every object of earlier sets of the study that was sent and does not count any more.
        segmentations: the SEG datasets of this set, already built; the SR and picture refer to them.
        priors: earlier results of the patient; None where nobody looked for any.
    """

    created: datetime
    profile: Profile
    revision: int = 1
    completeness: str = "not established: processed from a folder"
    settings_digest: str = ""
    predecessor: ObjectReference | None = None
    superseded: tuple[ObjectReference, ...] = ()
    segmentations: Mapping[ResultKind, Dataset] = field(default_factory=dict)
    priors: Priors | None = None


@dataclass(frozen=True)
class PipelineSettings:
    """How to analyse. Picklable: it travels to the worker process.

    Attributes:
        model: folder of a model package; None is the demonstration package of the distribution.
        lung_weights: lungmask R231 state dict; None is the built-in method.
        device: "auto", "cpu" or "cuda:N".
        batch_slices: slices per forward pass; halved when memory runs out.
        threads: torch threads; 0 leaves the choice to torch.
        min_slices, max_slice_spacing_mm, max_oblique_deg: a series outside these is rejected.
        min_lungs_ml: both lungs together; a rim of lung base on an abdominal CT has less than 300 ml.
    """

    model: Path | None = None
    lung_weights: Path | None = None
    device: str = "auto"
    batch_slices: int = 16
    threads: int = 0
    min_slices: int = 10
    max_slice_spacing_mm: float = 10.0
    max_oblique_deg: float = 30.0
    min_lungs_ml: float = 300.0


@dataclass(frozen=True)
class AnalysisRequest:
    """One job of a worker: the files of a series, and the result sets to write below `out_dir`."""

    files: tuple[Path, ...]
    out_dir: Path
    settings: PipelineSettings
    profiles: tuple[Profile, ...]
    created: datetime
    revision: int = 1
    completeness: str = "not established: processed from a folder"
    predecessors: Mapping[str, ObjectReference] = field(default_factory=dict)  # by profile name
    superseded: Mapping[str, tuple[ObjectReference, ...]] = field(default_factory=dict)  # by profile name
    priors: Priors | None = None


@dataclass(frozen=True)
class ResultObject:
    """One encoded result: the file holds the bytes that every destination is sent."""

    kind: ResultKind
    profile: str
    path: Path
    reference: ObjectReference
    sha256: str


@dataclass(frozen=True)
class AnalysisOutcome:
    """What a worker gives back: figures (the content of result.json) and the objects on disk."""

    report: Mapping[str, Any]
    objects: tuple[ResultObject, ...]
