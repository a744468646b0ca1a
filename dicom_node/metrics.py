"""GET /metrics: the state of the node for Prometheus. No value names a patient, a study or a peer's address.

What is asked from the ledger are counts and ages, over indexes; everything else is in memory. Where the database
does not answer, what comes from it is missing and `dicomnode_database_up` is 0.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from dicom_node import certificates
from dicom_node import metrics_families as families
from dicom_node.config import Config
from dicom_node.errors import NodeError
from dicom_node.failure_classes import CLASSES
from dicom_node.ledger import Ledger
from dicom_node.ledger_metrics import WAITING
from dicom_node.machine import Gpus, resident_bytes
from dicom_node.metrics_events import Happened, Histogram
from dicom_node.metrics_families import Family
from dicom_node.retention import Disk
from dicom_node.spool import DICOM_SUFFIX, REASON_SUFFIX
from dicom_node.traffic import Traffic
from pipeline import __version__

LOGGER = logging.getLogger(__name__)
Value = float | Histogram
Values = Mapping[Any, Value]  # by the values of the labels, in their order


class Reception(Protocol):
    """What is asked about those who call; `receiver.Receiver` is one."""

    @property
    def traffic(self) -> Traffic:
        """Counters."""

    @property
    def open_associations(self) -> int:
        """At present."""


class Metrics:
    """The figures of one node, in a registry of its own.

    Args:
        config: all of config.toml.
        ledger: asked for counts and ages.
        reception: counts what comes in.
        worker_pids: process ids of the workers that live.
        clock: the present, time zone aware.
        gpus: what reads them.
    """

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        reception: Reception,
        worker_pids: Callable[[], Sequence[int]],
        clock: Callable[[], datetime],
        gpus: Gpus | None = None,
    ) -> None:
        self._node = _Node(config, ledger, reception, worker_pids, clock, gpus or Gpus())
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self._node)
        ProcessCollector(namespace="dicomnode", registry=self._registry)

    def begin(self) -> None:
        """Count from now on. Raises NodeError where the database does not answer."""
        self._node.happened.begin()

    def exposition(self) -> bytes:
        """As `prometheus_client.CONTENT_TYPE_LATEST` says."""
        return generate_latest(self._registry)


class _Node(Collector):
    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        reception: Reception,
        worker_pids: Callable[[], Sequence[int]],
        clock: Callable[[], datetime],
        gpus: Gpus,
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._reception = reception
        self._worker_pids = worker_pids
        self._clock = clock
        self._gpus = gpus
        self._lock = threading.Lock()
        self.happened = Happened(ledger)

    def collect(self) -> Iterator[Metric]:
        """Every family that has values at present."""
        found: dict[Family, Values] = {}
        with self._lock:
            for part in (self._of_node, self._of_reception, self._of_state_folder, self._of_machine):
                found |= dict(part())
            found |= self._of_database()
        for family in families.FAMILIES:
            if family in found:
                yield _metric(family, found[family])

    def _of_node(self) -> Iterator[tuple[Family, Values]]:
        yield families.BUILD, {(__version__,): 1.0}
        ends = {(end.where,): end.at.timestamp() for end in certificates.ends(self._config)}
        yield families.CERTIFICATES, ends

    def _of_reception(self) -> Iterator[tuple[Family, Values]]:
        traffic = self._reception.traffic
        yield families.ACCEPTED, {(): traffic.accepted_count}
        yield families.REJECTED, _by_one(traffic.rejected_counts)
        yield families.OPEN, {(): self._reception.open_associations}
        yield families.INSTANCES, _by_one(traffic.instance_counts)
        yield families.BYTES, {(): traffic.received_bytes}

    def _of_state_folder(self) -> Iterator[tuple[Family, Values]]:
        folder = self._config.node.state_dir
        try:
            disk = Disk.of(self._config)
            yield families.DISK_FREE, {(): disk.free_bytes}
            yield families.DISK_RESERVE, {(): disk.reserve_bytes}
            yield families.INCOMING, {(): _files(folder / "incoming", DICOM_SUFFIX)}
            yield families.QUARANTINE, {(): _files(folder / "quarantine", REASON_SUFFIX)}
        except OSError as error:  # `health` says so too
            LOGGER.error("the state folder cannot be looked at: %s", error.strerror)

    def _of_machine(self) -> Iterator[tuple[Family, Values]]:
        pids = self._worker_pids()
        yield families.UP, {(): len(pids)}
        memory = {(str(number),): resident_bytes(pid) for number, pid in enumerate(pids)}
        yield families.WORKER_MEMORY, {key: value for key, value in memory.items() if value is not None}
        gpus = self._gpus.read()
        yield families.GPU_MEMORY, {(str(gpu.number),): gpu.memory_used_bytes for gpu in gpus}
        yield families.GPU_TOTAL, {(str(gpu.number),): gpu.memory_bytes for gpu in gpus}
        use = {(str(gpu.number),): gpu.utilization for gpu in gpus}
        yield families.GPU_USE, {label: value for label, value in use.items() if value is not None}

    def _of_database(self) -> dict[Family, Values]:
        try:
            self.happened.catch_up()
            return {families.DATABASE: {(): 1.0}, **dict(self._of_ledger()), **dict(self._of_events())}
        except NodeError as error:
            LOGGER.error("metrics without those of the ledger: %s", error)
            return {families.DATABASE: {(): 0.0}}

    def _of_ledger(self) -> Iterator[tuple[Family, Values]]:
        now = self._clock()
        oldest = self._ledger.oldest_waiting()
        destinations = [destination.name for destination in self._config.destinations]
        backlogs = self._ledger.unsent(destinations)
        yield families.SERIES, _by_one(self._ledger.counts())
        yield families.AGE, {(state,): _age_s(oldest.get(state), now) for state in WAITING}
        yield families.JOBS, _by_one(self._ledger.job_counts())
        yield (
            families.BACKLOG,
            {(name, state): count for name, one in backlogs.items() for state, count in one.counts.items()},
        )
        yield families.BACKLOG_AGE, {(name,): _age_s(one.oldest_at, now) for name, one in backlogs.items()}
        sources = [source.name for source in self._config.sources]
        yield families.RETRIEVALS, _by_one(self._ledger.retrievals_waiting(sources))

    def _of_events(self) -> Iterator[tuple[Family, Values]]:
        found = self.happened
        known = {(subject, name) for (subject, _), names in CLASSES.items() for name in names}
        yield families.LAG, {(): found.unread}
        yield families.FAILURES, {key: found.failures[key] for key in sorted(known | set(found.failures))}
        yield families.TURNAROUND, {(): found.turnaround}
        yield families.SEVERITY, dict(found.severity)
        yield families.CONSOLIDATION, dict(found.consolidation)
        yield families.CLASSES, dict(found.classes)


def _metric(family: Family, values: Values) -> Metric:
    """A family with its samples."""
    makers: Mapping[str, Any] = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
        "info": InfoMetricFamily,
    }
    labelled = None if family.kind == "info" else family.labels
    metric: Any = makers[family.kind](family.name, family.text, labels=labelled)
    for labels, value in values.items():
        if isinstance(value, Histogram):
            metric.add_metric(labels, value.buckets, value.total)
        elif family.kind == "info":
            metric.add_metric([], dict(zip(family.labels, labels, strict=True)))
        else:
            metric.add_metric(labels, value)
    done: Metric = metric
    return done


def _by_one(counts: Mapping[Any, int]) -> dict[tuple[str, ...], float]:
    return {(str(name),): count for name, count in counts.items()}


def _age_s(at: datetime | None, now: datetime) -> float:
    """Never below 0: the clock may have been put back."""
    return 0.0 if at is None else max(0.0, (now - at).total_seconds())


def _files(folder: os.PathLike[str], suffix: str) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.name.endswith(suffix) for entry in entries)
