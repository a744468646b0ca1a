"""CT instances → one volume in Hounsfield units on the canonical grid, or the reason why not."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from pipeline.arrays import CtVolume
from pipeline.ct_header import instance_fault, series_fault, slice_of
from pipeline.errors import SeriesRejected
from pipeline.geometry import Limits, arrangement, assess, source_affine
from pipeline.pixels import read_header, read_hu
from pipeline.types import PipelineSettings

MAX_VOXELS = 1_000_000_000  # 2 GB of HU: four thousand slices of 512 x 512


def load(files: Sequence[Path], settings: PipelineSettings) -> CtVolume:
    """Read one series, in any order of files, and turn it to the canonical orientation.

    Every header is checked before the first pixel is decoded; slices are decoded one by one into the volume.

    Raises:
        SeriesRejected: the files are not one complete axial CT series that can be analysed; the reason names the
            first fault of an instance, or every fault of the geometry.
    """
    if not files:
        raise SeriesRejected("there are no files")
    headers = _read_headers(files)
    slices = [slice_of(header) for header in headers]
    limits = Limits(max(2, settings.min_slices), settings.max_slice_spacing_mm, settings.max_oblique_deg)
    assessment = assess(slices, limits)
    if assessment.faults:
        raise SeriesRejected("; ".join(fault.text for fault in assessment.faults))
    order = assessment.order
    turn = arrangement(slices[order[0]].orientation)
    rows, columns = slices[0].rows, slices[0].columns
    shape = (len(files), columns, rows) if turn.transpose else (len(files), rows, columns)
    if math.prod(shape) > MAX_VOXELS:
        raise SeriesRejected(f"{shape[0]} slices of {rows} x {columns} are more than this software takes in")
    affine = turn.affine(source_affine([slices[index] for index in order]), shape)
    in_order = tuple(headers[index] for index in order)
    volume = CtVolume(np.empty(shape, np.int16), affine, in_order, turn.transpose, turn.flips)
    source = volume.to_source(volume.hu)  # a view: what is written into it lands on the canonical grid
    for place, index in enumerate(order):
        source[place] = read_hu(files[index], headers[index])
    return volume


def source_digest(files: Sequence[Path]) -> str:
    """SHA-256 (hex) over the sorted SHA-256 of the files: the same for the same bytes, whatever their names."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _read_headers(files: Sequence[Path]) -> list[Dataset]:
    headers = [read_header(path) for path in files]
    faults = [fault for header in headers if (fault := instance_fault(header))]
    if faults:
        share = "" if len(faults) == len(headers) == 1 else f" ({len(faults)} of {len(headers)} instances)"
        raise SeriesRejected(f"{faults[0]}{share}")
    if fault := series_fault(headers):
        raise SeriesRejected(fault)
    return headers
