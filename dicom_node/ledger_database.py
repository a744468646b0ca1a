"""Opening the database: SQLite as it is safe, PostgreSQL with the same guarantees; what a transaction is.

Writers are serialised on both: SQLite by BEGIN IMMEDIATE, PostgreSQL by one advisory lock for the length of the
transaction. A change may so look at other rows and rely on them until it is committed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
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
from sqlalchemy.exc import (
    TimeoutError as PoolTimeoutError,
)
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from dicom_node.errors import ConfigError, NodeError, PermanentError, TransientError

WRITER_LOCK = 0x0D1C0D0E  # key of the advisory lock; any number, the same in every release
BUSY_TIMEOUT_MS = 30_000


def open_engine(url: str, wait_s: int | None = None) -> Engine:
    """An engine for `url` whose SQLite connections are durable and checked.

    Args:
        url: SQLAlchemy's.
        wait_s: how long a server may take to be connected; None is the driver's own limit, some two minutes.

    Raises:
        ConfigError: the URL is not one of SQLAlchemy's, or its driver is not installed.
    """
    try:
        of_server = wait_s is not None and make_url(url).get_backend_name() == "postgresql"
        limit = {"connect_timeout": wait_s} if of_server else {}
        engine = create_engine(url, pool_pre_ping=True, connect_args=limit)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ConfigError(f"node.database: cannot be used: {error}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    elif engine.dialect.name != "postgresql":
        raise ConfigError(f"node.database: the ledger runs on SQLite or PostgreSQL, not on {engine.dialect.name}")
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    """Per connection; synchronous=FULL because a row may be the only trace of an answered C-STORE."""
    connection.isolation_level = None  # transactions are begun by `begin`, not by the driver
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def begin(connection: Connection, *, write: bool) -> None:
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
            begin(connection, write=write)
            with Session(connection, expire_on_commit=False) as session:
                yield session
                if write:
                    session.flush()
                    connection.commit()
    except (DataError, IntegrityError) as error:
        raise PermanentError(f"the database refuses: {error.orig}") from error
    except DBAPIError as error:
        raise TransientError(f"the database does not answer: {error.orig}") from error
    except PoolTimeoutError as error:
        raise TransientError("the database has no connection to spare: too much asks it at once") from error
    except StatementError as error:  # a value that cannot be bound
        raise PermanentError(f"the database cannot take it: {error.orig or error}") from error


class LedgerFile:
    """The file of a SQLite database that was just opened. Removed or replaced, what is written goes nowhere."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened = _identity(path)

    def lost(self) -> str:
        """What happened to it; empty where it is still there, or the disk does not answer."""
        try:
            found = _identity(self._path)
        except OSError:
            return ""
        if found == self._opened:
            return ""
        return f"{self._path.name} was {'removed' if found is None else 'replaced'} while the node ran"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def connected(engine: Engine) -> Iterator[Connection]:
    """A connection to look at the schema. Raises TransientError, NodeError with what the database says."""
    try:
        with engine.connect() as connection:
            yield connection
    except OperationalError as error:
        reason = str(error.orig).partition("\n")[0]  # psycopg adds a line for each address that it tried
        raise TransientError(f"the database cannot be opened: {reason}") from error
    except DBAPIError as error:
        advice = "; see Backup in docs/running.md" if engine.dialect.name == "sqlite" else ""  # its file is damaged
        raise NodeError(f"the database cannot be opened: {error.orig}{advice}") from error
    except SQLAlchemyError as error:
        raise NodeError(f"the database cannot be opened: {error}") from error
