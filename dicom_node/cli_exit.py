"""How a command of ours ends: a sentence on standard error, JSON where it was asked for, and an exit status.

Both programs, `dicomnode` and `dicomnode-train`, are started by `run`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException

from dicom_node.errors import ConfigError, LowDisk, NodeError, NotFound, TransientError
from pipeline.errors import PipelineError


class Status(IntEnum):
    """Exit statuses; `MEANINGS` says the same in words."""

    DONE = 0
    FAILED = 1
    MISUSED = 2
    NOT_FOUND = 3
    TRY_AGAIN = 4
    INTERRUPTED = 130


MEANINGS: Mapping[Status, str] = {
    Status.DONE: "done",
    Status.FAILED: "it did not work, or only in part; the reason is on standard error",
    Status.MISUSED: "wrong use, or config.toml is wrong",
    Status.NOT_FOUND: "no series, destination, source, package or ledger of that name",
    Status.TRY_AGAIN: "a peer or the database does not answer, is busy or out of room: it may pass by itself",
    Status.INTERRUPTED: "ended by Ctrl-C",
}
EXPECTED = (NodeError, PipelineError)  # what was meant for people; anything else is a fault of this software


def status_of(error: Exception) -> Status:
    """The exit status that an error means."""
    for kinds, status in (
        ((ConfigError, TyperException), Status.MISUSED),
        ((NotFound,), Status.NOT_FOUND),
        ((TransientError, LowDisk), Status.TRY_AGAIN),
    ):
        if isinstance(error, kinds):
            return status
    return Status.FAILED


def run(
    app: typer.Typer,
    arguments: Sequence[str],
    program: str,
    expected: tuple[type[Exception], ...] = EXPECTED,
) -> int:
    """Carry out a command line; the exit status.

    With `--json` among the arguments an error is told on standard output too, as the object `error` with `status`,
    `kind` and `text`, so that a program always reads JSON.

    Args:
        app: the commands.
        arguments: without the name of the program.
        program: its name, as shown in the help.
        expected: errors whose text is a sentence for people; others keep their traceback, but those of a file.
    """
    try:
        return int(app(list(arguments), prog_name=program, standalone_mode=False) or 0)
    except TyperException as error:
        usage: Any = error  # wrong use; what typer raises shows itself, with the usage
        usage.show()
        return _told(error, usage.format_message(), arguments)
    except expected as error:
        print(error, file=sys.stderr)
        return _told(error, str(error), arguments)
    except OSError as error:
        if not _was_named(error, arguments):  # a fault of this software
            raise
        text = f"{error.filename}: {error.strerror}"
        print(text, file=sys.stderr)
        return _told(error, text, arguments)


def _was_named(error: OSError, arguments: Sequence[str]) -> bool:
    """Whether it is of a file or folder that the command line names."""
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return False
    path = Path(os.fsdecode(error.filename))
    return bool({Path(argument) for argument in arguments if argument} & {path, *path.parents})


def _told(error: Exception, text: str, arguments: Sequence[str]) -> int:
    status = status_of(error)
    if "--json" in arguments:
        print(as_json(error, text, indent=None if "--watch" in arguments else 2))
    return status


def as_json(error: Exception, text: str, indent: int | None) -> str:
    """An error for programs: the object `error` with `status`, `kind` and `text`; in one line without `indent`."""
    status = status_of(error)
    return json.dumps({"error": {"status": status, "kind": status.name.lower(), "text": text}}, indent=indent)
