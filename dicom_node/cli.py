"""The `dicomnode` program. Each command is a few lines: it reads the config, asks one room, shows the answer.

Exit statuses are in `cli_exit`. Heavy modules are imported inside the commands that need them, so that `status`
answers at once.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from dicom_node import (
    cli_doctor,
    cli_exit,
    cli_models,
    cli_notify,
    cli_peers,
    cli_sources,
    cli_status,
    cli_web,
    resources,
)
from dicom_node import config as configuration
from dicom_node import console as show
from dicom_node.cli_common import DEFAULT_CONFIG, FAILED, MISUSED, ConfigOption, JsonOption, stdout
from dicom_node.config import Config
from dicom_node.errors import ConfigError, NotFound
from pipeline import RESEARCH_USE_ONLY, __version__

app = typer.Typer(
    name="dicomnode",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=f"Chest CT in, SEG, SR and a picture back to the PACS. {RESEARCH_USE_ONLY}.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dicomnode {__version__}. {RESEARCH_USE_ONLY}.")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Options that stand before a command."""


@app.command()
def serve(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the node until SIGTERM or SIGINT. It answers nothing but its log, on standard error.

    Example: dicomnode serve --config /etc/dicomnode/config.toml
    """
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

    JSON: the content of result.json.

    Example: dicomnode process /data/ct --out /data/results
    """
    from pipeline import run, series_files
    from pipeline.types import PipelineSettings, Profile

    found = series_files.series_in(folder)
    if series and series not in found:
        raise NotFound(f"{folder} holds no series {series}; it holds: {', '.join(found)}")
    if not series and len(found) > 1:
        raise ConfigError(f"{folder} holds {len(found)} series; choose one with --series: {', '.join(found)}")
    chosen = series or next(iter(found))
    settings = PipelineSettings(model=model, lung_weights=lung_weights, device=device)
    now, others = datetime.now().astimezone(), series_files.others_in(found, chosen)
    result = run.process_folder(found[chosen], out, settings, Profile(), now, others)
    if json:
        typer.echo(show.as_json(result.report))
        return
    console = stdout()
    show.show_report(console, result.report)
    console.print(f"  {len(result.objects)} objects, picture.png and result.json in {out}", highlight=False)


app.command()(cli_status.status)
app.command("show")(cli_status.show_series)
app.command()(cli_status.retry)
app.command("retry-failed")(cli_status.retry_failed)
app.command()(cli_status.cancel)
app.command()(cli_status.purge)
app.command()(cli_peers.echo)
app.command()(cli_peers.send)
app.command("send-test")(cli_peers.send_test)
app.command("notify-test")(cli_notify.notify_test)
app.command()(cli_doctor.doctor)
app.command()(cli_sources.pull)
app.command()(cli_sources.reconcile)
app.command("web-password")(cli_web.web_password)


@app.command()
def check(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Print every fault of config.toml at once, with its TOML path.

    JSON: config, faults.

    Example: dicomnode check --config /etc/dicomnode/config.toml
    """
    from dicom_node import doctor

    settings = configuration.load(config)
    faults = doctor.faults(settings)
    for fault in faults:
        typer.echo(fault, err=True)
    if json:
        typer.echo(show.as_json({"config": config, "faults": faults}))
    if faults:
        raise typer.Exit(MISUSED)
    if not json:
        typer.echo(f"{config}: no faults")


@app.command("config")
def effective_config(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Print what is in effect as JSON, defaults included; of secrets only where they lie.

    JSON: the tables of config.toml.

    Example: dicomnode config
    """
    typer.echo(configuration.load(config).model_dump_json(indent=2))


@app.command("default-config")
def default_config(json: JsonOption = False) -> None:
    """Print the commented default config.toml.

    JSON: the tables of config.toml, without the comments.

    Example: dicomnode default-config
    """
    if json:
        typer.echo(Config().model_dump_json(indent=2))
    else:
        typer.echo(resources.default_config().read_text(encoding="utf-8"), nl=False)


@app.command()
def demo(
    folder: Annotated[Path | None, typer.Option(help="where to leave the files")] = None,
    json: JsonOption = False,
) -> None:
    """The main job on a synthetic chest CT: node, small archive, committed results, scores beside the truth.

    JSON: folder, state, reason, objects, report, truth.

    Example: dicomnode demo --folder demo
    """
    from dicom_node import demo as demonstration

    shown = demonstration.run(stdout() if not json else show.silent(), folder)
    if json:
        typer.echo(show.as_json(shown))
    if not shown.delivered:
        raise typer.Exit(FAILED)


app.add_typer(cli_models.app, name="models")


def main() -> None:
    """Entry point: errors that were meant for people become a sentence and an exit status."""
    sys.exit(cli_exit.run(app, sys.argv[1:], "dicomnode"))


if __name__ == "__main__":
    main()
