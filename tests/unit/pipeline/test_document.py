"""The picture as Encapsulated PDF: a whole document with its words, in an object that says what it is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage

from pipeline import RESEARCH_USE_ONLY, document, picture
from pipeline.notation import percent
from pipeline.priors import Priors
from pipeline.types import Analysis, Flag, Profile, Region, ResultContext
from tests.fixtures import validators
from tests.fixtures.results import make_analysis, make_context, make_prior, through_bytes

Tool = Callable[[str], str]
WARNING = Flag("x", "Something is to be checked before use.")


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return make_analysis(flags=(WARNING,))


def context(**changes: object) -> ResultContext:
    return make_context(profile=Profile(pdf=True), **changes)


def object_of(analysis: Analysis, **changes: object) -> Dataset:
    ds = document.build(analysis, context(**changes))
    assert ds is not None
    return through_bytes(ds)


def pdf_of(analysis: Analysis, folder: Path) -> Path:
    ds = object_of(analysis)
    path = folder / "document.pdf"
    path.write_bytes(ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength])
    return path


def printed(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_only_where_the_profile_wants_it(analysis: Analysis) -> None:
    assert document.build(analysis, make_context()) is None


def test_the_object_says_whose_and_what_it_is(analysis: Analysis, tool: Tool, tmp_path: Path) -> None:
    ds = object_of(analysis)
    assert (ds.SOPClassUID, ds.Modality) == (EncapsulatedPDFStorage, "DOC")
    assert ds.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert ds.BurnedInAnnotation == "NO"
    assert RESEARCH_USE_ONLY in ds.DocumentTitle
    source = analysis.volume.headers[0]
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber"):
        assert ds[keyword].value == source[keyword].value
    pydicom.dcmwrite(tmp_path / "document.dcm", ds, enforce_file_format=True)
    assert validators.dciodvfy(tool, tmp_path / "document.dcm") == []


def test_a_page_with_dates_says_so(analysis: Analysis) -> None:
    priors = Priors((make_prior("2020-01-01", 0.2, 0.1),), "this node")
    assert object_of(analysis, priors=priors).BurnedInAnnotation == "YES"


def test_building_twice_gives_the_same_object(analysis: Analysis) -> None:
    assert object_of(analysis) == object_of(analysis)


def test_the_words_of_the_picture_can_be_selected(analysis: Analysis, tool: Tool, tmp_path: Path) -> None:
    path = pdf_of(analysis, tmp_path)
    words = printed(tool("/usr/bin/pdftotext"), "-layout", str(path), "-")
    for text in (
        RESEARCH_USE_ONLY,
        percent(analysis.scores.regions[Region.BOTH].severity_score),
        "Right lung",
        WARNING.text,
        analysis.model.name,
    ):
        assert text in words
    assert "PHANTOM" not in words  # nobody's name or number
    told = printed(tool("/usr/bin/pdfinfo"), str(path))
    assert "Pages:           1" in told
    assert RESEARCH_USE_ONLY in told


def test_what_is_seen_is_the_picture(analysis: Analysis, tool: Tool, tmp_path: Path) -> None:
    """Nothing of the layer of words is visible."""
    path = pdf_of(analysis, tmp_path)
    printed(tool("/usr/bin/pdftoppm"), "-r", "137", "-png", "-singlefile", str(path), str(tmp_path / "page"))
    expected = picture.render(analysis, context())
    seen = Image.open(tmp_path / "page.png").convert("RGB").resize(expected.size, Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(seen, int) - np.asarray(expected, int)).mean() < 6
