"""Is this case fit to be trained on? Every fault is a sentence for a person (after nnU-Net's integrity check)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from training import images
from training.cohort import Case
from training.errors import CohortError
from training.images import Image

AIR_HU, TISSUE_HU = -500.0, (-200.0, 300.0)
LEAST_SHARE = 0.01  # of the voxels: a chest holds more air and more soft tissue than that
HU_RANGE = (-8192, 32767)  # beyond it even paddings and metal do not reach
SAME_PLACE = 0.5  # of the smallest voxel side: corners of a mask against those of its image
LABEL_VALUES = {0, 1, 2}
LABELS = "label"  # the folder whose labels the table speaks of


def labelled(case: Case) -> tuple[Image, Image | None]:
    """Image and label of a case, read and verified.

    A label of another folder than label/ (another reader's, a network's) may contradict the table.

    Raises:
        CohortError: naming every fault.
    """
    image, label, faults = _labelled(case, case.label is not None and case.label.parent.name == LABELS)
    if faults:
        raise CohortError("; ".join(faults))
    return image, label


def load(case: Case) -> tuple[Image, Image | None, Image | None]:
    """Image, label and lung mask of a case, read and verified.

    Raises:
        CohortError: naming every fault.
    """
    image, label, faults = _labelled(case, agrees=True)
    lung = _read(case, case.lung, "lung mask") if case.lung is not None else None
    if lung is not None:
        faults += grid_faults("lung mask", lung, image)
        faults += [] if (lung.array > 0).any() else ["the lung mask is empty"]
    if faults:
        raise CohortError("; ".join(faults))
    return image, label, lung


def _labelled(case: Case, agrees: bool) -> tuple[Image, Image | None, list[str]]:
    image = _read(case, case.image, "image")
    label = _read(case, case.label, "label") if case.label is not None else None
    faults = unit_faults(image.array)
    if label is not None:
        said = case if agrees else replace(case, ggo=None, consolidation=None)
        faults += grid_faults("label", label, image) + label_faults(label.array, said)
    return image, label, faults


def _read(case: Case, path: Any, what: str) -> Image:
    if images.holds_no_numbers(path):
        raise CohortError(f"the {what} holds values that are not numbers")
    image = images.load(path)
    if not np.isfinite(image.array).all():
        raise CohortError(f"the {what} holds values that are not numbers")
    return image


def unit_faults(array: npt.NDArray[Any]) -> list[str]:
    """Whether these are Hounsfield units of a chest: stored values, scaled and inverted ones are not."""
    low, high = float(array.min()), float(array.max())
    if low < HU_RANGE[0] or high > HU_RANGE[1]:
        return [f"values from {low:g} to {high:g} are not Hounsfield units"]
    air = np.count_nonzero(array < AIR_HU) / array.size
    tissue = np.count_nonzero((array >= TISSUE_HU[0]) & (array <= TISSUE_HU[1])) / array.size
    lacking = [name for name, share in (("air", air), ("soft tissue", tissue)) if share < LEAST_SHARE]
    if not lacking:
        return []
    return [f"values from {low:g} to {high:g} show no {' and no '.join(lacking)}: not Hounsfield units of a chest"]


def grid_faults(what: str, mask: Image, image: Image) -> list[str]:
    """Whether a mask has the image's grid: the same voxels at the same places."""
    if mask.array.shape != image.array.shape:
        sizes = (" x ".join(map(str, array.shape)) for array in (mask.array, image.array))
        return [f"the {what} has another grid than the image: {' against '.join(sizes)} voxels"]
    slices, rows, columns = image.array.shape
    corners = np.array([[c, r, s, 1] for c in (0, columns - 1) for r in (0, rows - 1) for s in (0, slices - 1)]).T
    apart = float(np.linalg.norm(((mask.affine - image.affine) @ corners)[:3], axis=0).max())
    if apart > SAME_PLACE * min(image.spacing_mm):
        return [f"the {what} lies elsewhere than the image: corners are up to {apart:.1f} mm apart"]
    return []


def label_faults(label: npt.NDArray[Any], case: Case) -> list[str]:
    """Whether a label holds 0, 1 and 2 only, and agrees with what is said of the case."""
    values = set(np.unique(label).tolist())
    if not values <= LABEL_VALUES:
        return [
            f"the label holds {', '.join(f'{v:g}' for v in sorted(values - LABEL_VALUES)[:5])}, not 0, 1 and 2 only"
        ]
    said = [name for name, flag in (("ggo", case.ggo), ("consolidation", case.consolidation)) if flag]
    if values == {0} and said:
        return [f"the label is empty, but the table says {' and '.join(f'{name} = 1' for name in said)}"]
    if 2 in values and case.consolidation is False:
        return ["the label holds consolidation, but the table says consolidation = 0"]
    return []
