"""What is wrong beside the syntax of config.toml: folders, weights, model, database. Looks, changes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from dicom_node import certificates
from dicom_node.config import Config
from dicom_node.config_base import locate, read_secret
from dicom_node.config_notify import Webhook
from dicom_node.errors import ConfigError, NodeError
from dicom_node.ledger_database import connected, open_engine
from dicom_node.ledger_schema import revision
from dicom_node.web.passwords import read_users
from pipeline import lungs, package
from pipeline.errors import PipelineError

SQLITE_FILES = ("", "-wal", "-shm", "-journal")  # SQLite's own, by what follows the name; no copies beside them
LOOK_S = 10  # for a database server to answer: the start waits for this look


def faults(config: Config) -> list[str]:
    """Every fault as "TOML path: what is wrong, what to do"."""
    return [*file_faults(config), *_database(config)]


def file_faults(config: Config) -> list[str]:
    """Those that do not pass by themselves: folders, certificates, secrets, model, weights, a ledger that is gone.

    A database server that does not answer is none of them.
    """
    return [
        *_state_folder(config.node.state_dir),
        *_unwritable_ledger(config),
        *_ledger(config),
        *certificates.faults(config, datetime.now(UTC)),
        *_secrets(config),
        *_webhooks(config),
        *_users(config),
        *_model(config),
        *_weights(config),
    ]


def _state_folder(state_dir: Path) -> Iterator[str]:
    existing = next(folder for folder in (state_dir, *state_dir.parents) if folder.exists())
    if not existing.is_dir():
        yield f"node.state_dir: {existing} is not a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"node.state_dir: {existing} cannot be written by this user; give it to the service's user"


def _unwritable_ledger(config: Config) -> Iterator[str]:
    """SQLite's files, of which root may have made some that the service's user cannot write."""
    file = config.ledger_file
    for path in [file.with_name(file.name + suffix) for suffix in SQLITE_FILES] if file is not None else ():
        # asked in this order: another command that ends takes -wal and -shm away
        if not os.access(path, os.W_OK) and path.exists():
            yield f"node.state_dir: {path} cannot be written by this user; give it to the service's user"


def _ledger(config: Config) -> Iterator[str]:
    """A database without our tables beside files that some ledger knew: a new one would forget them in silence."""
    state_dir = config.node.state_dir
    known = [name for name in ("archive", "results") if _holds_files(state_dir / name)]
    if not known or not _is_new(config):
        return
    where = state_dir / "ledger.sqlite" if config.node.database is None else "node.database"
    yield (
        f"node.state_dir: {' and '.join(known)} in {state_dir} hold files, but the ledger that knew them is not in "
        f"{where}: put it back from a backup, or correct node.database. Where there is no backup, move these "
        "folders away and have the series sent again (docs/running.md, Backup)"
    )


def _holds_files(folder: Path) -> bool:
    try:
        return any(path.is_file() for path in folder.rglob("*"))
    except OSError:  # another fault
        return False


def _is_new(config: Config) -> bool:
    """Whether the database has no tables of a ledger; False where it does not answer, which may pass by itself."""
    try:
        file = config.ledger_file
        if file is not None and not (file.is_file() and file.stat().st_size):
            return True  # not opened: that would make one
        engine = open_engine(config.database_url, LOOK_S)
        try:
            with connected(engine) as connection:
                return revision(connection) is None
        finally:
            engine.dispose()
    except (NodeError, OSError):
        return False


def _database(config: Config) -> Iterator[str]:
    if config.node.database is None:
        return  # made in the state folder when the node starts
    try:
        engine = open_engine(config.database_url)
        with closing(engine.connect()):  # its tables are made or brought up to date when the node starts
            pass
    except ConfigError as error:
        yield str(error)
    except (NodeError, SQLAlchemyError) as error:
        yield f"node.database: {str(error).splitlines()[0]}"


def _model(config: Config) -> Iterator[str]:
    try:
        package.load(config.analysis.model)
    except PipelineError as error:
        yield f"analysis.model: {error}"


def _weights(config: Config) -> Iterator[str]:
    if config.lungs.weights is None:
        return
    try:
        lungs.check_weights(config.lungs.weights)
    except PipelineError as error:
        yield f"lungs.weights: {error}"


def _users(config: Config) -> Iterator[str]:
    """Who may log in at the status page."""
    path = config.web.users_file
    if path is None or not config.web.enabled:
        return
    try:
        read_users(path)
        if locate(path).stat().st_mode & stat.S_IROTH:
            yield f"web.users_file: everybody can read {path}: chmod 0640, owner root, group of the service's user"
    except ConfigError as error:
        yield f"web.users_file: {error}"


def _secrets(config: Config) -> Iterator[str]:
    tables = (("destinations", config.destinations), ("notifications", config.notifications))
    for where, number, table in ((name, number, one) for name, found in tables for number, one in enumerate(found)):
        for key in ("password_file", "token_file"):
            path = getattr(table, key, None)
            try:
                if path is not None:
                    read_secret(path)
            except ConfigError as error:
                yield f"{where}[{number}].{key}: {error}"


def _webhooks(config: Config) -> Iterator[str]:
    for number, channel in enumerate(config.notifications):
        try:
            if isinstance(channel, Webhook):
                channel.located()
        except ConfigError as error:
            yield f"notifications[{number}].url_file: {error}"
