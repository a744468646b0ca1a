"""Model packages as administrators see them: those of the distribution and those in the state folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node.config import Config
from dicom_node.errors import NotFound
from pipeline import package
from pipeline.errors import ModelError


@dataclass(frozen=True)
class ModelRow:
    """One package: `fault` says why it cannot be used, `used` whether config.toml names it."""

    name: str
    version: str
    path: Path
    used: bool
    fault: str = ""


def models_folder(config: Config) -> Path:
    """Where `install` puts packages."""
    return config.node.state_dir / "models"


def available(config: Config) -> list[ModelRow]:
    """The shipped package, the installed ones, and the one that config.toml names."""
    used = (config.analysis.model or package.demo_folder()).resolve()
    found = dict(package.installed(models_folder(config)))
    if used not in {folder.resolve() for folder in found}:
        found |= {used: _attempt(used)}
    return [_row(folder, loaded, folder.resolve() == used) for folder, loaded in found.items()]


def _attempt(folder: Path) -> package.ModelPackage | ModelError:
    try:
        return package.load(folder)
    except ModelError as error:
        return error


def _row(folder: Path, loaded: package.ModelPackage | ModelError, used: bool) -> ModelRow:
    if isinstance(loaded, ModelError):
        return ModelRow(folder.name, "", folder, used, str(loaded))
    return ModelRow(loaded.identity.name, loaded.identity.version, folder, used)


def manifest(config: Config, name: str) -> dict[str, Any]:
    """The manifest of a package by name, NAME-VERSION or folder; empty for the one in use.

    Raises:
        NotFound: there is no such package.
        ModelError: it is damaged.
    """
    folder = _find(config, name) if name else config.analysis.model
    loaded = package.load(folder)
    return {
        "folder": loaded.folder,
        "digest": loaded.identity.digest,
        **loaded.manifest.model_dump(mode="json"),
    }


def _find(config: Config, name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    for row in available(config):
        if name in {row.name, row.path.name}:
            return row.path
    known = ", ".join(row.path.name for row in available(config))
    raise NotFound(f"no model package {name!r} (known: {known})")


def install(config: Config, folder: Path) -> Path:
    """Check a package and copy it to the state folder; where it lies then. Raises ModelError."""
    return package.install(folder, models_folder(config)).folder
