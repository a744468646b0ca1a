"""The `dicomnode` program. Each command is a few lines: it reads the config, asks one room, shows the answer.

Exit status: 0 done, 1 it did not work (the reason is on standard error), 2 wrong use or wrong config.
Heavy modules are imported inside the commands that need them, so that `status` answers at once.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dicom_node import certificates, cli_doctor, cli_sources, resources
from dicom_node import config as configuration
from dicom_node import console as show
from dicom_node.cli_common import DEFAULT_CONFIG, FAILED, MISUSED, ConfigOption, JsonOption, open_ledger
from dicom_node.config import AnyDestination, Config
from dicom_node.errors import ConfigError, NodeError, NotFound
from dicom_node.result_file import PREFIX, damaged
from dicom_node.retention import LOW_DISK, Disk, Retention
from dicom_node.spool import REASON_SUFFIX, Spool
from dicom_node.states import SeriesState
from pipeline import RESEARCH_USE_ONLY, __version__
from pipeline.errors import PipelineError

app = typer.Typer(
    name="dicomnode",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=f"Chest CT in, SEG, SR and a picture back to the PACS. {RESEARCH_USE_ONLY}.",
)
models_app = typer.Typer(no_args_is_help=True, help="Model packages: list, show, install.")
app.add_typer(models_app, name="models")

SeriesArgument = Annotated[str, typer.Argument(metavar="UID", help="SeriesInstanceUID")]
DestinationArgument = Annotated[str, typer.Argument(metavar="DEST", help="name of a [[destinations]] entry")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dicomnode {__version__}. {RESEARCH_USE_ONLY}.")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Options that stand before a command."""


def _destination(config: Config, name: str) -> AnyDestination:
    for destination in config.destinations:
        if destination.name == name:
            return destination
    known = ", ".join(destination.name for destination in config.destinations) or "none"
    raise NotFound(f"config.toml has no destination {name!r} (known: {known})")


