"""Every metric of the node: name, kind, labels, meaning. docs/monitoring.md is made from this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True)
class Family:
    """One metric; `name` without the suffix that its kind adds (`_total`, `_bucket`, `_info`)."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    text: str

    @property
    def exposed(self) -> str:
        """The name that is asked for in queries."""
        return self.name + {"counter": "_total", "histogram": "_bucket", "info": "_info"}.get(self.kind, "")


SCORED = ("scanner", "model")
BUILD = Family("dicomnode_build", "info", ("version",), "version of the software; always 1")
ACCEPTED = Family("dicomnode_associations_accepted", "counter", (), "associations that peers opened")
REJECTED = Family("dicomnode_associations_rejected", "counter", ("reason",), "associations or connections refused")
OPEN = Family("dicomnode_associations_open", "gauge", (), "associations that peers have open")
INSTANCES = Family("dicomnode_instances_received", "counter", ("result",), "C-STORE requests, by answer")
BYTES = Family("dicomnode_received_bytes", "counter", (), "of data sets that were kept")
INCOMING = Family("dicomnode_incoming_files", "gauge", (), "files received and answered, not yet in the ledger")
SERIES = Family("dicomnode_series", "gauge", ("state",), "series in each state")
AGE = Family(
    "dicomnode_oldest_waiting_seconds",
    "gauge",
    ("state",),
    "since the last instance of the series that waits longest; 0 where none waits",
)
JOBS = Family("dicomnode_jobs", "gauge", ("state",), "analyses that wait or run")
TURNAROUND = Family(
    "dicomnode_turnaround_seconds", "histogram", (), "from the last instance of a series to its committed results"
)
FAILURES = Family(
    "dicomnode_failures", "counter", ("subject", "reason"), "what ended badly, by class of the reason"
)
BACKLOG = Family(
    "dicomnode_deliveries", "gauge", ("destination", "state"), "objects that a destination has not committed"
)
BACKLOG_AGE = Family(
    "dicomnode_oldest_delivery_seconds",
    "gauge",
    ("destination",),
    "since when the oldest object waits for it; 0 where none does",
)
RETRIEVALS = Family("dicomnode_retrievals_waiting", "gauge", ("source",), "series that are to be fetched from it")
DISK_FREE = Family("dicomnode_disk_free_bytes", "gauge", (), "of the state folder")
DISK_RESERVE = Family("dicomnode_disk_reserve_bytes", "gauge", (), "below it nothing is received")
QUARANTINE = Family("dicomnode_quarantined_files", "gauge", (), "files that were set aside, each with its reason")
CERTIFICATES = Family(
    "dicomnode_certificate_expiry_timestamp_seconds",
    "gauge",
    ("setting",),
    "when a certificate of config.toml ends, since 1970",
)
UP = Family("dicomnode_workers", "gauge", (), "processes that analyse")
WORKER_MEMORY = Family("dicomnode_worker_resident_bytes", "gauge", ("worker",), "memory of a worker process")
GPU_MEMORY = Family(
    "dicomnode_gpu_memory_used_bytes", "gauge", ("gpu",), "of the whole device, not of the node alone"
)
GPU_TOTAL = Family("dicomnode_gpu_memory_bytes", "gauge", ("gpu",), "that the device has")
GPU_USE = Family(
    "dicomnode_gpu_utilization_ratio", "gauge", ("gpu",), "share of the last moments in which it worked"
)
SEVERITY = Family("dicomnode_severity_score", "histogram", SCORED, "severity scores of analyses, fractions of 1")
CONSOLIDATION = Family(
    "dicomnode_consolidation_score", "histogram", SCORED, "consolidation scores of analyses, fractions of 1"
)
CLASSES = Family(
    "dicomnode_severity_class", "counter", (*SCORED, "severity_class"), "analyses by class of the severity score"
)
DATABASE = Family(
    "dicomnode_database_up",
    "gauge",
    (),
    "1 where the database answered this time; 0: what comes from it is missing",
)
LAG = Family("dicomnode_events_unread", "gauge", (), "events of the ledger that the counters have not seen yet")

FAMILIES: tuple[Family, ...] = (
    BUILD,
    DATABASE,
    LAG,
    ACCEPTED,
    REJECTED,
    OPEN,
    INSTANCES,
    BYTES,
    INCOMING,
    SERIES,
    AGE,
    JOBS,
    UP,
    TURNAROUND,
    FAILURES,
    BACKLOG,
    BACKLOG_AGE,
    RETRIEVALS,
    DISK_FREE,
    DISK_RESERVE,
    QUARANTINE,
    CERTIFICATES,
    WORKER_MEMORY,
    GPU_MEMORY,
    GPU_TOTAL,
    GPU_USE,
    SEVERITY,
    CONSOLIDATION,
    CLASSES,
)
