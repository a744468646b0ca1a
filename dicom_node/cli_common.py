"""What the commands of `dicomnode` share: options, the console, the ledger beside a running node, completion."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dicom_node import config as configuration
from dicom_node.cli_exit import EXPECTED, Status
from dicom_node.config import AnyDestination, Config
from dicom_node.errors import NodeError, NotFound
from dicom_node.ledger import Ledger

DEFAULT_CONFIG = Path("/etc/dicomnode/config.toml")
CONFIG_VARIABLE = "DICOMNODE_CONFIG"
FAILED, MISUSED = Status.FAILED, Status.MISUSED
PIPED_COLUMNS = 1000  # a line of a table stays a line for grep and awk
COMPLETED = 50  # newest series that the shell offers

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar=CONFIG_VARIABLE, help="config.toml of the node")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for programs")]


def stdout() -> Console:
    """Standard output: tables as wide as the terminal; piped: plain, and no line is folded."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED_COLUMNS
    return console


@contextmanager
def open_ledger(path: Path) -> Iterator[Ledger]:
    """The node's ledger for a command beside a running node; its schema is left as it is."""
    config = configuration.load(path)
    if config.node.database is None and not _has_ledger(config.node.state_dir):
        raise NotFound(f"no ledger in {config.node.state_dir}: `dicomnode serve` has not run with this config")
    with closing(Ledger(config.database_url, migrate=False)) as ledger:
        yield ledger


def _has_ledger(state_dir: Path) -> bool:
    """Whether a node has run here. Raises NodeError where that may not be looked at."""
    try:
        return (state_dir / "ledger.sqlite").is_file()
    except OSError as error:
        raise NodeError(f"{state_dir}: cannot be read: {error.strerror}") from error


def destination_of(config: Config, name: str) -> AnyDestination:
    """A [[destinations]] entry by name. Raises NotFound with the names that exist."""
    for destination in config.destinations:
        if destination.name == name:
            return destination
    known = ", ".join(destination.name for destination in config.destinations) or "none"
    raise NotFound(f"config.toml has no destination {name!r} (known: {known})")


def _completion(offer: Callable[[Path], list[str]]) -> Callable[[typer.Context, str], list[str]]:
    """What the shell offers for an argument; nothing where the config or the ledger cannot be read."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        named = ctx.params.get("config") or os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG
        try:
            return [value for value in offer(Path(named)) if value.startswith(incomplete)]
        except EXPECTED:
            return []

    return complete


def _series(config: Path) -> list[str]:
    with open_ledger(config) as ledger:
        return [record.series_uid for record in ledger.list_series(limit=COMPLETED)]


def _destinations(config: Path) -> list[str]:
    return [destination.name for destination in configuration.load(config).destinations]


def _sources(config: Path) -> list[str]:
    return [source.name for source in configuration.load(config).sources]


SeriesArgument = Annotated[
    str, typer.Argument(metavar="UID", help="SeriesInstanceUID", autocompletion=_completion(_series))
]
DestinationArgument = Annotated[
    str,
    typer.Argument(
        metavar="DEST", help="name of a [[destinations]] entry", autocompletion=_completion(_destinations)
    ),
]
SourceOption = Annotated[
    str,
    typer.Option(
        "--source", metavar="NAME", help="only this [[sources]] entry", autocompletion=_completion(_sources)
    ),
]
