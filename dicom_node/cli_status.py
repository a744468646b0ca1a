"""What the ledger has, and what is asked of it: `status`, `show`, `retry`, `retry-failed`, `cancel`, `purge`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from dicom_node import certificates, cli_exit, redo
from dicom_node import config as configuration
from dicom_node import console as show
from dicom_node.certificates import KEEPS_OLD
from dicom_node.cli_common import DEFAULT_CONFIG, ConfigOption, JsonOption, SeriesArgument, open_ledger, stdout
from dicom_node.clock import utc_now
from dicom_node.errors import IllegalTransition, TransientError
from dicom_node.ledger import SeriesRecord
from dicom_node.ledger_writer import RECALL_REMEDY
from dicom_node.result_file import Quarantine
from dicom_node.retention import LOW_DISK, Disk, Retention
from dicom_node.spool import Spool
from dicom_node.states import SeriesState


@dataclass(frozen=True)
class Overview:
    """The answer of `dicomnode status`.

    Attributes:
        quarantine: received files and result objects that were set aside.
        tls_faults: why the listener keeps certificates that it has read before.
        untold: notifications that were not taken so far, with the reason.
    """

    counts: dict[SeriesState, int]
    series: list[SeriesRecord]
    quarantine: Quarantine
    disk: Disk
    expiring: list[str]
    tls_faults: list[str]
    untold: list[str]

    def as_json(self) -> dict[str, object]:
        """For programs."""
        free, reserve = self.disk.free_bytes, self.disk.reserve_bytes
        return {
            "counts": self.counts,
            "series": self.series,
            "set_aside": self.quarantine.received,
            "kept_back": self.quarantine.results,
            "disk": {"free_bytes": free, "reserve_bytes": reserve, "low": self.disk.low},
            "expiring": self.expiring,
            "tls_faults": self.tls_faults,
            "untold": self.untold,
        }

    def remarks(self) -> list[str]:
        """What a person has to look at, a sentence each."""
        said = [f"THE DISK IS LOW ({self.disk}): {LOW_DISK}"] if self.disk.low else []
        said += [f"Renew soon: {warning}" for warning in self.expiring]
        said += [f"{KEEPS_OLD}: {fault}" for fault in self.tls_faults]
        said += [f"A notification waits: {reason}" for reason in self.untold]
        return said + self.quarantine.remarks()


def _disk(settings: configuration.Config) -> Disk:
    """The disk at present. Raises TransientError where it does not answer: there may be a ledger without it."""
    try:
        return Disk.of(settings)
    except OSError as error:
        raise TransientError(f"{settings.node.state_dir}: the disk does not answer: {error.strerror}") from error


def overview(config: Path, text: str, states: Collection[SeriesState], limit: int) -> Overview:
    """What stands where at present."""
    with open_ledger(config) as ledger:
        counts = ledger.counts()
        series = ledger.list_series(states=states, text=text, limit=limit)
        held_up = ledger.held_up([one.id for one in series if one.state is SeriesState.ANALYSED])
        series = [replace(one, reason=one.reason or held_up.get(one.id, "")) for one in series]
        waiting = ledger.undelivered_notices()
    settings = configuration.load(config)
    kinds = {channel.name: channel.kinds for channel in settings.notifications}
    untold = [f"{one.channel}: {one.error}" for one in waiting if one.kind in kinds.get(one.channel, ())]
    return Overview(
        counts=counts,
        series=series,
        quarantine=Quarantine.of(settings.node.state_dir),
        disk=_disk(settings),
        expiring=certificates.expiring(settings, utc_now()),
        tls_faults=certificates.not_in_use(settings),
        untold=untold,
    )


def status(
    text: Annotated[str, typer.Argument(help="patient ID, accession number, study or series UID")] = "",
    state: Annotated[list[SeriesState] | None, typer.Option(help="only series in this state")] = None,
    limit: Annotated[int, typer.Option(min=1, help="at most so many series")] = 30,
    watch: Annotated[bool, typer.Option("--watch", help="again and again, until Ctrl-C")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="seconds between two looks of --watch")] = 5.0,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Every series with its state and the reason for it, newest first.

    With --watch a terminal shows the table in place; a pipe gets one table, or one line of JSON, after the other. A
    database that does not answer is told and does not end it.

    JSON: counts, series, set_aside, kept_back, disk, expiring, tls_faults, untold.

    Example: dicomnode status --state failed

    Example: dicomnode status --watch --every 10
    """

    def look() -> Overview:
        return overview(config, text, state or (), limit)

    if not watch:
        _print(stdout(), look(), json)
        return
    console, pause = stdout(), threading.Event()
    try:
        follow(console, look, json, lambda: pause.wait(every))
    except KeyboardInterrupt:
        return  # that is how it ends


