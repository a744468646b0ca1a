"""A database of the first released schema, with rows in every table, comes through all migrations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, MetaData, create_engine, func, select, text

from dicom_node import ledger_migration
from dicom_node.errors import NodeError
from dicom_node.ledger import Ledger
from dicom_node.states import DeliveryState, InstanceState, SeriesState
from pipeline.types import ResultKind

FIRST = "0001"
AT = datetime(2026, 10, 1, 12, 0, 0)
UID = "1.2.826.0.1.3680043.8.498"
# In the order of their foreign keys; as version 0.1.0 has written them; every id is 1.
ROWS: dict[str, dict[str, Any]] = {
    "series": {
        "series_uid": f"{UID}.1",
        "study_uid": f"{UID}.0",
        "patient_id": "P1",
        "patient_id_issuer": "HOSPITAL",
        "patient_name": "Doe^Jane",
        "accession_number": "A1",
        "study_date": "20261001",
        "modality": "CT",
        "description": "Thorax",
        "calling_ae": "CT1",
        "peer_address": "10.0.0.5",
        "state": "delivered",
        "reason": "",
        "completeness": "no gaps",
        "revision": 1,
        "version": 7,
        "candidate": True,
        "preferred": False,
        "created_at": AT,
        "last_instance_at": AT,
        "changed_at": AT,
    },
    "event": {
        "at": AT,
        "subject": "series",
        "subject_id": 1,
        "series_id": 1,
        "old_state": "analysed",
        "new_state": "delivered",
        "reason": "",
    },
    "instance": {
        "series_id": 1,
        "sop_instance_uid": f"{UID}.1.1",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "state": "current",
        "path": "ab/1.dcm",
        "size_bytes": 526_000,
        "dataset_sha256": "a" * 64,
        "pixel_sha256": "b" * 64,
        "header": {"PatientID": "P1"},
        "received_at": AT,
    },
    "job": {
        "series_id": 1,
        "revision": 1,
        "state": "done",
        "attempts": 1,
        "reason": "",
        "report": {"severity_score": 0.12},
        "created_at": AT,
        "started_at": AT,
        "finished_at": AT,
    },
    "result": {
        "job_id": 1,
        "source_id": 1,
        "profile": "default",
        "kind": "sr",
        "study_uid": f"{UID}.0",
        "series_uid": f"{UID}.2",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34",
        "sop_instance_uid": f"{UID}.2.1",
        "path": "1/sr.dcm",
        "sha256": "c" * 64,
        "current": True,
    },
    "delivery": {
        "result_id": 1,
        "destination": "pacs",
        "state": "committed",
        "attempts": 1,
        "first_pending_at": AT,
        "next_attempt_at": AT,
        "transaction_uid": f"{UID}.3",
        "reason": "",
        "warning": "",
        "sent_at": AT,
        "asked_at": AT,
        "committed_at": AT,
    },
}


def brought_to(connection: Connection, revision: str) -> None:
    """By the migrations themselves."""
    config = ledger_migration.alembic()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def first(url: str) -> None:
    """The database as the first release left it."""
    engine = create_engine(url)
    with engine.begin() as connection:
        brought_to(connection, FIRST)
        tables = MetaData()
        tables.reflect(connection)
        assert set(ROWS) == set(tables.tables) - {"alembic_version"}
        for name, row in ROWS.items():
            assert {"id", *row} == set(tables.tables[name].columns.keys()), name
            connection.execute(tables.tables[name].insert(), row)
    engine.dispose()


def counts(url: str) -> dict[str, int]:
    """Rows by table."""
    engine = create_engine(url)
    with engine.connect() as connection:
        tables = MetaData()
        tables.reflect(connection)
        found = {
            name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in tables.tables.items()
        }
    engine.dispose()
    return found


def test_rows_of_the_first_schema_are_read_and_worked_on(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    first(database_url)
    with pytest.raises(NodeError, match="schema 0001, this software needs .* make a backup"):
        Ledger(database_url, migrate=False)
    ledger = Ledger(database_url)
    assert "from schema 0001 to" in caplog.text
    (listed,) = ledger.list_series(text="P1")
    details = ledger.details(f"{UID}.1")
    assert listed == details.series
    assert (listed.state, listed.identity.patient_name, listed.revision) == (SeriesState.DELIVERED, "Doe^Jane", 1)
    assert listed.last_instance_at == AT.replace(tzinfo=UTC)
    assert details.instances[InstanceState.CURRENT] == 1
    assert [job.report for job in details.jobs] == [{"severity_score": 0.12}]
    assert [(result.kind, result.current) for result in details.results] == [(ResultKind.SR, True)]
    assert [(each.destination, each.state) for each in details.deliveries] == [("pacs", DeliveryState.COMMITTED)]
    assert [event.new_state for event in details.events] == ["delivered"]
    assert ledger.retry(f"{UID}.1", AT.replace(tzinfo=UTC), ()).state is SeriesState.RECEIVING
    ledger.close()
    assert all(counts(database_url)[name] >= 1 for name in ROWS)


def test_an_older_program_refuses_a_newer_schema_and_says_what_to_do(database_url: str) -> None:
    first(database_url)
    Ledger(database_url).close()
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9000'"))
    engine.dispose()
    for migrate in (True, False):
        with pytest.raises(NodeError, match="schema 9000, which this software does not know .*restore the backup"):
            Ledger(database_url, migrate=migrate)
    assert counts(database_url)["series"] == 1
