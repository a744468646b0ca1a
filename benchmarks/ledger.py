"""How long the ledger takes when it is full: what people ask, what the node asks, filing and retention.

    python benchmarks/ledger.py [--series 100000] [--instances 3] [--url URL | --postgres] [--folder /on/the/disk]
    python benchmarks/ledger.py --instances 300                   # 30 million instances, about 16 GB

Without ``--url`` a SQLite file, with ``--postgres`` a server of its own is used, in a temporary folder. A database
that is named must be empty; it is kept. Rows of instances are written by the database itself, and their indexes are
built afterwards: 30 million by the ledger's own methods would take hours. Their headers are short (30 bytes instead
of about 900), so that they fit on a disk. Filing is measured before and after, with UIDs that lie between those
that are there. `status` is the command as a person starts it, the start of Python included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, insert, text

from dicom_node import config
from dicom_node.ledger import Ages, Filing, Ledger, SeriesIdentity
from dicom_node.metrics import Metrics
from dicom_node.states import JobState, SeriesState
from dicom_node.tables import InstanceRow, JobRow, SeriesRow
from dicom_node.traffic import Traffic
from tests.fixtures.postgres import BIN, running

START = datetime(2026, 1, 1, tzinfo=UTC)
FIRST_ID = 10_000_000  # of rows written with their ids: far from those that PostgreSQL counts up itself
# Of a hospital's ledger: nearly all are over.
STATES = [SeriesState.DELIVERED] * 60 + [SeriesState.NOT_ANALYSED] * 35 + [SeriesState.FAILED] * 4
CHUNK = 2000  # series in one transaction


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--instances", type=int, default=3, help="of each series")
    parser.add_argument("--url")
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--folder", type=Path, help="for the database file")
    arguments = parser.parse_args()
    with database(arguments) as url, tempfile.TemporaryDirectory() as state_dir:
        ledger = Ledger(url)
        numbers = count(1)
        print(f"{'file 300 new instances into an empty ledger':44s} {filing_ms(ledger, numbers):9.2f} ms")
        began = time.perf_counter()
        fill(url, arguments.series, arguments.instances)
        rows = arguments.series * arguments.instances
        print(f"{arguments.series} series, {rows} instances filled in {time.perf_counter() - began:.0f} s\n")
        for name, call in questions(ledger, arguments.series, Path(state_dir)):
            print(f"{name:44s} {median_ms(call):9.2f} ms", flush=True)
        print(f"{'file 300 new instances, one transaction':44s} {filing_ms(ledger, numbers):9.2f} ms")
        print(f"{'`dicomnode status --json`, the whole command':44s} {status_ms(url):9.2f} ms")
        ledger.close()


@contextmanager
def database(arguments: argparse.Namespace) -> Iterator[str]:
    """The URL of an empty one, as the command line wants it."""
    if arguments.url:
        yield arguments.url
    elif arguments.postgres:
        with running(f"{BIN}/initdb", f"{BIN}/pg_ctl", "max_wal_size=4GB", "maintenance_work_mem=512MB") as server:
            server.run("CREATE DATABASE bench")
            yield server.url("bench")
    else:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            yield f"sqlite:///{Path(folder) / 'ledger.sqlite'}"


def median_ms(call: Callable[[], Any], times: int = 7) -> float:
    """Median duration; the first call, which compiles the query, is left out."""
    call()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def questions(ledger: Ledger, series: int, state_dir: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
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
    yield "GET /metrics, all of it", metrics(ledger, state_dir).exposition
    nothing, old = Ages(START, START), Ages(START + timedelta(days=1), START + timedelta(days=1))
    yield "nothing to purge (each look)", lambda: ledger.purgeable(nothing, 50)
    yield "the 50 series to purge first", lambda: ledger.purgeable(old, 50)


def metrics(ledger: Ledger, state_dir: Path) -> Metrics:
    """The figures of a node with one destination and one source; the first look reads what has happened."""
    for name in ("incoming", "quarantine"):
        (state_dir / name).mkdir()
    peer = {"name": "pacs", "ae_title": "PACS", "host": "pacs", "port": 104}
    settings = config.parse({"node": {"state_dir": str(state_dir)}, "destinations": [peer], "sources": [peer]})
    found = Metrics(settings, ledger, Nobody(), list, lambda: datetime.now(UTC))
    found.begin()
    return found


class Nobody:
    """Reception where nobody calls."""

    traffic = Traffic()
    open_associations = 0


def filing_ms(ledger: Ledger, numbers: Iterator[int]) -> float:
    """A batch as reception files it, each time another series."""

    def file() -> None:
        series_uid = f"1.2.{FIRST_ID + 9973 * next(numbers)}.7"
        ledger.file_instances([_filing(series_uid, number) for number in range(300)], START)

    return median_ms(file, 5)


def status_ms(url: str) -> float:
    """`dicomnode status` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_text(f"[node]\nstate_dir = {json.dumps(folder)}\ndatabase = {json.dumps(url)}\n")
        command = [str(Path(sys.executable).with_name("dicomnode")), "status", "--json", "--config", str(path)]
        return median_ms(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), 5)


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


