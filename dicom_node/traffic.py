"""What comes in, counted since the start of the node: for metrics. Nothing here names a peer or a patient."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

STORED = {  # status of a C-STORE-RSP → result
    0x0000: "stored",
    0x0122: "sop_class_not_supported",
    0xA700: "out_of_resources",
    0xA900: "data_set_does_not_match",
    0xC000: "cannot_understand",
}
CALLED, CALLING = "called_ae_title", "calling_ae_title"
NO_PLACE, LOW_DISK, NOT_ADMITTED, OTHER = "no_place", "low_disk", "network_or_tls", "other"
REJECTIONS = (CALLED, CALLING, NO_PLACE, LOW_DISK, NOT_ADMITTED)
RESULTS = (*STORED.values(), OTHER)


class Traffic:
    """Counters; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accepted = 0
        self._rejected = Counter[str]()
        self._instances = Counter[str]()
        self._bytes = 0

    def opened(self) -> None:
        """An association was accepted."""
        with self._lock:
            self._accepted += 1

    def rejected(self, reason: str) -> None:
        """One was not; `reason` is one of `REJECTIONS`."""
        with self._lock:
            self._rejected[reason] += 1

    def answered(self, status: int, size_bytes: int) -> None:
        """A C-STORE with a data set of this size was answered so."""
        result = STORED.get(status, OTHER)
        with self._lock:
            self._instances[result] += 1
            if result == "stored":
                self._bytes += size_bytes

    @property
    def accepted_count(self) -> int:
        """Associations accepted."""
        return self._accepted

    @property
    def received_bytes(self) -> int:
        """Of data sets that were kept."""
        return self._bytes

    @property
    def rejected_counts(self) -> Mapping[str, int]:
        """Associations by `REJECTIONS`."""
        with self._lock:
            return {reason: self._rejected[reason] for reason in REJECTIONS}

    @property
    def instance_counts(self) -> Mapping[str, int]:
        """Instances by `RESULTS`."""
        with self._lock:
            return {result: self._instances[result] for result in RESULTS}
