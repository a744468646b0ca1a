"""What the commands of `dicomnode` share: options, exit status, the ledger beside a running node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from dicom_node import config as configuration
from dicom_node.errors import NotFound
from dicom_node.ledger import Ledger

DEFAULT_CONFIG = Path("/etc/dicomnode/config.toml")
FAILED, MISUSED = 1, 2

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="DICOMNODE_CONFIG", help="config.toml of the node")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for programs")]


@contextmanager
def open_ledger(path: Path) -> Iterator[Ledger]:
    """The node's ledger for a command beside a running node; its schema is left as it is."""
    config = configuration.load(path)
    if config.node.database is None and not (config.node.state_dir / "ledger.sqlite").is_file():
        raise NotFound(f"no ledger in {config.node.state_dir}: `dicomnode serve` has not run with this config")
    with closing(Ledger(config.database_url, migrate=False)) as ledger:
        yield ledger