@app.command()
def serve(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the node until SIGTERM or SIGINT."""
    from dicom_node import service

    service.run(configuration.load(config))


@app.command()
def process(
    folder: Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option("--out", help="folder for the results")],
    series: Annotated[str, typer.Option(help="SeriesInstanceUID, where the folder holds several")] = "",
    model: Annotated[Path | None, typer.Option(help="model package; default: the one that is installed")] = None,
    lung_weights: Annotated[Path | None, typer.Option(help="lungmask R231 weights")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N")] = "auto",
    json: JsonOption = False,
) -> None:
    """Analyse one series of a folder, without any server.

    Example: dicomnode process /data/ct --out /data/results
    """
    from pipeline import run
    from pipeline.types import PipelineSettings, Profile

    found = run.series_in(folder)
    if series and series not in found:
        raise NotFound(f"{folder} holds no series {series}; it holds: {', '.join(found)}")
    if not series and len(found) > 1:
        raise ConfigError(f"{folder} holds {len(found)} series; choose one with --series: {', '.join(found)}")
    files = found[series] if series else next(iter(found.values()))
    settings = PipelineSettings(model=model, lung_weights=lung_weights, device=device)
    result = run.process_folder(files, out, settings, Profile(), datetime.now().astimezone())
    if json:
        typer.echo(show.as_json(result.report))
        return
    console = Console()
    show.show_report(console, result.report)
    console.print(f"  {len(result.objects)} objects, picture.png and result.json in {out}", highlight=False)


@app.command()
def status(
    text: Annotated[str, typer.Argument(help="patient ID, accession number, study or series UID")] = "",
    state: Annotated[list[SeriesState] | None, typer.Option(help="only series in this state")] = None,
    limit: Annotated[int, typer.Option(min=1, help="at most so many series")] = 30,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Every series with its state and the reason for it, newest first."""
    with open_ledger(config) as ledger:
        counts = ledger.counts()
        series = ledger.list_series(states=state or (), text=text, limit=limit)
    settings = configuration.load(config)
    quarantine = settings.node.state_dir / "quarantine"
    reasons = [path.name for path in quarantine.glob(f"*{REASON_SUFFIX}")]
    kept_back = sum(name.startswith(PREFIX) for name in reasons)
    set_aside = len(reasons) - kept_back
    disk = Disk.of(settings)
    expiring = certificates.expiring(settings, datetime.now(UTC))
    if json:
        told = {"free_bytes": disk.free_bytes, "reserve_bytes": disk.reserve_bytes, "low": disk.low}
        told_all = {"counts": counts, "series": series, "set_aside": set_aside, "kept_back": kept_back}
        typer.echo(show.as_json({**told_all, "disk": told, "expiring": expiring}))
        return
    show.show_status(Console(), counts, series)
    if disk.low:
        typer.echo(f"THE DISK IS LOW ({disk}): {LOW_DISK}")
    for warning in expiring:
        typer.echo(f"Renew soon: {warning}")
    if set_aside:
        typer.echo(f"{set_aside} received file(s) could not be read; each lies with its reason in {quarantine}")
    if kept_back:
        typer.echo(f"{kept_back} result object(s) failed a check and were not sent; they lie in {quarantine}")


@app.command("show")
def show_series(uid: SeriesArgument, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """One series: scores, results, deliveries and its whole story."""
    with open_ledger(config) as ledger:
        details = ledger.details(uid)
    if json:
        typer.echo(show.as_json(details))
    else:
        show.show_series(Console(), details)


@app.command()
def retry(uid: SeriesArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Do again what ended badly: deliveries that failed, else the analysis; also where a result file is damaged."""
    results = configuration.load(config).node.state_dir / "results"
    with open_ledger(config) as ledger:
        lost = damaged(ledger.details(uid).results, results)
        record = ledger.retry(uid, datetime.now(UTC), lost)
    typer.echo(f"{uid}: {record.state} {record.reason}".rstrip())


@app.command()
def cancel(uid: SeriesArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Stop the analysis of a series and what is not delivered yet."""
    with open_ledger(config) as ledger:
        record = ledger.cancel(uid, datetime.now(UTC))
    typer.echo(f"{uid}: {record.state} {record.reason}".rstrip())


@app.command()
def purge(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go, and leave it")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Remove files whose time by [retention] is over; never of what is not delivered and committed."""
    settings = configuration.load(config)
    with open_ledger(config) as ledger:
        retention = Retention(settings, ledger, Spool(settings.node.state_dir))
        now = datetime.now(UTC)
        purged = retention.due(now) if dry_run else retention.purge(now)
    if json:
        typer.echo(show.as_json({"dry_run": dry_run, "series": purged}))
    else:
        show.show_purged(Console(), purged, dry_run)


@app.command()
def echo(dest: DestinationArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """C-ECHO to a destination, or a DICOMweb query."""
    from dicom_node.carrier import carrier

    settings = configuration.load(config)
    reached = carrier(_destination(settings, dest), settings.node.ae_title)
    reached.check()
    typer.echo(f"{reached.name} answers")


@app.command()
def send(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", exists=True, dir_okay=False)],
    dest: DestinationArgument,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Store files at a destination by hand (C-STORE or STOW-RS); nothing is written to the ledger."""
    from dicom_node import audit
    from dicom_node.carrier import carrier
    from dicom_node.scu import StoreResult

    settings = configuration.load(config)
    failures: list[StoreResult] = []

    def tell(result: StoreResult) -> None:
        typer.echo(f"{result.path}: {result.error or result.warning or 'stored'}", err=result.error is not None)
        failures.extend([result] if result.error else [])

    with audit.recording(settings):
        carrier(_destination(settings, dest), settings.node.ae_title).store(files, tell)
    if failures:
        raise typer.Exit(FAILED)


@app.command("send-test")
def send_test(
    dest: DestinationArgument,
    with_ct: Annotated[bool, typer.Option("--with-ct", help="the synthetic CT too, to draw on")] = False,
    wait: Annotated[float, typer.Option(min=0, help="seconds to wait for commitment")] = 60.0,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Send marked test objects (patient TEST^DICOMNODE), and say what is answered and what is kept."""
    from dicom_node import send_test as test

    settings = configuration.load(config)
    destination = _destination(settings, dest)
    with ExitStack() as stack:
        try:
            ledger = stack.enter_context(open_ledger(config))
        except NotFound:
            ledger = None
        outcomes = test.run(settings, destination, ledger, with_ct, wait)
    typer.echo(show.as_json(outcomes) if json else show.outcome_lines(outcomes))
    if not all(outcome.good for outcome in outcomes):
        raise typer.Exit(FAILED)


app.command()(cli_doctor.doctor)
app.command()(cli_sources.pull)
app.command()(cli_sources.reconcile)


@app.command()
def check(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Print every fault of config.toml at once, with its TOML path."""
    from dicom_node import doctor

    settings = configuration.load(config)
    faults = doctor.faults(settings)
    for fault in faults:
        typer.echo(fault, err=True)
    if faults:
        raise typer.Exit(MISUSED)
    typer.echo(f"{config}: no faults")


@app.command("config")
def effective_config(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Print what is in effect, defaults included, as JSON. Of secrets it says only where they lie."""
    typer.echo(configuration.load(config).model_dump_json(indent=2))


@app.command("default-config")
def default_config() -> None:
    """Print the commented default config.toml."""
    typer.echo(resources.default_config().read_text(encoding="utf-8"), nl=False)


@app.command()
def demo(
    folder: Annotated[Path | None, typer.Option(help="where to leave the files")] = None,
) -> None:
    """The main job on a synthetic chest CT: node, small archive, committed results, scores beside the truth."""
    from dicom_node import demo as demonstration

    if not demonstration.run(Console(), folder):
        raise typer.Exit(FAILED)


@models_app.command("list")
def models_list(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """The packages that can be used, and which one is."""
    from dicom_node import models

    rows = models.available(configuration.load(config))
    if json:
        typer.echo(show.as_json(rows))
        return
    for row in rows:
        typer.echo(f"{'*' if row.used else ' '} {row.name} {row.version}  {row.path}  {row.fault}".rstrip())


@models_app.command("show")
def models_show(
    name: Annotated[str, typer.Argument(help="name or folder; default: the demonstration package")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """The manifest of a package, checked against its files."""
    from dicom_node import models

    settings = configuration.load(config) if config.is_file() else Config()
    typer.echo(show.as_json(models.manifest(settings, name)))


@models_app.command("install")
def models_install(folder: Path, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Check a package and copy it into the node's state folder."""
    from dicom_node import models

    installed = models.install(configuration.load(config), folder)
    typer.echo(f'installed; to use it set in {config}:\n[analysis]\nmodel = "{installed}"')


def main() -> None:
    """Entry point: errors that were meant for people become a sentence and an exit status."""
    try:
        app()
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(MISUSED)
    except (NodeError, PipelineError) as error:
        print(error, file=sys.stderr)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
