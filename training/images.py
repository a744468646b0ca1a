"""Images on disk (NIfTI, NRRD, … or a folder of DICOM instances) as canonical arrays; training's only SimpleITK."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name its own manual uses

from pipeline import volume
from pipeline.arrays import Affine
from pipeline.errors import SeriesRejected
from pipeline.types import PipelineSettings
from training.errors import CohortError

Spacing = tuple[float, float, float]
NIFTI_HEADER_BYTES = 348
NIFTI_FLOATS = {16: "f4", 64: "f8"}  # datatype codes of NIfTI-1
BLOCK_VALUES = 1 << 20


@dataclass(frozen=True)
class Image:
    """Array (slice, row, column) in canonical order; its affine maps (column, row, slice, 1) to LPS mm."""

    array: npt.NDArray[Any]
    affine: Affine

    @property
    def spacing_mm(self) -> Spacing:
        """Along the axes of the array."""
        column, row, slice_ = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slice_), float(row), float(column)


def read(path: Path) -> tuple[npt.NDArray[Any], Spacing]:
    """Array (slice, row, column) in canonical order and its spacing in mm along the same axes; see `load`."""
    image = load(path)
    return image.array, image.spacing_mm


def load(path: Path) -> Image:
    """An image file, or the CT series in a folder by the code that serves the node.

    Raises:
        CohortError: it cannot be read, has not three axes, or is a series that the node would not analyse.
    """
    if path.is_dir():
        return _series(path)
    try:
        image: Any = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise CohortError(f"{path} cannot be read as an image") from error
    if image.GetDimension() != 3:
        raise CohortError(f"{path} has {image.GetDimension()} axes: 3 are needed")
    canonical: Any = sitk.DICOMOrient(image, "LPS")  # type: ignore[no-untyped-call]
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(canonical.GetDirection(), (3, 3)) * canonical.GetSpacing()
    affine[:3, 3] = canonical.GetOrigin()
    return Image(np.asarray(sitk.GetArrayFromImage(canonical)), affine)


def _series(folder: Path) -> Image:
    try:
        ct = volume.load(files(folder), PipelineSettings())
    except SeriesRejected as error:
        raise CohortError(f"{folder}: {error}") from error
    return Image(ct.hu, ct.affine)


def files(path: Path) -> list[Path]:
    """The files of an image."""
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def digest(path: Path) -> str:
    """SHA-256 (hex) of an image: of its file, or over the hashes of its instances."""
    if path.is_dir():
        return volume.source_digest(files(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path) -> str:
    """A mark that changes when a file of the image is written again: names, sizes and times, not contents."""
    total = hashlib.sha256()
    for file in files(path):
        status = file.stat()
        total.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return total.hexdigest()


def write_mask(path: Path, mask: npt.NDArray[np.uint8], affine: Affine) -> None:
    """A label or lung mask of a canonical grid as NIfTI; whole or not at all.

    NIfTI by ITK knows no shear: of a tilt that a CT volume may have, the nearest orthogonal grid is kept.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    image: Any = sitk.GetImageFromArray(mask)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((left @ right).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".part-{path.name}")
    sitk.WriteImage(image, str(draft), useCompression=True)
    draft.replace(path)


def holds_no_numbers(path: Path) -> bool:
    """Whether a NIfTI file of floats holds NaN or infinity, which its reader turns to 0 in silence."""
    if not path.is_file() or not path.name.endswith((".nii", ".nii.gz")):
        return False
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(NIFTI_HEADER_BYTES)
            order = "<" if struct.unpack_from("<i", header)[0] == NIFTI_HEADER_BYTES else ">"
            kind = NIFTI_FLOATS.get(struct.unpack_from(f"{order}h", header, 70)[0])
            if kind is None:
                return False
            file.read(int(struct.unpack_from(f"{order}f", header, 108)[0]) - NIFTI_HEADER_BYTES)
            width = np.dtype(kind).itemsize
            while block := file.read(BLOCK_VALUES * width):
                usable = len(block) // width * width
                if not np.isfinite(np.frombuffer(block[:usable], f"{order}{kind}")).all():
                    return True
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise CohortError(f"{path} cannot be read as NIfTI: {error}") from error
    return False
