"""`dicomnode web-password`: a line for the users file of the status page."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from dicom_node import console as show
from dicom_node.cli_common import JsonOption
from dicom_node.errors import ConfigError


def web_password(
    name: Annotated[str, typer.Argument(metavar="NAME", help="who logs in")],
    json: JsonOption = False,
) -> None:
    """Ask for a password and print the line for web.users_file; piped, its first line is the password.

    JSON: name, line.

    Example: dicomnode web-password ada
    """
    from dicom_node.web import passwords

    line = passwords.line(name, _password())
    typer.echo(show.as_json({"name": name, "line": line}) if json else line)


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    first = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != first:
        raise ConfigError("the two passwords differ")
    return first
