"""What every Secondary Capture of ours has in common (PS3.3 A.8.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from highdicom.sc import SCImage

from pipeline.header import SourceHeader


def capture(pixels: npt.NDArray[np.uint8], source: SourceHeader, arguments: Mapping[str, Any]) -> SCImage:
    """An RGB page (row, column, colour) in the study of the source; `arguments` are highdicom's own."""
    built = SCImage(
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        study_instance_uid=source.ds.StudyInstanceUID,
        **arguments,
    )
    built.copy_patient_and_study_information(source.ds)
    return built
