"""What has happened since the node started, added up from the events of the ledger, as they are asked for.

Counters of Prometheus begin at 0 with a process; so they begin with the event that is the newest then. The scores
of an analysis are read with the event that ends it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from dicom_node.errors import PermanentError
from dicom_node.failure_classes import classify
from dicom_node.ledger import Ledger
from dicom_node.ledger_metrics import Change, Measured
from dicom_node.metrics_labels import OTHER, Labels, clean
from dicom_node.states import JobState, SeriesState
from pipeline.codes import SEVERITY_CLASSES

LOGGER = logging.getLogger(__name__)
AT_ONCE = 5000  # events that one call looks at
MINUTE, HOUR = 60.0, 3600.0
TURNAROUND_S = (30.0, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 20 * MINUTE, HOUR, 4 * HOUR, 24 * HOUR)
SCORES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass
class Histogram:
    """Observations in buckets, each up to and with its bound."""

    bounds: tuple[float, ...]
    total: float = 0.0
    count: int = 0
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * len(self.bounds)

    def observe(self, value: float) -> None:
        """One more."""
        self.total += value
        self.count += 1
        for number, bound in enumerate(self.bounds):
            self.counts[number] += value <= bound

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """(bound, how many are not above it), the last without a bound."""
        return [
            *((str(b), float(n)) for b, n in zip(self.bounds, self.counts, strict=True)),
            ("+Inf", float(self.count)),
        ]


class Happened:
    """Counters and histograms; for one thread at a time."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._last: int | None = None
        self._scanners, self._models = Labels(), Labels()
        self.unread = 0
        self.failures = Counter[tuple[str, str]]()
        self.classes = Counter[tuple[str, str, str]]()
        self.turnaround = Histogram(TURNAROUND_S)
        self.severity: dict[tuple[str, str], Histogram] = {}
        self.consolidation: dict[tuple[str, str], Histogram] = {}

    def begin(self) -> None:
        """What has happened up to now does not count. Raises NodeError where the database does not answer."""
        self._last = self._ledger.last_event()

    def catch_up(self) -> None:
        """Read what is new, so much of it as does not take long. Raises NodeError."""
        if self._last is None:
            self.begin()
            return
        changes = self._ledger.changes_after(self._last, AT_ONCE)
        done = [c.subject_id for c in changes if (c.subject, c.state) == ("job", JobState.DONE) and c.subject_id]
        measured = [scores for job_id in done if (scores := self._measured(job_id)) is not None]
        delivered = [c for c in changes if (c.subject, c.state) == ("series", SeriesState.DELIVERED)]
        self._add_turnaround(delivered)
        for one in measured:
            self._add_scores(one)
        for change in changes:
            found = classify(change.subject, change.state, change.reason)
            if found is not None:
                self.failures[change.subject, found] += 1
        if changes:
            self._last = changes[-1].id
        self.unread = max(0, self._ledger.last_event() - self._last) if len(changes) == AT_ONCE else 0

    def _measured(self, job_id: int) -> Measured | None:
        try:
            return self._ledger.measured(job_id)
        except PermanentError as error:
            LOGGER.warning("the scores of job %d do not count in metrics: %s", job_id, type(error).__name__)
            return None

    def _add_turnaround(self, delivered: Sequence[Change]) -> None:
        ids = [change.series_id for change in delivered if change.series_id is not None]
        began = self._ledger.last_instances(ids) if ids else {}
        for change in delivered:
            if change.series_id in began:
                took_s = (change.at - began[change.series_id]).total_seconds()
                self.turnaround.observe(max(0.0, took_s))  # the clock may have been put back

    def _add_scores(self, one: Measured) -> None:
        maker = clean(one.manufacturer)
        scanner = self._scanners.of(one.scanner if maker == OTHER else f"{maker} {one.scanner}")
        key = (scanner, self._models.of(f"{one.model} {one.version}"))
        for histograms, value in ((self.severity, one.severity), (self.consolidation, one.consolidation)):
            if value is not None:
                histograms.setdefault(key, Histogram(SCORES)).observe(value)
        if one.severity_class in SEVERITY_CLASSES:
            self.classes[(*key, one.severity_class)] += 1
