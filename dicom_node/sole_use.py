"""One node per PostgreSQL database: an advisory lock, held for as long as a session of its own lives.

A node that was cloned, or a second one that was given a copy of config.toml, would take the jobs and deliveries of
the first, whose files it does not have. SQLite needs none of this: its file lies in the locked state folder.

The server frees the lock: at once where the process ends, and within a minute, as it asks after the session, where
the machine or the network is gone.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, RowMapping, make_url, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from dicom_node.errors import NodeError
from dicom_node.ledger_database import connected, open_engine

NODE_LOCK = 0x0D1C0D0F  # key of the advisory lock; any number below 2³¹, the same in every release
NOT_AVAILABLE = "55P03"  # SQLSTATE lock_not_available
WAIT_MS = 5_000  # at the start, for the session of a node that has just ended
CONNECT_S = 10
LOOK_EVERY_S = 5.0
LOST_AFTER_S = 120.0  # longer than the server needs to find that a session of this node itself is cut off
SESSION = {
    "lock_timeout": WAIT_MS,
    "tcp_keepalives_idle": 30,
    "tcp_keepalives_interval": 10,
    "tcp_keepalives_count": 3,
}
CLIENT = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",  # ms
}
HOLDER = text(
    "SELECT application_name, client_addr, backend_start FROM pg_stat_activity JOIN pg_locks USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = :key AND objsubid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class SoleUse:
    """A database that this process alone serves from; `look` must be called again and again."""

    def __init__(self, url: str, name: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Args: `url`, of PostgreSQL. `name`: what another node is told about this one."""
        self._engine = open_engine(_watchful(url), CONNECT_S)
        self._name = name
        self._monotonic = monotonic
        self._session: Connection | None = None  # has the lock
        self._open = ExitStack()  # closes it
        self._refused_since: float | None = None
        self._lost = ""

    def take(self) -> None:
        """At the start. Raises TransientError: the database is away; NodeError: another node has it."""
        if holder := self._hold():
            raise NodeError(
                f"node.database: {holder} uses this database; each node needs one of its own. "
                "If that node is gone, try again in a minute"
            )

    def look(self) -> None:
        """Take the lock again where the session was cut: the server was restarted, or the network was away."""
        try:
            if self._session is not None:
                self._session.execute(text("SELECT 1"))
                return
        except SQLAlchemyError:
            self._drop()
        try:
            holder = self._hold()
        except NodeError:  # the database is away, for every node
            self._refused_since = None
            return
        if not holder:
            self._refused_since = None
            return
        now = self._monotonic()
        self._refused_since = now if self._refused_since is None else self._refused_since
        if now - self._refused_since >= LOST_AFTER_S:
            self._lost = f"{holder} has taken the database"

    def lost(self) -> str:
        """Which node has taken the database meanwhile; empty where none has."""
        return self._lost

    def release(self) -> None:
        """Let the next node have it."""
        self._drop()
        self._engine.dispose()

    def _hold(self) -> str:
        """Open a session and have it take the lock; the node that has the lock already, or an empty text."""
        with ExitStack() as stack:
            session = stack.enter_context(connected(self._engine)).execution_options(isolation_level="AUTOCOMMIT")
            for name, value in {**SESSION, "application_name": self._name}.items():
                session.execute(
                    text("SELECT set_config(:name, :value, false)"), {"name": name, "value": str(value)}
                )
            try:
                session.execute(text("SELECT pg_advisory_lock(:key)"), {"key": NODE_LOCK})
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", "") != NOT_AVAILABLE:
                    raise
                return _told(session.execute(HOLDER, {"key": NODE_LOCK}).mappings().first())
            self._session, self._open = session, stack.pop_all()
        return ""

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(SQLAlchemyError):  # of one that is cut off already
                session.invalidate()  # closed, not given back to the pool: the lock would stay
                self._open.close()


def _watchful(url: str) -> str:
    """The URL with which libpq finds within a minute that the network is gone; else that takes 15 minutes."""
    told = make_url(url).update_query_dict(CLIENT)
    return told.render_as_string(hide_password=False)


def _told(row: RowMapping | None) -> str:
    if row is None:  # it has gone in this moment
        return "another node"
    # PostgreSQL tells roles little of each other's sessions.
    name, address, since = (row[column] for column in ("application_name", "client_addr", "backend_start"))
    told = f"{name or 'another node'}{f' at {address}' if address else ''}"
    return f"{told} (since {since:%Y-%m-%d %H:%M %Z})" if since else told


@contextmanager
def sole_use(url: str, state_dir: Path) -> Iterator[Callable[[], str]]:
    """Hold the ledger against other nodes; gives what tells whether another has taken it meanwhile.

    Raises:
        NodeError: another node serves from this database, or it is away.
    """
    if make_url(url).get_backend_name() != "postgresql":
        yield lambda: ""
        return
    use, stop = SoleUse(url, f"dicomnode on {socket.gethostname()}, {state_dir}"), threading.Event()

    def watch() -> None:
        while not stop.wait(LOOK_EVERY_S):
            use.look()

    thread = threading.Thread(target=watch, name="sole use", daemon=True)
    try:
        use.take()
        thread.start()
        yield use.lost
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join(CONNECT_S)
        use.release()
