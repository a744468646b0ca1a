"""One case through `pipeline.run.examine`, the steps of the node, and what is counted on its own grid.

Labels are not clipped by the lung mask: what it misses costs Dice. A single slice is shown as a stack of itself,
because the networks were trained on such stacks and a series of one slice does not reach the node. A case without
lungs counts as one in which nothing was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from pipeline import preprocess, run
from pipeline.arrays import CtVolume, HuArray, LabelArray, LesionMasks, LungMask, MaskArray
from pipeline.errors import SeriesRejected
from pipeline.package import ModelPackage
from pipeline.preprocess import Preprocessing
from pipeline.types import Lung, PipelineSettings
from training import rates
from training.cohort import Case
from training.dataset import Source
from training.held import RIVAL_HU
from training.rates import Counts, Rates
from training.score import Overlap, overlap

LOWEST = {"infection": 1, "consolidation": 2, "threshold": 2}  # the labels that each figure is compared with
SECONDS = ("consolidation", "threshold")  # both ways to find consolidation
LEAST_SLICE_CM2 = 10.0  # of lung in a single slice: the node's 300 ml are of a whole chest
CM2_MM_PER_ML = 10.0


@dataclass(frozen=True)
class Found:
    """What the pipeline finds in a case, on the case's own grid.

    Attributes:
        consolidated: float32, UNet-2's probability f at the voxels of `lesions.infection`.
        fault: why there are no lungs; empty where there are.
    """

    lungs: MaskArray
    lesions: LesionMasks
    consolidated: npt.NDArray[np.float32]
    fault: str = ""

    def threshold(self, hu: HuArray) -> MaskArray:
        """The rival: denser than −200 HU inside the infection that was found."""
        return self.lesions.infection & (hu > RIVAL_HU)


@dataclass(frozen=True)
class Pixels:
    """Counts against the pixel labels of a case; the keys are those of `LOWEST`.

    Attributes:
        scores: labels as they are.
        clipped: labels clipped by the lungs that were found.
        labelled, inside: labelled voxels, and those of them inside the lungs that were found.
        sweep: figure 3, `rates.sweep`.
        rates: figures 4 and 6, of "consolidation" and "threshold".
    """

    scores: Mapping[str, Overlap]
    clipped: Mapping[str, Overlap]
    labelled: Mapping[str, int]
    inside: Mapping[str, int]
    sweep: Counts
    rates: Mapping[str, Rates]


@dataclass(frozen=True)
class Judged:
    """Counts of one case; `pixels` is None where it has no pixel labels.

    Attributes:
        lung: voxels of the lungs that were found.
        reference_lung: the same with the labelled voxels added, the best guess of the true lung.
        found: voxels by figure.
    """

    case: Case
    slices: int
    fault: str
    lung: int
    reference_lung: int
    found: Mapping[str, int]
    pixels: Pixels | None

    def share(self, figure: str) -> float:
        """Found voxels as a fraction of the lungs (eq. 14 and 15); 0 where no lungs were found."""
        return self.found[figure] / self.lung if self.lung else 0.0

    def reference(self, figure: str) -> float:
        """Labelled voxels as a fraction of the reference lung; NaN without labels or without lungs."""
        if self.pixels is None or not self.lung:
            return float("nan")
        return self.pixels.labelled[figure] / self.reference_lung


@dataclass(frozen=True)
class Cohort:
    """All judged cases, and which of their labels can be used for what."""

    judged: Sequence[Judged]

    @property
    def labelled(self) -> list[Judged]:
        """Cases with pixel labels."""
        return [one for one in self.judged if one.pixels is not None]

    def tells_consolidation(self, one: Judged) -> bool:
        """Whether the pixel labels of a case tell consolidation (2) from the rest of infection.

        A label that holds 2 does. One without tells "none" where cases.csv says so, or says nothing while labels of
        other cases hold 2; otherwise 1 may mean any infection.
        """
        if one.pixels is None:
            return False
        if one.pixels.labelled["consolidation"] or one.case.consolidation is False:
            return True
        return one.case.consolidation is None and self._distinguishes

    @cached_property
    def _distinguishes(self) -> bool:
        return any(one.pixels.labelled["consolidation"] for one in self.judged if one.pixels is not None)

    def at(self, site: str) -> Cohort:
        """The cases of one site."""
        return Cohort([one for one in self.judged if one.case.site == site])

    def consolidated(self, one: Judged) -> bool | None:
        """Image-level truth: cases.csv, else the pixel labels; None is unknown."""
        if one.case.consolidation is not None:
            return one.case.consolidation
        if one.pixels is None or not self.tells_consolidation(one):
            return None
        return one.pixels.labelled["consolidation"] > 0

    def of(self, figure: str) -> list[Judged]:
        """The cases that a Dice figure is taken over."""
        return self.labelled if figure == "infection" else [x for x in self.labelled if self.tells_consolidation(x)]

    @property
    def known(self) -> list[Judged]:
        """The cases of which it is known whether there is consolidation."""
        return [one for one in self.judged if self.consolidated(one) is not None]


def judge(source: Source, found: Found, settings: Preprocessing) -> Judged:
    """Count."""
    masks = {
        "infection": found.lesions.infection,
        "consolidation": found.lesions.consolidation,
        "threshold": found.threshold(source.hu),
    }
    known = found.lungs if source.label is None else found.lungs | (source.label > 0)
    return Judged(
        case=source.case,
        slices=len(source.hu),
        fault=found.fault,
        lung=int(np.count_nonzero(found.lungs)),
        reference_lung=int(np.count_nonzero(known)),
        found={figure: int(np.count_nonzero(mask)) for figure, mask in masks.items()},
        pixels=None if source.label is None else _pixels(source, source.label, found, masks, settings),
    )


def _pixels(
    source: Source, label: LabelArray, found: Found, masks: Mapping[str, MaskArray], settings: Preprocessing
) -> Pixels:
    name, region = source.case.name, found.lesions.infection
    wanted = {figure: label >= lowest for figure, lowest in LOWEST.items()}
    inside = {figure: mask & found.lungs for figure, mask in wanted.items()}
    solid = wanted["consolidation"]
    missed = int(np.count_nonzero(solid & ~region))
    return Pixels(
        scores={figure: overlap(name, masks[figure], wanted[figure]) for figure in LOWEST},
        clipped={figure: overlap(name, masks[figure], inside[figure]) for figure in LOWEST},
        labelled={figure: int(np.count_nonzero(mask)) for figure, mask in wanted.items()},
        inside={figure: int(np.count_nonzero(mask)) for figure, mask in inside.items()},
        sweep=rates.sweep(source.hu[region], found.consolidated, solid[region], missed, settings),
        rates={figure: rates.rates(masks[figure], label, settings) for figure in ("consolidation", "threshold")},
    )


def find(source: Source, model: ModelPackage, settings: PipelineSettings, repeated: bool = False) -> Found:
    """Run the pipeline on a case; `source.lung`, where given, takes the place of the pipeline's lungs.

    `repeated` shows every slice of a volume as a stack of itself.
    """
    given = None
    if source.lung is not None:
        given = LungMask(source.lung.astype(np.uint8) * np.uint8(Lung.RIGHT), "cohort")
    try:
        if len(source.hu) == 1:
            return _slice(source, 0, given, model, settings)
        ct = _as_volume(source.hu, source.spacing_mm)
        if not repeated:
            return _volume(ct, given, model, settings)
        mask = given or run.find_lungs(ct, model, settings)
        return _joined([_slice(source, k, mask, model, settings) for k in range(len(source.hu))])
    except SeriesRejected as error:
        return _nothing(source.hu.shape, str(error))


def _nothing(shape: tuple[int, ...], fault: str) -> Found:
    empty = np.zeros(shape, np.bool_)
    return Found(empty, LesionMasks(empty, empty), np.zeros(0, np.float32), fault)


def _volume(ct: CtVolume, given: LungMask | None, model: ModelPackage, settings: PipelineSettings) -> Found:
    if given is not None and not given.both.any():
        return _nothing(ct.hu.shape, "the lung mask is empty")
    found = run.examine(ct, model, settings, given)
    where, infection = found.probabilities.where, found.lesions.infection
    values = [
        planes.numpy()[infection[block]]
        for block, planes in preprocess.to_source(found.probabilities.consolidated, where, *ct.hu.shape[1:])
    ]
    return Found(found.lungs.both, found.lesions, np.concatenate(values))


def _slice(source: Source, k: int, mask: LungMask | None, model: ModelPackage, settings: PipelineSettings) -> Found:
    """Slice k as a stack of itself, at the package's own slice spacing."""
    thick_mm = model.manifest.preprocessing.slice_spacing_mm
    ct = _as_volume(
        np.repeat(source.hu[k : k + 1], model.unet1.arch.slices, axis=0), (thick_mm, *source.spacing_mm[1:])
    )
    given = None if mask is None else LungMask(np.broadcast_to(mask.labels[k], ct.hu.shape), mask.method)
    least_ml = LEAST_SLICE_CM2 * thick_mm * len(ct.hu) / CM2_MM_PER_ML
    stack = _volume(ct, given, model, replace(settings, min_lungs_ml=min(least_ml, settings.min_lungs_ml)))
    middle = len(ct.hu) // 2
    one = slice(middle, middle + 1)
    before = int(np.count_nonzero(stack.lesions.infection[:middle]))
    inside = int(np.count_nonzero(stack.lesions.infection[one]))
    return Found(
        stack.lungs[one],
        LesionMasks(stack.lesions.infection[one], stack.lesions.consolidation[one]),
        stack.consolidated[before : before + inside],
        stack.fault,
    )


def _joined(parts: Sequence[Found]) -> Found:
    faults = {part.fault for part in parts}
    return Found(
        np.concatenate([part.lungs for part in parts]),
        LesionMasks(
            np.concatenate([part.lesions.infection for part in parts]),
            np.concatenate([part.lesions.consolidation for part in parts]),
        ),
        np.concatenate([part.consolidated for part in parts]),
        faults.pop() if len(faults) == 1 else "",
    )


def _as_volume(hu: HuArray, spacing_mm: tuple[float, float, float]) -> CtVolume:
    slice_mm, row_mm, column_mm = spacing_mm
    return CtVolume(hu, np.diag([column_mm, row_mm, slice_mm, 1.0]), tuple(Dataset() for _ in hu))
