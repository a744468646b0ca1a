"""`dicomnode pull` and `dicomnode reconcile`: what the sources have, fetched by the running node.

These commands ask the sources themselves, but fetch nothing: they write down what is wanted, and the node, which
alone receives, carries it out, also after a restart. Where it is not running, that is said.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from dicom_node import config as configuration
from dicom_node import console as show
from dicom_node.cli_common import (
    DEFAULT_CONFIG,
    FAILED,
    ConfigOption,
    JsonOption,
    SourceOption,
    open_ledger,
    stdout,
)
from dicom_node.config import Config, Source
from dicom_node.errors import ConfigError, NodeError, NotFound, PermanentError, TransientError
from dicom_node.ledger import Ledger, Retrieval
from dicom_node.states import RetrievalState

if TYPE_CHECKING:  # it brings pynetdicom with it
    from dicom_node.reconcile import ListedSeries

LOOK_EVERY_S = 1.0
DAYS = 7  # that reconcile looks back, unless --since says otherwise


def pull(
    study: Annotated[str, typer.Option(metavar="UID", help="StudyInstanceUID")] = "",
    accession: Annotated[str, typer.Option(metavar="N", help="AccessionNumber")] = "",
    patient: Annotated[str, typer.Option(metavar="ID", help="PatientID, all its studies")] = "",
    issuer: Annotated[str, typer.Option(help="IssuerOfPatientID, where --patient alone names several")] = "",
    source: SourceOption = "",
    wait: Annotated[bool, typer.Option(help="until everything is here or has failed once")] = True,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Fetch every CT series of a study, an accession number or a patient from a source.

    The running node fetches; where none is running, it does so when it is started. Exit status 1 until all is here.

    JSON: running, retrievals.

    Example: dicomnode pull --accession A12345
    """
    from dicom_node import reconcile as archive

    settings = configuration.load(config)
    keys = _keys(study, accession, patient)
    listed, failures = _ask(
        settings, source, lambda peer: archive.listed_series(peer, keys, settings.node.ae_title)
    )
    if issuer:
        listed = [item for item in listed if item.patient_id_issuer == issuer]
    if not listed:
        raise NotFound(failures or f"no CT series of {' '.join(keys.values())} at any source")
    with open_ledger(config) as ledger:
        why = f"a person asked for {' '.join(keys.values())}"
        requested = _request(settings, ledger, listed, why)
        running = _is_running(settings)
        ended = _wait(ledger, requested, settings, quiet=json) if wait and running else requested
    if json:
        typer.echo(show.as_json({"running": running, "retrievals": ended}))
    else:
        _tell(stdout(), ended, running, settings)
    if failures or (wait and any(item.state is not RetrievalState.DONE for item in ended)):
        raise typer.Exit(FAILED)


