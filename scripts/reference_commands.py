"""docs/commands.md: every command of both programs, as their own help knows them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import typer

from dicom_node import cli
from dicom_node.cli_exit import MEANINGS
from scripts.conformance import table
from training import cli as training_cli

INTRODUCTION = """# Commands

<!-- Made from the code by `python -m scripts.reference`; what is written here by hand is lost. -->

A command that answers takes `--json`: standard output is then JSON, also where something went wrong (an object
`error` with `status`, `kind` and `text`); keys may be added, those that are there stay. Without it tables are
as wide as the terminal; into a pipe they go plain and unfolded, and `NO_COLOR=1` turns colours off. What went
wrong is a sentence on standard error.

`--config` may be left out where the file is /etc/dicomnode/config.toml or `DICOMNODE_CONFIG` names it.
`--install-completion` teaches the shell commands, options, the newest series UIDs and the names of destinations and
sources.
"""
HIDDEN = {"--help", "--install-completion", "--show-completion"}


def page() -> str:
    """The whole page."""
    rows = [(int(status), meaning) for status, meaning in MEANINGS.items()]
    parts = [INTRODUCTION, "## Exit status", table(("status", "when"), rows)]
    parts.append("`dicomnode doctor` tells its own three in its help.")
    for program, app in (("dicomnode", cli.app), ("dicomnode-train", training_cli.app)):
        parts += [f"## {program}", *_commands(program, typer.main.get_command(app))]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _commands(words: str, command: Any) -> Iterator[str]:
    below = getattr(command, "commands", None)
    if below is None:
        yield f"### {words}"
        yield from _paragraphs(command.help)
        rows = [_option(parameter) for parameter in command.params if not HIDDEN & set(parameter.opts)]
        if rows:
            yield table(("argument or option", "takes", "default", "what"), rows)
        return
    for name, each in below.items():
        yield from _commands(f"{words} {name}", each)


def _paragraphs(text: str) -> Iterator[str]:
    """The help as Markdown."""
    for paragraph in text.strip().split("\n\n"):
        words = " ".join(paragraph.split())
        head, colon, rest = words.partition(": ")
        if head == "Example" and colon:
            yield f"Example: `{rest}`"
        elif head == "JSON" and colon:
            yield f"JSON: {_plain(rest)}"
        else:
            yield _plain(words)


def _plain(words: str) -> str:
    return re.sub(r"(?<!`)\[\[?\w+\]\]?(?!`)", r"`\g<0>`", words.replace("<", "&lt;"))


def _option(parameter: Any) -> tuple[str, str, str, str]:
    argument = parameter.param_type_name == "argument"
    names = [parameter.metavar or parameter.name.upper()] if argument else parameter.opts
    default = "required" if parameter.required else _value(parameter.default)
    return ", ".join(f"`{name}`" for name in names), _takes(parameter), default, _plain(parameter.help or "")


def _takes(parameter: Any) -> str:
    """What stands after an option: a placeholder, a choice, or the kind of value."""
    if getattr(parameter, "is_flag", False):
        return ""
    kinds = [kind for kind in _kinds(parameter.type_descriptor.annotation) if kind is not type(None)]
    kind = kinds[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        words = ", ".join(f"`{choice.value}`" for choice in kind)
    elif not isinstance(kind, type):
        words = ", ".join(f"`{choice}`" for choice in kinds)
    elif parameter.metavar and parameter.param_type_name == "option":
        words = f"`{parameter.metavar}`"
    else:
        words = {int: "number", float: "number", Path: "path"}.get(kind, "text")
    return words + ("; may repeat" if parameter.multiple else "")


def _kinds(annotation: Any) -> list[Any]:
    """The types in an annotation, or its choices."""
    inside = get_args(annotation)
    return [kind for each in inside for kind in _kinds(each)] if inside else [annotation]


def _value(default: Any) -> str:
    if default in (None, "", False, ()) or callable(default):
        return ""
    if default is True:
        return "yes"
    return f"`{_text(default)}`"


def _text(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    return (
        ", ".join(map(_text, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
    )
