"""What runs inside a worker process. Imported by reference only: the node itself never loads torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dicom_node import logs
from dicom_node.worker_pool import WorkerSpoilt
from pipeline.errors import PipelineError
from pipeline.types import AnalysisOutcome, AnalysisRequest

log = logging.getLogger(__name__)


def warm_up(number: int, *, share_devices: bool = False) -> None:
    """Load the pipeline before the first series comes.

    Args:
        number: of this worker, from 0.
        share_devices: where there are several CUDA devices, this worker sees the one of its turn only.
    """
    logs.set_up("INFO")
    nodes = len(list(Path("/dev").glob("nvidia[0-9]*"))) if share_devices else 0
    device = device_of(number, os.environ, nodes)
    if share_devices and device is not None:  # read by CUDA with its first call
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    import pipeline.run  # noqa: F401  # for the import itself

    if nodes and not _on_cuda():
        # Said here too: `dicomnode doctor` runs outside of the unit, whose DeviceAllow may be what hides the GPU.
        log.warning("a GPU is there and cannot be used (driver, build of torch, or DeviceAllow): the CPU is")


def device_of(number: int, environ: Mapping[str, str], nodes: int) -> str | None:
    """Which of several CUDA devices a worker takes; None where there is nothing to share.

    CUDA counts from 0 what it sees, whatever the numbers in /dev are: a container with the host's third and fourth
    GPU has /dev/nvidia2 and nvidia3, which are devices 0 and 1.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    devices = [str(index) for index in range(nodes)]
    if visible is not None:
        devices = [name.strip() for name in visible.split(",") if name.strip()]
    return devices[number % len(devices)] if len(devices) > 1 else None


def analyse(request: AnalysisRequest) -> AnalysisOutcome:
    """`pipeline.run.analyse_series`."""
    from pipeline.run import analyse_series

    with spoilt_by_surprises():
        return analyse_series(request)


@contextmanager
def spoilt_by_surprises() -> Iterator[None]:
    """An error that nobody thought of becomes WorkerSpoilt where CUDA is there.

    After an illegal access, a failed assertion or a memory fault every further call into CUDA fails for as long as
    the process lives. The text does not tell which errors are of that kind, as cuDNN and cuBLAS have words of their
    own. It goes to the node as text, as torch's classes would load torch there.
    """
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        log.exception("unexpected error in the analysis")  # to the node goes what it is, not where it was
        if not _on_cuda():
            raise
        said = str(error).partition("\n")[0]
        raise WorkerSpoilt(f"unexpected error in the analysis: {type(error).__name__}: {said}") from error


def _on_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