def reconcile(
    since: Annotated[
        str, typer.Option(metavar="DATE", help="YYYY-MM-DD, or days back as 7d; by StudyDate")
    ] = f"{DAYS}d",
    source: SourceOption = "",
    fetch: Annotated[bool, typer.Option("--pull", help="have the node fetch what it lacks")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """List chest CT that a source has and the node never saw or never finished.

    Exit status 1 where a source could not be asked; findings are none of it.

    JSON: since, listed, findings, requested, running, failures.

    Example: dicomnode reconcile --since 2026-11-01 --pull
    """
    from dicom_node import reconcile as archive

    settings = configuration.load(config)
    first, now = _since(since), datetime.now(UTC)
    listed, failures = _ask(
        settings,
        source,
        lambda peer: archive.listed_since(peer, first, date.today(), settings.node.ae_title),
    )
    with open_ledger(config) as ledger:
        known = ledger.series_known([item.series_uid for item in listed])
        findings = archive.compare(listed, known, settings.completion, now)
        wanted = [finding.series for finding in findings if finding.fetch]
        wanted, left = _no_more_than_allowed(settings, wanted)
        requested = _request(settings, ledger, wanted, f"reconcile since {first}") if fetch else []
    running = _is_running(settings)
    if json:
        answer = {"since": first, "listed": len(listed), "findings": findings, "requested": len(requested)}
        typer.echo(show.as_json({**answer, "running": running, "failures": failures}))
    else:
        show.show_findings(stdout(), findings, len(listed), first)
        _tell_requested(len(requested), left if fetch else 0, running, settings)
    if failures:
        raise typer.Exit(FAILED)


def _keys(study: str, accession: str, patient: str) -> dict[str, str]:
    from dicom_node import query

    given = {"StudyInstanceUID": study, "AccessionNumber": accession, "PatientID": patient}
    keys = {keyword: value.strip() for keyword, value in given.items() if value}
    if len(keys) != 1:
        raise ConfigError("give one of --study, --accession and --patient")
    if not all(map(query.is_exact, keys.values())):
        raise ConfigError("no wildcards: name one study, accession number or patient")
    return keys


def _since(value: str) -> date:
    try:
        if value.endswith("d"):
            return date.today() - timedelta(days=int(value[:-1]))
        return date.fromisoformat(value)
    except (ValueError, OverflowError):
        raise ConfigError(f"--since {value}: give a date as YYYY-MM-DD, or days back as 7d") from None


def _sources(settings: Config, name: str) -> Sequence[Source]:
    found = [source for source in settings.sources if name in ("", source.name)]
    if not settings.sources:
        raise ConfigError("config.toml has no [[sources]]: an archive to ask and to fetch from")
    if not found:
        known = ", ".join(source.name for source in settings.sources)
        raise NotFound(f"config.toml has no source {name!r} (known: {known})")
    return found


def _ask(
    settings: Config, name: str, ask: Callable[[Source], list[ListedSeries]]
) -> tuple[list[ListedSeries], str]:
    """What every source lists, a series once, and why the others could not be asked."""
    from dicom_node import audit

    listed: dict[str, ListedSeries] = {}
    failures = []
    for source in _sources(settings, name):
        try:
            with audit.recording(settings):
                found = ask(source)
            for item in found:
                listed.setdefault(item.series_uid, item)
        except (TransientError, PermanentError) as error:
            failures.append(f"{source.name}: {error}")
            typer.echo(failures[-1], err=True)
    return list(listed.values()), "; ".join(failures)


def _no_more_than_allowed(settings: Config, wanted: Sequence[ListedSeries]) -> tuple[list[ListedSeries], int]:
    """Up to `max_series` of each source, and how many are left for the next time."""
    taken: list[ListedSeries] = []
    for source in settings.sources:
        taken += [item for item in wanted if item.source == source.name][: source.max_series]
    return taken, len(wanted) - len(taken)


def _request(settings: Config, ledger: Ledger, wanted: Sequence[ListedSeries], why: str) -> list[Retrieval]:
    requested: list[Retrieval] = []
    for source in settings.sources:
        mine = [item.wanted for item in wanted if item.source == source.name]
        if len(mine) > source.max_series:
            raise NodeError(
                f"{len(mine)} series are more than sources.max_series of {source.name} ({source.max_series}): ask "
                "for less at a time"
            )
        if mine:
            requested += ledger.request_retrievals(source.name, mine, why, datetime.now(UTC))
    return requested


def _wait(ledger: Ledger, requested: Sequence[Retrieval], settings: Config, quiet: bool) -> list[Retrieval]:
    """Until each has ended, or failed once, or the node has stopped; tells of progress."""
    ids = [item.id for item in requested]
    pause, told = threading.Event(), ""
    while True:
        present = ledger.retrievals(ids)
        open_ones = [item for item in present if item.state is RetrievalState.WAITING and not item.attempts]
        text = (
            f"{sum(item.fetched for item in present)} of {sum(item.wanted for item in present)} instances fetched"
        )
        text += f", {len(present) - len(open_ones)} of {len(present)} series"
        if text != told and not quiet:
            typer.echo(text, err=True)
        told = text
        if not open_ones or not _is_running(settings):
            return present
        pause.wait(LOOK_EVERY_S)


def _tell(console: Console, retrievals: Sequence[Retrieval], running: bool, settings: Config) -> None:
    show.show_retrievals(console, retrievals)
    if not running:
        typer.echo(_not_running(settings), err=True)


def _tell_requested(requested: int, left: int, running: bool, settings: Config) -> None:
    if requested:
        typer.echo(f"{requested} series are being fetched; `dicomnode status` shows them as they come")
        if not running:
            typer.echo(_not_running(settings), err=True)
    if left:
        typer.echo(f"{left} more are left for the next time (sources.max_series)")


def _not_running(settings: Config) -> str:
    return (
        f"no node is running on {settings.node.state_dir}: what was asked for is written down, and fetched when "
        "`dicomnode serve` is started"
    )


def _is_running(settings: Config) -> bool:
    """Whether a node holds the lock of the state folder."""
    path: Path = settings.node.state_dir / "lock"
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
