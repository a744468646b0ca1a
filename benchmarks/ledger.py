"""How long the ledger takes with many series: what `dicomnode status` asks, what the node asks, and filing.

    python benchmarks/ledger.py [--series 100000] [--url sqlite:////tmp/bench.sqlite]

Without ``--url`` a SQLite file in a temporary folder is used. A database that is named must be empty; it is kept.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, insert

from dicom_node.ledger import Filing, Ledger, SeriesIdentity
from dicom_node.states import InstanceState, JobState, SeriesState
from dicom_node.tables import EventRow, InstanceRow, JobRow, SeriesRow

START = datetime(2026, 1, 1, tzinfo=UTC)
FIRST_ID = 10_000_000  # of rows written with their ids: far from those that PostgreSQL counts up itself
INSTANCES = 3  # of each series in the database; what is measured does not read them in bulk
# Of a hospital's ledger: nearly all are over.
STATES = [SeriesState.DELIVERED] * 60 + [SeriesState.NOT_ANALYSED] * 35 + [SeriesState.FAILED] * 4
EVENTS = ("receiving", "complete", "queued", "analysed", "delivered")


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--url")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.url or f"sqlite:///{Path(folder) / 'ledger.sqlite'}"
        ledger = Ledger(url)
        began = time.perf_counter()
        fill(url, arguments.series)
        print(f"{arguments.series} series filled in {time.perf_counter() - began:.0f} s\n")
        for name, call in questions(ledger, arguments.series):
            print(f"{name:44s} {median_ms(call):9.2f} ms")
        print(f"{'file 300 new instances, one transaction':44s} {filing_ms(ledger):9.2f} ms")
        ledger.close()


def median_ms(call: Callable[[], Any], times: int = 7) -> float:
    """Median duration; the first call, which compiles the query, is left out."""
    call()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def questions(ledger: Ledger, series: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What people and the node ask."""
    middle = ledger.series(f"1.2.{series // 2}")
    yield "counts per state", ledger.counts
    yield "newest 50", lambda: ledger.list_series(limit=50)
    yield "50 after the middle", lambda: ledger.list_series(limit=50, before=middle)
    yield "newest 50 failed", lambda: ledger.list_series(states=[SeriesState.FAILED], limit=50)
    yield (
        "newest 50 failed or incomplete",
        lambda: ledger.list_series(states=[SeriesState.FAILED, SeriesState.INCOMPLETE], limit=50),
    )
    yield "by patient", lambda: ledger.list_series(text=f"P{series // 2}")
    yield "by accession number, not found", lambda: ledger.list_series(text="nobody")
    yield "one series with its whole story", lambda: ledger.details(middle.series_uid)
    yield "receiving (each look of the node)", ledger.receiving
    yield "studies to choose in (each look)", ledger.complete_studies
    yield "due deliveries (each look)", lambda: ledger.due_deliveries("pacs", START)


def filing_ms(ledger: Ledger) -> float:
    """A batch as reception files it, each time another series."""
    numbers = iter(range(100))

    def file() -> None:
        series_uid = f"1.3.{next(numbers)}"
        ledger.file_instances([_filing(series_uid, number) for number in range(300)], START)

    return median_ms(file, 5)


def _filing(series_uid: str, number: int) -> Filing:
    uid = f"{series_uid}.{number}"
    digest = sha256(uid.encode()).hexdigest()
    return Filing(
        identity=SeriesIdentity(series_uid, f"{series_uid}.0", "P"),
        sop_instance_uid=uid,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        path=f"{digest}.dcm",
        size_bytes=524_288,
        dataset_sha256=digest,
        pixel_sha256=digest,
        header={f"Keyword{index}": [1.0, 2.0, 3.0] for index in range(30)},
    )


def fill(url: str, series: int, chunk: int = 2000) -> None:
    """Rows as years of work leave them, written in bulk."""
    engine = create_engine(url)
    for first in range(0, series, chunk):
        numbers = range(first, min(first + chunk, series))
        with engine.begin() as connection:
            connection.execute(insert(SeriesRow), [_series(number) for number in numbers])
            connection.execute(insert(InstanceRow), [_instance(n, i) for n in numbers for i in range(INSTANCES)])
            connection.execute(insert(JobRow), [_job(number) for number in numbers])
            connection.execute(insert(EventRow), [_event(n, state) for n in numbers for state in EVENTS])
    engine.dispose()


def _series(number: int) -> dict[str, Any]:
    at = START + timedelta(minutes=number)
    return {
        "id": FIRST_ID + number,
        "series_uid": f"1.2.{number}",
        "study_uid": f"1.1.{number // 3}",
        "patient_id": f"P{number}",
        "patient_id_issuer": "",
        "patient_name": "Test^Patient",
        "accession_number": f"A{number // 3}",
        "study_date": "20260101",
        "modality": "CT",
        "description": "Thorax 1.0 B40f",
        "calling_ae": "CT1",
        "peer_address": "192.0.2.7",
        "state": STATES[number * 7919 % len(STATES)],
        "reason": "",
        "completeness": "300 slices at regular distances of 1.00 mm without gap",
        "revision": 1,
        "version": 5,
        "candidate": True,
        "preferred": False,
        "created_at": at,
        "last_instance_at": at,
        "changed_at": at,
    }


def _instance(series: int, number: int) -> dict[str, Any]:
    uid = f"1.2.{series}.{number}"
    digest = sha256(uid.encode()).hexdigest()
    return {
        "series_id": FIRST_ID + series,
        "sop_instance_uid": uid,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "state": InstanceState.CURRENT,
        "path": f"{digest}.dcm",
        "size_bytes": 524_288,
        "dataset_sha256": digest,
        "pixel_sha256": digest,
        "header": {"ImagePositionPatient": [0, 0, number]},
        "received_at": START,
    }


def _job(series: int) -> dict[str, Any]:
    return {
        "series_id": FIRST_ID + series,
        "revision": 1,
        "state": JobState.DONE,
        "attempts": 1,
        "reason": "",
        "report": {"severity_score": 0.1},
        "created_at": START,
        "started_at": START,
        "finished_at": START,
    }


def _event(series: int, state: str) -> dict[str, Any]:
    return {
        "at": START,
        "subject": "series",
        "subject_id": FIRST_ID + series,
        "series_id": FIRST_ID + series,
        "old_state": "",
        "new_state": state,
        "reason": "",
    }


if __name__ == "__main__":
    main()
