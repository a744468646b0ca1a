"""Rejection notes before public validators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fixtures import validators
from tests.fixtures.results import make_analysis
from tests.unit.pipeline.test_rejection import context_of, note


def test_a_rejection_note_is_clean(tool: Callable[[str], str], tmp_path: Path) -> None:
    analysis = make_analysis()
    path = tmp_path / "rejection.dcm"
    note(analysis, context_of(analysis)).save_as(path)
    assert validators.dciodvfy(tool, path) == []
    told = validators.dsrdump(tool, path)
    assert "Key Object Selection Document" in told
    assert "Rejected for Quality Reasons" in told
