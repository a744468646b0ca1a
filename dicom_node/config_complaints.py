"""What pydantic finds wrong with config.toml, in the words of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dicom_node.config_base import Section
from dicom_node.config_notify import Mail, Webhook
from dicom_node.destinations import Destination, Hl7Destination, WebDestination

# pydantic adds to an entry of a list which of these it took it for.
KINDS: Mapping[str | int, type[Section]] = {
    "dimse": Destination,
    "dicomweb": WebDestination,
    "hl7": Hl7Destination,
    "mail": Mail,
    "webhook": Webhook,
}
# What pydantic says to programmers, for administrators.
SENTENCES: Mapping[str, str] = {
    "missing": "is missing",
    "tuple_type": 'a list is needed, as ["…"]',
    "ip_any_network": "an address or a network is needed, as 10.0.0.5 or 10.0.0.0/24, with zeros behind the mask",
}


def lines(error: ValidationError, model: type[Section]) -> list[str]:
    """All of an error of `model`, which is the whole file, as lines of "path: what is wrong"."""
    return [line for detail in error.errors() for line in _complaints(model, detail)]


def _meant(model: type[Section], parts: Sequence[str | int], kind: type[Section] | None) -> str:
    """The key of the same table that an unknown one is most like, where there is one."""
    names = [part for part in parts if isinstance(part, str)]
    known: set[str] = set(model.model_fields)
    if kind is not None:
        known = set(kind.model_fields)
    elif len(names) > 1 and names[0] in known:
        known = _keys(model.model_fields[names[0]].annotation)
    found = get_close_matches(names[-1], sorted(known - {names[-1]}), n=1)
    return f"; is {found[0]} meant?" if found else ""


def _are_tables(model: type[Section], parts: Sequence[str | int]) -> bool:
    """Whether the items of a list are tables: only those on top are."""
    return len(parts) == 1 and bool(_keys(model.model_fields[str(parts[0])].annotation))


def _keys(annotation: object) -> set[str]:
    """The keys of the tables in an annotation such as `tuple[A | B, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return set(annotation.model_fields)
    return {key for part in get_args(annotation) for key in _keys(part)}


def _place(loc: Sequence[str | int]) -> tuple[list[str | int], type[Section] | None]:
    """A location of pydantic as the file has it, and which of its kinds the entry of a list was taken for."""
    for at, (before, part) in enumerate(pairwise(loc), 1):
        if isinstance(before, int) and part in KINDS:
            return [*loc[:at], *loc[at + 1 :]], KINDS[part]
    return list(loc), None


def _complaints(model: type[Section], detail: ErrorDetails) -> list[str]:
    """One validation error as lines of "path: what is wrong"."""
    parts, kind = _place(detail["loc"])
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = f"unknown key{_meant(model, parts, kind)}"
    elif detail["type"] == "tuple_type" and isinstance(detail["input"], Mapping) and _are_tables(model, parts):
        message = f"there may be several: write [[{path}]], with two brackets"
    else:
        message = SENTENCES.get(detail["type"], message)
    if not path:  # raised by the whole model: the lines carry their own path
        return [f"  {line}" for line in message.splitlines()]
    silent = {
        "missing",
        "extra_forbidden",
        "database_url",
        "database_password",
        "url",
    }  # the last three may hold a secret
    unsaid = detail["type"] in silent or isinstance(detail["input"], Mapping)
    given = "" if unsaid else f" (given: {detail['input']!r})"
    return [f"  {path}: {message}{given}"]
