"""Shared fixtures. In CI nothing is skipped: a missing tool or data folder is a failure there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

import pipeline  # before torch, for the tests too: it says how threads of torch wait
from tests.fixtures.browser import browser

__all__ = ["browser", "pipeline"]
ROOT = Path(__file__).resolve().parents[1]
# No test asserts about time: a busy machine must not fail an example that is merely slow.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize=True
)
hypothesis.settings.load_profile("untimed")
IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def absent(reason: str) -> None:
    """Skip on a stranger's machine, fail in CI."""
    if IN_CI:
        pytest.fail(f"{reason}; in CI nothing may be skipped")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the repository that holds real data and reference numbers; never part of it."""
    folder = Path(os.environ.get("DICOMNODE_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        absent(f"no {folder}: real CT series and reference numbers are not here (set DICOMNODE_SHARED)")
    return folder


@pytest.fixture(scope="session")
def shared_data(shared: Path) -> Path:
    """Real CT series and lesion data (shared/data)."""
    return shared / "data"


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Path of a Debian tool by absolute name, e.g. ``tool("/usr/bin/dcmsend")``: a venv shadows some of them."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            absent(f"{name} is not installed (make test installs it)")
        return str(path)

    return find
