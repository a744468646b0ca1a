"""Every source of the config, at work: two threads each, so that a long retrieval keeps no question waiting."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from datetime import datetime

from dicom_node.config import Config
from dicom_node.fetching import Fetcher, Keep
from dicom_node.inquiry import Inquirer
from dicom_node.ledger import Ledger, SeriesRecord
from dicom_node.loop import Loop, not_running, stop_all
from dicom_node.statement import Statement
from dicom_node.upper_layer import InstanceMemory

LOGGER = logging.getLogger(__name__)
FILING_S = 60.0  # how long a retrieval waits until what it brought is in the ledger


class SourceService:
    """Asks the sources about series, and fetches from them.

    Args:
        config: `sources`, and our AE title.
        ledger: what is here, and what is to be fetched.
        clock: the present, time zone aware.
        keep: see `Fetcher`.
        is_filed: whether everything received up to now is in the ledger.
        on_change: called when a source has answered, or a retrieval has ended.
    """

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        clock: Callable[[], datetime],
        keep: Keep,
        is_filed: Callable[[], bool],
        on_change: Callable[[], None],
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._clock = clock
        self._keep = keep
        self._is_filed = is_filed
        self._on_change = on_change
        self._filed = threading.Event()
        self._inquirers: dict[str, Inquirer] = {}
        self._fetchers: dict[str, Fetcher] = {}
        self._questions: dict[str, Loop] = {}
        self._retrievals: dict[str, Loop] = {}
        for source in config.sources:
            self._add(source.name)

    def start(self) -> None:
        """Begin with the retrievals that are due."""
        names = [source.name for source in self._config.sources]
        abandoned = self._ledger.abandon_unknown_sources(names, self._clock())
        if abandoned:
            LOGGER.error("%d retrievals are from sources that config.toml does not have any more", abandoned)
        for loop in self._loops():
            loop.start()

    def stop(self) -> None:
        """Begin nothing new; what is being fetched is taken up at the next start."""
        for fetcher in self._fetchers.values():
            fetcher.interrupt()
        stop_all(self._loops())

    def wake(self) -> None:
        """A retrieval may have been asked for."""
        for loop in self._retrievals.values():
            loop.wake()

    def on_filed(self) -> None:
        """Something received is in the ledger now."""
        self._filed.set()

    def dead_threads(self) -> list[str]:
        """Names of threads that ended although nobody stopped them."""
        return not_running(self._loops())

    def has_source(self, series: SeriesRecord) -> bool:
        """Whether there is a source that knows about this series."""
        return self._source_of(series) is not None

    def statement(self, series: SeriesRecord, now: datetime) -> Statement | None:
        """What the source of a series says about it; None while it has not answered, or where there is none."""
        name = self._source_of(series)
        if name is None:
            return None
        statement = self._inquirers[name].statement(series, now)
        if self._inquirers[name].has_questions():
            self._questions[name].wake()
        return statement

    def forget_others(self, series_uids: Collection[str]) -> None:
        """Only these are still being received."""
        for inquirer in self._inquirers.values():
            inquirer.forget_others(series_uids)

    def _source_of(self, series: SeriesRecord) -> str | None:
        """By who sent it, else by where it was fetched from: an archive may send under another title."""
        source = self._config.source_of(series.identity.calling_ae)
        if source is not None:
            return source.name
        fetched = [item.source for item in self._ledger.retrievals_of(series.series_uid)] if self._inquirers else []
        return next((name for name in reversed(fetched) if name in self._inquirers), None)

    def _loops(self) -> list[Loop]:
        return [*self._questions.values(), *self._retrievals.values()]

    def _add(self, name: str) -> None:
        source = next(source for source in self._config.sources if source.name == name)
        calling_ae, instance_bytes = self._config.node.ae_title, self._config.reception.max_instance_mb << 20
        inquirer = Inquirer(source, calling_ae, self._ledger, self._clock, self._on_change, self.wake)
        fetcher = Fetcher(
            source,
            calling_ae,
            self._ledger,
            self._clock,
            self._keep,
            InstanceMemory(instance_bytes, instance_bytes),
            self._wait_for_filing,
            lambda series_uid: self._fetched(name, series_uid),
        )

        def ask() -> None:
            inquirer.run_once()

        self._inquirers[name], self._fetchers[name] = inquirer, fetcher
        self._questions[name] = Loop(f"questions to {name}", ask, self._clock)
        self._retrievals[name] = Loop(f"retrieval from {name}", fetcher.run_once, self._clock)

    def _fetched(self, name: str, series_uid: str) -> None:
        self._inquirers[name].changed(series_uid)
        self._on_change()

    def _wait_for_filing(self) -> None:
        for _ in range(int(FILING_S)):
            self._filed.clear()
            if self._is_filed():
                return
            self._filed.wait(1.0)
