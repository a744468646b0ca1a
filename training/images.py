"""Images on disk (NIfTI, NRRD, …) as canonical arrays; the only import of SimpleITK in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name its own manual uses

from training.errors import CohortError

Spacing = tuple[float, float, float]


def read(path: Path) -> tuple[npt.NDArray[Any], Spacing]:
    """Array (slice, row, column) in canonical order and its spacing in mm along the same axes.

    Raises CohortError where the file cannot be read or has not three axes.
    """
    try:
        image: Any = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise CohortError(f"{path} cannot be read as an image") from error
    if image.GetDimension() != 3:
        raise CohortError(f"{path} has {image.GetDimension()} axes: 3 are needed")
    canonical: Any = sitk.DICOMOrient(image, "LPS")  # type: ignore[no-untyped-call]
    column_mm, row_mm, slice_mm = canonical.GetSpacing()
    return np.asarray(sitk.GetArrayFromImage(canonical)), (slice_mm, row_mm, column_mm)
