"""What SEG, SR and picture speak about: lungs and findings, with their codes, colours and names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydicom.sr.coding import Code

from pipeline import codes
from pipeline.arrays import MaskArray
from pipeline.types import Analysis, Lung, Profile, Region


class Subject(StrEnum):
    """A lung or a finding; the value is its tracking identifier."""

    LUNGS = "Lungs"
    RIGHT_LUNG = "Right lung"
    LEFT_LUNG = "Left lung"
    INFECTION = "Opacity"
    CONSOLIDATION = "Consolidation"
    GGO = "Ground glass opacity"


@dataclass(frozen=True)
class Description:
    """How a subject is coded and drawn; sRGB colours that colour-blind readers tell apart (Okabe and Ito 2008)."""

    category: Code
    type: Code
    rgb: tuple[int, int, int]
    laterality: Code = codes.BILATERAL
    region: Region = Region.BOTH

    @property
    def is_lung(self) -> bool:
        """Whether the subject is anatomy, not a finding."""
        return bool(self.category == codes.ANATOMICAL_STRUCTURE)


_ABNORMAL, _ANATOMY = codes.MORPHOLOGICALLY_ABNORMAL, codes.ANATOMICAL_STRUCTURE
DESCRIPTIONS: Mapping[Subject, Description] = {
    Subject.LUNGS: Description(_ANATOMY, codes.LUNG, (0, 158, 115)),
    Subject.RIGHT_LUNG: Description(_ANATOMY, codes.LUNG, (0, 158, 115), codes.RIGHT, Region.RIGHT),
    Subject.LEFT_LUNG: Description(_ANATOMY, codes.LUNG, (240, 228, 66), codes.LEFT, Region.LEFT),
    Subject.INFECTION: Description(_ABNORMAL, codes.OPACITY, (86, 180, 233)),
    Subject.CONSOLIDATION: Description(_ABNORMAL, codes.CONSOLIDATION, (213, 94, 0)),
    Subject.GGO: Description(_ABNORMAL, codes.GROUND_GLASS_OPACITY, (86, 180, 233)),
}


def lesion_subjects(profile: Profile) -> tuple[Subject, ...]:
    """What the lesion SEG of a profile may hold, in the order of segment numbers."""
    return {
        "BINARY": (Subject.INFECTION, Subject.CONSOLIDATION),  # may overlap
        "LABELMAP": (Subject.GGO, Subject.CONSOLIDATION),  # may not
        "NONE": (),
    }[profile.seg]


def mask(analysis: Analysis, subject: Subject) -> MaskArray:
    """The voxels of a subject, canonical (slice, row, column)."""
    lesions, labels = analysis.lesions, analysis.lungs.labels
    if subject is Subject.INFECTION:
        return lesions.infection
    if subject is Subject.CONSOLIDATION:
        return lesions.consolidation
    if subject is Subject.GGO:
        return lesions.ggo
    side = {Subject.RIGHT_LUNG: Lung.RIGHT, Subject.LEFT_LUNG: Lung.LEFT}.get(subject)
    return labels > 0 if side is None else labels == side
