"""What the tables of config.toml are made of: field types, and files that hold secrets."""

from __future__ import annotations

import ipaddress
import os
import re
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dicom_node.errors import ConfigError

CREDENTIAL = "credential:"  # in place of a folder: a file that systemd hands to the service (LoadCredential=)
CREDENTIALS_FOLDER = "CREDENTIALS_DIRECTORY"
CENTURY_S = 100 * 365 * 86400.0
TEXT = "utf-8-sig"  # of files that people write: some editors begin them with a byte order mark, which nobody sees


def _ae_title(value: str) -> str:
    """PS3.5 6.2, VR AE: 1-16 printable ASCII characters without backslash, not only spaces."""
    title = value.strip(" ")
    if not re.fullmatch(r"[\x20-\x5b\x5d-\x7e]{1,16}", title):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


def _short_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", value):
        raise ValueError("a name has 1 to 32 characters of a-z, 0-9, - and _")
    return value


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("an absolute path is needed")
    return value


def _secret_file(value: Path) -> Path:
    if not (value.is_absolute() or re.fullmatch(rf"{CREDENTIAL}[\w.-]+", str(value))):
        raise ValueError(f'an absolute path is needed, or "{CREDENTIAL}NAME" for a credential of systemd')
    return value


def host_name(value: str) -> str:
    """A name that can be looked up and compared with a certificate, or an address; empty where none is given.

    What asks for it otherwise fails with errors of the encoding and not of the network (RFC 3490 4.1: labels of 1
    to 63 characters).
    """
    try:
        value.encode("idna")
        known = value.isprintable()
    except UnicodeError:
        known = False
    if not known:
        raise ValueError("a host name or an address is needed: between dots are 1 to 63 characters")
    return value


def _ip_address(value: str) -> str:
    ipaddress.ip_address(value)
    return value


def _span(longest: float, value: float) -> float:
    """Added to the present it must be a date that there is, and timers have an end too."""
    if value > longest:
        raise ValueError(f"at most a hundred years, which are {longest:.0f}")
    return value


AeTitle = Annotated[str, AfterValidator(_ae_title)]
HostName = Annotated[str, AfterValidator(host_name)]
IpAddress = Annotated[str, AfterValidator(_ip_address)]
ShortName = Annotated[str, AfterValidator(_short_name)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(partial(_span, CENTURY_S))]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(partial(_span, CENTURY_S))]
PositiveHours = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(partial(_span, CENTURY_S / 3600))]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
SecretFile = Annotated[Path, AfterValidator(_secret_file)]


class Section(BaseModel):
    """Base of every table: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


def locate(path: Path) -> Path:
    """Where a `SecretFile` lies.

    Raises:
        ConfigError: it is a credential, and systemd has handed over none.
    """
    name = str(path)
    if not name.startswith(CREDENTIAL):
        return path
    folder = os.environ.get(CREDENTIALS_FOLDER)
    if not folder:
        name = name.removeprefix(CREDENTIAL)
        raise ConfigError(
            f"there are no credentials here: set LoadCredential={name}:FILE in the unit; for a command by hand "
            f"{CREDENTIALS_FOLDER} names the folder that holds {name}"
        )
    return Path(folder) / name.removeprefix(CREDENTIAL)


def read_secret(path: Path) -> str:
    """The one line that a `SecretFile` holds. It must never get into a log, a message or a dump.

    Raises:
        ConfigError: it cannot be read, or is empty; says why, and nothing of what it holds.
    """
    try:
        secret = locate(path).read_text(encoding=TEXT).strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path} cannot be read: {reason}") from None
    if not secret:
        raise ConfigError(f"{path} is empty")
    return secret
