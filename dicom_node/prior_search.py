"""Archives are asked for earlier results before an analysis begins, on a thread of its own.

What is found is kept with the job, which waits for it: no longer than `priors.search_limit_s` where an archive does
not answer, so that a dead archive delays analyses for a while and stops none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from dicom_node import prior_reports
from dicom_node.config import Config, Source
from dicom_node.errors import NodeError, PermanentError, TransientError
from dicom_node.expected import Expected
from dicom_node.ledger import JobRecord, Ledger, SeriesRecord
from dicom_node.prior_reports import Patient
from dicom_node.retry import Pause
from pipeline import priors
from pipeline.priors import Prior, Priors

log = logging.getLogger(__name__)
PAUSE_S = 10.0  # after an archive or the database did not answer


class PriorSearch:
    """Asks the archives that `priors.sources` names.

    Args:
        config: `priors` and `sources` are used.
        ledger: jobs that wait, and where answers are kept.
        clock: the present, time zone aware.
        on_found: called when a job does not wait for an answer any more.
        expected: where the receiver hands over the reports that a C-MOVE brings.
    """

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        clock: Callable[[], datetime],
        on_found: Callable[[], None],
        expected: Expected,
    ) -> None:
        self._ae_title = config.node.ae_title
        self._sources = config.prior_sources
        self._limit_s = config.priors.search_limit_s
        self._ledger, self._clock, self._on_found, self._expected = ledger, clock, on_found, expected
        self._silent: dict[str, tuple[Pause, str]] = {}  # by source: not asked so long, and why
        self._woken, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="prior search")

    @property
    def threads(self) -> list[threading.Thread]:
        """For whoever looks after the threads of the node; none where no archive is named."""
        return [self._thread] if self._sources else []

    def start(self) -> None:
        """Begin to ask, where an archive is named."""
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """End after the question that is under way."""
        self._stopped.set()
        self._woken.set()
        self._expected.stop()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """There may be a new job. From any thread."""
        self._woken.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._woken.clear()
            try:
                waits = self.sweep()
            except NodeError as error:  # of the database
                log.error("the search for earlier results waits %g s: %s", PAUSE_S, error)
                waits = True
            self._woken.wait(PAUSE_S if waits else None)

    def sweep(self) -> bool:
        """Ask for every job that waits; whether any of them still does.

        Raises:
            TransientError, PermanentError: of the database.
        """
        waits = False
        for job, series in self._ledger.jobs_to_search():
            found = None if self._stopped.is_set() else self._found(job, series)
            if found is None or self._stopped.is_set():  # what a stop has cut short is no answer
                waits = True
            else:
                self._ledger.keep_found(job, found, self._clock())
                self._on_found()
        return waits

    def _found(self, job: JobRecord, series: SeriesRecord) -> Priors | None:
        """As `_search`."""
        try:
            return self._search(job, series)
        except NodeError:
            raise
        except Exception:
            # The border to what came from the wire, or from an archive: the series is analysed without.
            log.exception("series %s: unexpected error while earlier results were looked for", series.series_uid)
            return Priors(search="earlier results could not be looked for: unexpected error")

    def _search(self, job: JobRecord, series: SeriesRecord) -> Priors | None:
        """What all archives have together; None where one did not answer and is to be asked again."""
        headers = [record.header for record in self._ledger.current_instances(series.series_uid)]
        patient = _patient(series, headers)
        if not patient.can_be_asked_for:
            return Priors(search="no archive was asked: PatientID or date of the CT do not allow it")
        found: dict[str, Prior] = {}
        told = []
        for source in self._sources:
            try:
                there = self._ask(source, patient)
            except (TransientError, PermanentError) as error:
                patience = Pause.of(job.created_at, self._limit_s)
                if isinstance(error, TransientError) and patience.lasts(self._clock()):
                    return None
                there = Priors(search=f"{source.name} could not be asked")
                log.warning("series %s: earlier results: %s: %s", series.series_uid, there.search, error)
            told.append(there.search)
            found = {prior.study_uid: prior for prior in there.results} | found  # the archive named first counts
        return Priors(tuple(found.values()), "; ".join(told))

    def _ask(self, source: Source, patient: Patient) -> Priors:
        """One archive; one that did not answer a moment ago is not waited for again. Raises as `fetch` does."""
        pause, why = self._silent.get(source.name, (None, ""))
        if pause is not None and pause.lasts(self._clock()):
            raise TransientError(why)
        try:
            return prior_reports.fetch(source, patient, self._ae_title, self._expected)
        except TransientError as error:
            self._silent[source.name] = Pause.of(self._clock(), PAUSE_S), str(error)
            raise
        except NodeError:
            raise
        except Exception as error:
            # The border to what an archive answers: the others count all the same.
            log.exception("earlier results: unexpected error with the answer of %s", source.name)
            raise PermanentError(f"its answer cannot be used: {type(error).__name__}") from error


def _patient(series: SeriesRecord, headers: Sequence[Mapping[str, Any]]) -> Patient:
    identity = series.identity
    birth_date = str(headers[0].get("PatientBirthDate") or "") if headers else ""
    return Patient(
        identity.patient_id,
        identity.patient_id_issuer,
        birth_date,
        identity.study_uid,
        priors.first_acquired(headers),
    )
