"""The schema that the migrations make is the schema of `tables`, on both databases."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from dicom_node import ledger_migration, ledger_schema
from dicom_node.errors import NodeError, TransientError
from dicom_node.ledger import Ledger
from dicom_node.states import SeriesState
from dicom_node.tables import Base


def test_migrations_make_the_schema_of_the_models(database_url: str) -> None:
    Ledger(database_url).close()
    engine = create_engine(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == ledger_schema.HEAD == ledger_schema.revision(connection)
    engine.dispose()


def test_the_newest_migration_is_the_one_that_commands_ask_for() -> None:
    assert ScriptDirectory.from_config(ledger_migration.alembic()).get_heads() == [ledger_schema.HEAD]


def test_the_comparison_sees_a_difference(database_url: str) -> None:
    Ledger(database_url).close()
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_job_running"))
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert [change[0] for change in compare_metadata(context, Base.metadata)] == ["add_index"]
    engine.dispose()


def test_opening_again_keeps_what_is_there(database_url: str) -> None:
    first = Ledger(database_url)
    first.close()
    second = Ledger(database_url)
    assert set(second.counts()) == set(SeriesState)
    second.close()
    Ledger(database_url, migrate=False).close()


def test_a_schema_from_the_future_is_refused(database_url: str) -> None:
    Ledger(database_url).close()
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(NodeError, match="does not know"):
        Ledger(database_url)
    with pytest.raises(NodeError, match="schema 9999"):
        Ledger(database_url, migrate=False)


def test_a_reader_does_not_make_a_schema(database_url: str) -> None:
    with pytest.raises(NodeError, match="no schema yet"):
        Ledger(database_url, migrate=False)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "cannot be used"),
        ("oracle://u@h/x", "cannot be used"),
        ("sqlite:////no/such/folder/ledger.sqlite", "cannot be opened"),
        ("postgresql+psycopg://u@127.0.0.1:1/x?connect_timeout=2", "cannot be opened"),
    ],
)
def test_a_database_that_cannot_be_used_is_named(url: str, says: str) -> None:
    with pytest.raises(NodeError, match=says):
        Ledger(url)


@pytest.mark.parametrize("migrate", [True, False])
def test_a_database_that_refuses_the_connection_may_answer_later(migrate: bool) -> None:
    with pytest.raises(TransientError, match="Connection refused") as told:
        Ledger("postgresql+psycopg://u@127.0.0.1:1/x?connect_timeout=2", migrate=migrate)
    assert "\n" not in str(told.value)
