"""The arrays of a case: the volume, and the masks on its grid; frozen, invariants checked on creation.

Every array has the axes (slice, row, column) in *canonical* order: slices caudal to cranial, rows anterior to
posterior, columns from the patient's right to the left. That is the radiological view of an axial slice, and the
voxel order of an LPS image. `CtVolume.to_source` carries masks back to the grid and order of the source instances.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # as in `pipeline.types`
    from pydicom.dataset import Dataset

HuArray = npt.NDArray[np.int16]
MaskArray = npt.NDArray[np.bool_]
LabelArray = npt.NDArray[np.uint8]
Affine = npt.NDArray[np.float64]


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
