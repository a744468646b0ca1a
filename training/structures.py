"""Which drawn structures become which label, by a table in TOML (`terms/structures.toml` is the one shipped)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from training.errors import CohortError

SHIPPED = Path(__file__).resolve().parent / "terms" / "structures.toml"


class Value(StrEnum):
    """What a structure is."""

    CONSOLIDATION = "consolidation"
    GGO = "ggo"
    INFECTION = "infection"
    LUNG = "lung"


class Entry(BaseModel):
    """Names (with * and ?) and codes ("VALUE SCHEME") of one kind of structure."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: Value
    names: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()


class Structures(BaseModel):
    """The table; `algorithms` says whose drawings are taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    algorithms: tuple[str, ...]
    structures: tuple[Entry, ...]

    def value(self, name: str, codes: Iterable[str], algorithm: str) -> Value | None:
        """What a structure is; None where nothing fits, or where its author is not wanted."""
        if algorithm.strip().upper() not in self.algorithms:
            return None
        given = set(codes)
        for entry in self.structures:
            named = any(fnmatchcase(name.strip().lower(), pattern.lower()) for pattern in entry.names)
            if named or given & set(entry.codes):
                return entry.value
        return None


def read(path: Path = SHIPPED) -> Structures:
    """The table in a file. Raises CohortError with every complaint."""
    try:
        return Structures.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise CohortError(f"{path} is no table of structures: {error}") from error
