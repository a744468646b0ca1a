"""What runs inside a worker process. Imported by reference only: the node itself never loads torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dicom_node import logs
from pipeline.types import AnalysisOutcome, AnalysisRequest


def warm_up(number: int, *, share_devices: bool = False) -> None:
    """Load the pipeline before the first series comes.

    Args:
        number: of this worker, from 0.
        share_devices: where there are several CUDA devices, this worker sees the one of its turn only.
    """
    if share_devices:
        nodes = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
        device = device_of(number, os.environ, nodes)
        if device is not None:  # read by CUDA when torch is imported
            os.environ["CUDA_VISIBLE_DEVICES"] = device
    logs.set_up("INFO")
    import pipeline.run  # noqa: F401  # for the import itself


def device_of(number: int, environ: Mapping[str, str], nodes: list[str]) -> str | None:
    """Which of several CUDA devices a worker takes; None where there is nothing to share."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    devices = nodes if visible is None else [name.strip() for name in visible.split(",") if name.strip()]
    return devices[number % len(devices)] if len(devices) > 1 else None


def analyse(request: AnalysisRequest) -> AnalysisOutcome:
    """`pipeline.run.analyse_series`."""
    from pipeline.run import analyse_series

    return analyse_series(request)
