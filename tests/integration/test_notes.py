"""Rejection notes and notices before public validators."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmwrite

from pipeline import notice
from pipeline.notice import Form, Notice
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


@pytest.mark.parametrize("form", ["report", "picture"])
def test_a_notice_that_a_study_was_not_analysed_is_clean(
    tool: Callable[[str], str], tmp_path: Path, form: Form
) -> None:
    path = tmp_path / "notice.dcm"
    reasons = ("Thorax 1.0 (12 images): 3 slices are missing",)
    created = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    header = make_analysis().volume.headers[0]
    dcmwrite(path, notice.build(header, Notice(form, reasons, created)), enforce_file_format=True)
    assert validators.dciodvfy(tool, path) == []
    if form == "report":
        assert validators.pixelmed(tool, path) == []
        assert "3 slices are missing" in validators.dsrdump(tool, path)
