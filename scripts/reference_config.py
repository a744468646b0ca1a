"""docs/configuration.md: every key of config.toml; values and defaults from the code, explained by the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from dicom_node import resources
from dicom_node.config import AnyDestination, Config, ProfileSection, Source
from dicom_node.config_base import Section
from dicom_node.config_notify import AnyNotification
from scripts.conformance import table

INTRODUCTION = """# Configuration

<!-- Made from the code and config.toml by `python -m scripts.reference`; what is written here by hand is lost. -->

`dicomnode default-config` prints the commented file, `dicomnode check` every fault at once with its TOML path,
`dicomnode config` what is in effect. Unknown keys are faults. A table that is left out has its defaults. The node
reads the file when it starts.
"""
HEADER = re.compile(r"^#? ?\[{1,2}([\w.]+)\]{1,2} *(?:# *(.*))?$")
KEY = re.compile(r"^#? ?(\w+) = (?:.*?\S)(?: +# (.*))?$")
MORE = re.compile(r"^#?\s{10,}# (.*)$")
Schema = Mapping[str, Any]
KINDS = {"destinations": (AnyDestination, "protocol"), "notifications": (AnyNotification, "by")}  # union, its key


@dataclass
class Block:
    """A table of config.toml: the lines above it, and what it says of each key."""

    name: str
    about: str
    keys: dict[str, str] = field(default_factory=dict)


def page() -> str:
    """The whole page."""
    blocks = list(_blocks(resources.default_config().read_text(encoding="utf-8")))
    parts = [INTRODUCTION]
    for title, section, mine, others in _tables(blocks):
        parts += [f"## {title}", mine.about, _section(section, mine, others)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _tables(blocks: Sequence[Block]) -> Iterator[tuple[str, type[Section], Block, Sequence[Block]]]:
    """Each table: title, class, its block of the file, and blocks that explain keys which it shares with others."""
    shared = [block for block in blocks if block.name == "destinations"]
    for name, info in Config.model_fields.items():
        found = [block for block in blocks if block.name.split(".")[0] == name]
        if name in KINDS:
            union, key = KINDS[name]
            for kind, block in zip(_kinds(union), found, strict=True):
                (value,) = get_args(kind.model_fields[key].annotation)
                yield f'[[{name}]] with {key} = "{value}"', kind, block, [*found, *shared]
        elif name == "sources":
            yield "[[sources]]", Source, found[0], shared
        elif name == "profiles":
            yield "[profiles.NAME]", ProfileSection, found[0], ()
        else:
            yield f"[{name}]", cast(type[Section], info.annotation), found[0], ()


def _kinds(annotated: Any) -> list[type[Section]]:
    """The classes of a union, which are in the order of the file."""
    union = get_args(annotated)[0]
    return [get_args(each)[0] if get_args(each) else each for each in get_args(union)]


def _blocks(text: str) -> Iterator[Block]:
    above: list[str] = []
    block: Block | None = None
    key = ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            if block is not None:
                yield block
            block, key = Block(header[1], " ".join([*above, header[2] or ""]).strip()), ""
            above = []
        elif block is not None and (found := KEY.match(line)):
            key = found[1]
            block.keys[key] = found[2] or ""
            above = []
        elif key and block is not None and (more := MORE.match(line)):
            block.keys[key] = f"{block.keys[key]} {more[1]}".strip()
        else:
            above = [*above, line.removeprefix("#").strip()] if line.startswith("# ") else []
            key = ""
    if block is not None:
        yield block


def _section(section: type[Section], mine: Block, others: Sequence[Block]) -> str:
    schema = section.model_json_schema()
    rows = []
    for key, about in schema["properties"].items():
        words = mine.keys.get(key) or next((block.keys[key] for block in others if block.keys.get(key)), "")
        default = "required" if key in schema.get("required", ()) else _default(about)
        rows.append((f"`{key}`", _type(about, schema), default, _escaped(words)))
    return table(("key", "value", "default", "what"), rows)


def _escaped(words: str) -> str:
    return re.sub(r"(?<!`)(\[\[?\w+\]\]?)(?!`)", r"`\1`", words.replace("<", "&lt;").replace("*", "\\*"))


def _default(about: Schema) -> str:
    value = about.get("default")
    if value in (None, "", [], {}):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type(about: Schema, whole: Schema) -> str:
    """In words: what is taken, and its limits."""
    if "$ref" in about:
        return _type(whole["$defs"][about["$ref"].rsplit("/", 1)[-1]], whole)
    if "anyOf" in about:
        kinds = [_type(each, whole) for each in about["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in about or "const" in about:
        return ", ".join(f'`"{value}"`' for value in about.get("enum") or [about["const"]])
    if about.get("type") == "array":
        return f"list of {_type(about.get('items', {}), whole)}"
    if about.get("type") == "object":
        return "table"
    words = {"integer": "whole number", "number": "number", "boolean": "true, false"}
    kind = words.get(about.get("type", ""), "path" if about.get("format") == "path" else "text")
    return " ".join([kind, *_limits(about)])


def _limits(about: Schema) -> Iterator[str]:
    names = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    for name, sign in names.items():
        if name in about:
            yield f"{sign} {about[name]}".replace("<", "&lt;")