def _print(console: Console, seen: Overview, json: bool, indent: int | None = 2) -> None:
    if json:
        typer.echo(show.as_json(seen.as_json(), indent))
    else:
        console.print(show.status_view(seen.counts, seen.series, seen.remarks()))


def follow(console: Console, look: Callable[[], Overview], json: bool, pause: Callable[[], bool]) -> None:
    """Show `look()` until `pause()` says that it is enough: in place on a terminal, else one by one.

    What may pass by itself is told, and looked past.
    """
    if json or not console.is_terminal:
        while True:
            try:
                _print(console, look(), json, indent=None)
            except TransientError as error:
                typer.echo(error, err=True)
                if json:
                    typer.echo(cli_exit.as_json(error, str(error), indent=None))
            if pause():
                return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            title = f"{datetime.now():%Y-%m-%d %H:%M:%S}, Ctrl-C ends"
            view: RenderableType
            try:
                seen = look()
                view = show.status_view(seen.counts, seen.series, [*seen.remarks(), title])
            except TransientError as error:
                view = Text(f"{error}\n\n{title}")
            live.update(view, refresh=True)
            if pause():
                return


def show_series(uid: SeriesArgument, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """One series: scores, results, deliveries and its whole story.

    JSON: series, instances, jobs, results, deliveries, retrievals, events.

    Example: dicomnode show 1.2.826.0.1.3680043.8.498.1
    """
    with open_ledger(config) as ledger:
        details = ledger.details(uid)
    if json:
        typer.echo(show.as_json(details))
    else:
        show.show_series(stdout(), details)


def retry(uid: SeriesArgument, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Do again what ended badly: deliveries that failed; else, or where file or destination is gone, the analysis.

    JSON: the series as it stands then, with the keys of an entry of `series` of `dicomnode status --json`.

    Example: dicomnode retry 1.2.826.0.1.3680043.8.498.1
    """
    settings = configuration.load(config)
    with open_ledger(config) as ledger:
        record = redo.retry(ledger, settings, uid, utc_now())
    _tell(record, json)


def retry_failed(
    reason: Annotated[str, typer.Option(help="only where the reason contains this, in upper or lower case")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say which, and leave them")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """`dicomnode retry` for every series that has failed: after an outage, when its cause is put right.

    JSON: dry_run, series, refused.

    Example: dicomnode retry-failed --reason "not delivered to pacs" --dry-run
    """
    settings = configuration.load(config)
    done, refused = list[SeriesRecord](), list[str]()
    with open_ledger(config) as ledger:
        failed = ledger.list_series(states=(SeriesState.FAILED,), limit=None)
        for series in (one for one in failed if reason.casefold() in one.reason.casefold()):
            if RECALL_REMEDY in series.reason:  # `retry` refuses it
                refused.append(f"series {series.series_uid} is left as it is: {series.reason}")
                continue
            try:
                done.append(series if dry_run else redo.retry(ledger, settings, series.series_uid, utc_now()))
            except IllegalTransition as error:  # it is not failed any more: somebody was faster
                refused.append(str(error))
    if json:
        typer.echo(show.as_json({"dry_run": dry_run, "series": done, "refused": refused}))
        return
    for record in done:
        _tell(record, json)
    for sentence in refused:
        typer.echo(sentence)
    typer.echo(f"{len(done)} series {'would be' if dry_run else 'are'} done again")


def cancel(uid: SeriesArgument, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Stop the analysis of a series and what is not delivered yet.

    JSON: the series as it stands then, with the keys of an entry of `series` of `dicomnode status --json`.

    Example: dicomnode cancel 1.2.826.0.1.3680043.8.498.1
    """
    with open_ledger(config) as ledger:
        record = ledger.cancel(uid, utc_now())
    _tell(record, json)


def _tell(record: SeriesRecord, json: bool) -> None:
    typer.echo(show.as_json(record) if json else f"{record.series_uid}: {record.state} {record.reason}".rstrip())


def purge(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go, and leave it")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Remove files whose time by [retention] is over; never of what is not delivered and committed.

    JSON: dry_run, series, audit.

    Example: dicomnode purge --dry-run
    """
    settings = configuration.load(config)
    with open_ledger(config) as ledger:
        retention = Retention(settings, ledger, Spool(settings.node.state_dir))
        now = utc_now()
        purged = retention.due(now) if dry_run else retention.purge(now)
        audit = retention.audit_due(now) if dry_run else retention.purge_audit(now)
    if json:
        typer.echo(show.as_json({"dry_run": dry_run, "series": purged, "audit": [path.name for path in audit]}))
    else:
        show.show_purged(stdout(), purged, dry_run)
        if audit:
            stdout().print(f"{len(audit)} file(s) of the audit trail {'would go' if dry_run else 'are gone'}")
