"""Whether the schema of a database is the one of this software: looked up without Alembic, which is slow to load.

Only where it is not, and for `dicomnode serve`, `ledger_migration` is loaded.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine, column, inspect, select, table

from dicom_node.errors import NodeError
from dicom_node.ledger_database import connected

HEAD = "0009"  # the newest revision in `migrations`; a test compares
VERSIONS = table("alembic_version", column("version_num"))  # Alembic's own: one row


def revision(connection: Connection) -> str | None:
    """The revision of a database; None where it has no schema."""
    if not inspect(connection).has_table(VERSIONS.name):
        return None
    return connection.scalar(select(VERSIONS.c.version_num))


def require_current(engine: Engine) -> None:
    """Look whether the schema is that of this software, and change nothing.

    Raises:
        TransientError: the database does not answer.
        NodeError: it is not.
    """
    with connected(engine) as connection:
        found = revision(connection)
    if found == HEAD:
        return
    if found is None:
        raise NodeError(f"the database has no schema yet, this software needs {HEAD}: start `dicomnode serve` once")
    from dicom_node import ledger_migration

    ledger_migration.refuse_unknown(found)
    raise NodeError(
        f"the database has schema {found}, this software needs {HEAD}: make a backup, because there is no "
        "way back, then start `dicomnode serve`, which upgrades it"
    )