def fill(url: str, series: int, instances: int) -> None:
    """Rows as years of work leave them."""
    engine = create_engine(url)
    for first in range(0, series, CHUNK):
        numbers = range(first, min(first + CHUNK, series))
        with engine.begin() as connection:
            connection.execute(insert(SeriesRow), [_series(number) for number in numbers])
            connection.execute(insert(JobRow), [_job(number) for number in numbers])
    with _bulk(engine) as connection:
        for first in range(0, series, CHUNK):
            last = min(first + CHUNK, series)
            _instances(connection, first * instances, last * instances, instances)
            connection.commit()
        for statement in (EVENTS, RESULTS, DELIVERIES):
            connection.execute(text(statement))
            connection.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    engine.dispose()


@contextmanager
def _bulk(engine: Engine) -> Iterator[Connection]:
    """A connection that checks no foreign keys and keeps no indexes of instances, which are built in the end."""
    postgres = engine.dialect.name == "postgresql"
    indexes = list(InstanceRow.__table__.indexes)  # type: ignore[attr-defined]  # a Table
    with engine.connect() as connection:
        for statement in POSTGRES_BULK if postgres else SQLITE_BULK:
            connection.execute(text(statement))
        for index in indexes:
            index.drop(connection)
        connection.commit()
        yield connection
        if postgres:
            connection.execute(text(f"ALTER TABLE instance ADD CONSTRAINT {UNIQUE} UNIQUE ({UNIQUE_COLUMNS})"))
        for index in indexes:
            index.create(connection)
        connection.commit()


UNIQUE, UNIQUE_COLUMNS = "uq_instance_sop_instance_uid_dataset_sha256", "sop_instance_uid, dataset_sha256"
POSTGRES_BULK = ("SET session_replication_role = replica", f"ALTER TABLE instance DROP CONSTRAINT {UNIQUE}")
SQLITE_BULK = ("PRAGMA synchronous = OFF", "PRAGMA cache_size = -500000")
EVENTS = """
    INSERT INTO event (at, subject, subject_id, series_id, old_state, new_state, reason)
    SELECT created_at, 'series', id, id, '', steps.step, ''
    FROM series CROSS JOIN (SELECT 'receiving' AS step UNION ALL SELECT 'complete' UNION ALL SELECT 'queued'
                            UNION ALL SELECT 'analysed' UNION ALL SELECT 'delivered') AS steps"""
RESULTS = """
    INSERT INTO result (job_id, source_id, profile, kind, study_uid, series_uid, sop_class_uid, sop_instance_uid,
                        path, sha256, current)
    SELECT job.id, job.series_id, 'default', kinds.kind, '1.1.1', '1.1.2', '1.2.840.10008.5.1.4.1.1.88.34',
           '1.9.' || job.id || '.' || kinds.number, job.id || '/0001/default/' || kinds.kind,
           '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef', true
    FROM job CROSS JOIN (SELECT 'lesions' AS kind, 1 AS number UNION ALL SELECT 'picture', 2
                         UNION ALL SELECT 'sr', 3) AS kinds"""
DELIVERIES = """
    INSERT INTO delivery (result_id, destination, state, attempts, first_pending_at, next_attempt_at,
                          transaction_uid, reason, warning, sent_at, asked_at, committed_at)
    SELECT result.id, 'pacs', 'committed', 1, job.created_at, job.created_at, '1.8.' || result.job_id, '', '',
           job.created_at, job.created_at, job.created_at
    FROM result JOIN job ON job.id = result.job_id"""


def _instances(connection: Connection, first: int, last: int, each: int) -> None:
    """Rows of instances, made by the database."""
    head, numbers, digest = SERIES_OF_NUMBERS[connection.dialect.name]
    statement = f"""
        INSERT INTO instance (series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, state, path,
                              size_bytes, dataset_sha256, pixel_sha256, header, received_at)
        {head}
        SELECT {FIRST_ID} + x / {each}, '1.2.' || ({FIRST_ID} + x / {each}) || '.' || (1000 + x % {each}),
               '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2.1', 'current',
               'ab/0123456789abcdef0123456789abcdef/' || ({FIRST_ID} + x) || '-0123456789abcdef.dcm', 524288,
               {digest}, {digest}, CAST(:header AS json), CAST(:at AS timestamp)
        FROM {numbers}"""
    if connection.dialect.name == "sqlite":
        statement = statement.replace("CAST(:header AS json)", ":header").replace("CAST(:at AS timestamp)", ":at")
    values = {"first": first, "last": last, "header": '{"InstanceNumber": 1}', "at": "2026-01-01 00:00:00.000000"}
    connection.execute(text(statement), values)


SERIES_OF_NUMBERS = {
    "postgresql": (
        "",
        "generate_series(:first, :last - 1) AS n(x)",
        "md5(CAST(x AS text)) || md5(CAST(x + 1 AS text))",
    ),
    "sqlite": (
        "WITH RECURSIVE n(x) AS (VALUES(:first) UNION ALL SELECT x + 1 FROM n WHERE x + 1 < :last)",
        "n",
        "lower(hex(randomblob(32)))",
    ),
}


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


if __name__ == "__main__":
    main()
