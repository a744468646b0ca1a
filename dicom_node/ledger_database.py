"""Opening the database: SQLite as it is safe, PostgreSQL with the same guarantees, and the schema up to date.

Writers are serialised on both: SQLite by BEGIN IMMEDIATE, PostgreSQL by one advisory lock for the length of the
transaction. A change may so look at other rows and rely on them until it is committed.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from dicom_node.errors import NodeError, PermanentError, TransientError

log = logging.getLogger(__name__)

WRITER_LOCK = 0x0D1C0D0E  # key of the advisory lock; any number, the same in every release
BUSY_TIMEOUT_MS = 30_000
MIGRATIONS = Path(__file__).parent / "migrations"


def open_engine(url: str) -> Engine:
    """An engine for `url` whose SQLite connections are durable and checked.

    Raises:
        NodeError: the URL is not one of SQLAlchemy's, or its driver is not installed.
    """
    try:
        engine = create_engine(url, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise NodeError(f"the database URL cannot be used: {error}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    elif engine.dialect.name != "postgresql":
        raise NodeError(f"the ledger runs on SQLite or PostgreSQL, not on {engine.dialect.name}")
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    """Per connection; synchronous=FULL because a row may be the only trace of an answered C-STORE."""
    connection.isolation_level = None  # transactions are begun by `_begin`, not by the driver
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection, *, write: bool) -> None:
    """Start the transaction of a fresh connection; a writer waits here for the one before it."""
    sqlite = connection.dialect.name == "sqlite"
    if sqlite:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
    elif write:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})


@contextmanager
def transaction(engine: Engine, *, write: bool) -> Iterator[Session]:
    """One transaction: committed at the end of a writer's block, rolled back on any error.

    Raises:
        TransientError: the database does not answer, is locked for too long, or cannot work for anybody.
        PermanentError: it refuses what it is given.
    """
    try:
        with engine.connect() as connection:
            _begin(connection, write=write)
            with Session(connection, expire_on_commit=False) as session:
                yield session
                if write:
                    session.flush()
                    connection.commit()
    except (DataError, IntegrityError) as error:
        raise PermanentError(f"the database refuses: {error.orig}") from error
    except DBAPIError as error:
        raise TransientError(f"the database does not answer: {error.orig}") from error
    except StatementError as error:  # a value that cannot be bound
        raise PermanentError(f"the database cannot take it: {error.orig or error}") from error


def upgrade(engine: Engine) -> None:
    """Bring the schema to the newest migration, in one transaction. There is no way back but a backup.

    Raises:
        TransientError: the database does not answer.
        NodeError: its schema is not one that this software knows.
    """
    config = _alembic()
    wanted = _head(config)
    with _connected(engine) as connection:
        _begin(connection, write=True)
        found = MigrationContext.configure(connection).get_current_revision()
        if found not in (None, wanted):
            _refuse_unknown(config, found)
            log.warning("bringing the database from schema %s to %s", found, wanted)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def require_current(engine: Engine) -> None:
    """Look whether the schema is that of this software, and change nothing.

    Raises:
        TransientError: the database does not answer.
        NodeError: it is not.
    """
    config = _alembic()
    wanted = _head(config)
    with _connected(engine) as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found is None:
        raise NodeError(
            f"the database has no schema yet, this software needs {wanted}: start `dicomnode serve` once"
        )
    if found != wanted:
        _refuse_unknown(config, found)
        raise NodeError(
            f"the database has schema {found}, this software needs {wanted}: make a backup, because there is no "
            "way back, then start `dicomnode serve`, which upgrades it"
        )


@contextmanager
def _connected(engine: Engine) -> Iterator[Connection]:
    """A connection to look at the schema. Raises TransientError, NodeError with what the database says."""
    try:
        with engine.connect() as connection:
            yield connection
    except OperationalError as error:
        reason = str(error.orig).partition("\n")[0]  # psycopg adds a line for each address that it tried
        raise TransientError(f"the database cannot be opened: {reason}") from error
    except SQLAlchemyError as error:
        raise NodeError(f"the database cannot be opened: {error}") from error


def _refuse_unknown(config: Config, found: str | None) -> None:
    """Raises NodeError where another version of this software has made the schema."""
    try:
        ScriptDirectory.from_config(config).get_revision(found or "base")
    except CommandError as error:
        raise NodeError(
            f"the database has schema {found}, which this software does not know (its own is {_head(config)}): a "
            "newer dicomnode has upgraded it. Install that version again, or restore the backup made before"
        ) from error


def _head(config: Config) -> str | None:
    return ScriptDirectory.from_config(config).get_current_head()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
