"""The values that travel through the pipeline: frozen, units in their names, invariants checked on creation.

Those that hold arrays are in `pipeline.arrays`: what a node reads of its settings and its ledger needs no numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # pydicom takes a third of a second, numpy a tenth: what only names types does without them
    from pydicom.dataset import Dataset

    from pipeline.arrays import CtVolume, LesionMasks, LungMask
    from pipeline.others import OtherSeries
    from pipeline.priors import Priors


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


def severity_class(severity_score: float) -> SeverityClass:
    """The class of a fraction of 1; 5 % and 25 % belong to the upper class, 50 % to the lower."""
    if severity_score < 0.05:
        return "< 5 %"
    if severity_score < 0.25:
        return "5-25 %"
    return "25-50 %" if severity_score <= 0.5 else "> 50 %"


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
        others: series of the same study and patient that were not analysed, as far as they are known.
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
    others: tuple[OtherSeries, ...] = ()


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
    others: tuple[OtherSeries, ...] = ()


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
