"""Memory of processes and of GPUs, for metrics. What cannot be read is left out."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """One device, as its driver tells."""

    number: int
    memory_used_bytes: int
    memory_bytes: int
    utilization: float | None  # of 1; None where it is not told: of a device that is shared out (MIG)


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process; None where it is gone."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None


class Gpus:
    """The devices that NVIDIA's driver knows; none where there is no driver.

    Args:
        nvml: the library, or what stands for it in tests; None: loaded with the first look.
    """

    def __init__(self, nvml: Any = None) -> None:
        self._nvml = nvml
        self._absent = False

    def read(self) -> Sequence[Gpu]:
        """All of them, at present."""
        if self._absent:
            return ()
        if self._nvml is None:
            import pynvml

            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()  # counted by the library; a driver that was loaded anew is found
            try:
                return [self._one(number) for number in range(self._nvml.nvmlDeviceGetCount())]
            finally:
                self._nvml.nvmlShutdown()
        except self._nvml.NVMLError as error:
            LOGGER.info("no figures of GPUs: %s", error)
            self._absent = isinstance(error, self._nvml.NVMLError_LibraryNotFound)
            return ()

    def _one(self, number: int) -> Gpu:
        device = self._nvml.nvmlDeviceGetHandleByIndex(number)
        memory = self._nvml.nvmlDeviceGetMemoryInfo(device)
        use = None
        with suppress(self._nvml.NVMLError_NotSupported):
            use = self._nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100
        return Gpu(number, int(memory.used), int(memory.total), use)
