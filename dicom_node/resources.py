"""Files that travel with the distribution: from a wheel, or from a source tree."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def default_config() -> Path:
    """The commented default config.toml."""
    installed = PACKAGE / "data" / "config.toml"
    return installed if installed.is_file() else PACKAGE.parent / "config.toml"


def systemd_folder() -> Path:
    """The folder with the unit, sysusers and tmpfiles."""
    installed = PACKAGE / "data" / "systemd"
    return installed if installed.is_dir() else PACKAGE.parent / "systemd"


def monitoring_folder() -> Path:
    """The folder with alert rules and dashboard."""
    installed = PACKAGE / "data" / "monitoring"
    return installed if installed.is_dir() else PACKAGE.parent / "docs" / "monitoring"
