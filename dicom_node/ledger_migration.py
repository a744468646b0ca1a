"""Bringing the schema of a database up to date by the revisions in `migrations`, which Alembic applies."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine

from dicom_node.errors import NodeError
from dicom_node.ledger_database import begin, connected
from dicom_node.ledger_schema import HEAD, revision

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(engine: Engine) -> None:
    """Bring the schema to the newest migration, in one transaction. There is no way back but a backup.

    Raises:
        TransientError: the database does not answer.
        NodeError: its schema is not one that this software knows.
    """
    config = alembic()
    with connected(engine) as connection:
        begin(connection, write=True)
        found = revision(connection)
        if found not in (None, HEAD):
            refuse_unknown(found)
            log.warning("bringing the database from schema %s to %s", found, HEAD)
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)
        connection.commit()


def refuse_unknown(found: str) -> None:
    """Raises NodeError where another version of this software has made the schema."""
    try:
        ScriptDirectory.from_config(alembic()).get_revision(found)
    except CommandError as error:
        raise NodeError(
            f"the database has schema {found}, which this software does not know (its own is {HEAD}): a newer "
            "dicomnode has upgraded it. Install that version again, or restore the backup made before"
        ) from error


def alembic() -> Config:
    """Where the migrations lie."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
