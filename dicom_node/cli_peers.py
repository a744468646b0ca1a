"""`dicomnode echo`, `send` and `send-test`: one destination, tried by hand."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node import config as configuration
from dicom_node import console as show
from dicom_node.cli_common import (
    DEFAULT_CONFIG,
    FAILED,
    ConfigOption,
    DestinationArgument,
    JsonOption,
    destination_of,
    open_ledger,
)
from dicom_node.errors import NotFound

if TYPE_CHECKING:  # they bring pynetdicom with them
    from dicom_node.scu import StoreResult


def echo(dest: DestinationArgument, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """C-ECHO to a destination, or a DICOMweb query.

    JSON: destination, reached, answers.

    Example: dicomnode echo pacs
    """
    from dicom_node.carrier import carrier

    settings = configuration.load(config)
    reached = carrier(destination_of(settings, dest), settings.node.ae_title)
    reached.check()
    told = {"destination": dest, "reached": reached.name, "answers": True}
    typer.echo(show.as_json(told) if json else f"{reached.name} answers")


def send(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", exists=True, dir_okay=False)],
    dest: DestinationArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Store files at a destination by hand (C-STORE or STOW-RS); nothing is written to the ledger.

    JSON: destination, files, each with path, sop_instance_uid, stored, error, warning.

    Example: dicomnode send image.dcm pacs
    """
    from dicom_node import audit
    from dicom_node.carrier import carrier

    settings = configuration.load(config)
    results: list[StoreResult] = []

    def tell(result: StoreResult) -> None:
        results.append(result)
        if not json:
            words = result.error or result.warning or "stored"
            typer.echo(f"{result.path}: {words}", err=result.error is not None)

    with audit.recording(settings):
        carrier(destination_of(settings, dest), settings.node.ae_title).store(files, tell)
    if json:
        typer.echo(show.as_json({"destination": dest, "files": [_row(result) for result in results]}))
    if any(result.error for result in results):
        raise typer.Exit(FAILED)


def _row(result: StoreResult) -> dict[str, object]:
    return {
        "path": result.path,
        "sop_instance_uid": result.sop_instance_uid,
        "stored": result.error is None,
        "error": str(result.error or ""),
        "warning": result.warning,
    }


def send_test(
    dest: DestinationArgument,
    with_ct: Annotated[bool, typer.Option("--with-ct", help="the synthetic CT too, to draw on")] = False,
    wait: Annotated[float, typer.Option(min=0, help="seconds to wait for commitment")] = 60.0,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Send marked test objects (patient TEST^DICOMNODE), and say what is answered and what is kept.

    JSON: a list, each with name, sop_instance_uid, answer, kept, good.

    Example: dicomnode send-test pacs --with-ct
    """
    from dicom_node import send_test as test

    settings = configuration.load(config)
    destination = destination_of(settings, dest)
    with ExitStack() as stack:
        try:
            ledger = stack.enter_context(open_ledger(config))
        except NotFound:
            ledger = None
        outcomes = test.run(settings, destination, ledger, with_ct, wait)
    typer.echo(show.as_json(outcomes) if json else show.outcome_lines(outcomes))
    if not all(outcome.good for outcome in outcomes):
        raise typer.Exit(FAILED)
