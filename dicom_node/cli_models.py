"""`dicomnode models`: list, show and install model packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node import config as configuration
from dicom_node import console as show
from dicom_node.cli_common import DEFAULT_CONFIG, ConfigOption, JsonOption, stdout
from dicom_node.config import Config

app = typer.Typer(no_args_is_help=True, help="Model packages: list, show, install.")


@app.command("list")
def list_packages(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """The packages that can be used, and which one is.

    JSON: a list, each with name, version, path, used, fault.

    Example: dicomnode models list
    """
    from dicom_node import models

    rows = models.available(configuration.load(config))
    if json:
        typer.echo(show.as_json(rows))
    else:
        stdout().print(show.models_table(rows))


@app.command("show")
def show_manifest(
    name: Annotated[str, typer.Argument(help="name or folder; default: the package that is used")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """The manifest of a package, checked against its files. It is JSON, with --json or without.

    JSON: folder, digest, and the keys of the package's manifest.

    Example: dicomnode models show demo
    """
    from dicom_node import models

    settings = configuration.load(config) if config.is_file() else Config()
    typer.echo(show.as_json(models.manifest(settings, name)))


@app.command("install")
def install(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="of the package")],
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Check a package and copy it into the node's state folder.

    JSON: installed, the folder that analysis.model is to name.

    Example: dicomnode models install /data/my-package
    """
    from dicom_node import models

    installed = models.install(configuration.load(config), folder)
    if json:
        typer.echo(show.as_json({"installed": installed}))
    else:
        typer.echo(f'installed; to use it set in {config}:\n[analysis]\nmodel = "{installed}"')
