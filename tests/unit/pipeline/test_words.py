"""Opacity, not its cause: no produced text names an aetiology, and the units are those of the field."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

import dicom_node
import pipeline
from pipeline.arrays import LesionMasks
from pipeline.priors import Priors
from pipeline.types import Flag, Profile, ResultKind
from tests.fixtures.results import build_set, make_analysis, make_context, make_prior, no_lesions

AETIOLOGY = re.compile(
    r"covid|sars\b|corona|pneumon|\bviral|virus|bacteri|fung(al|us)|tubercul|\binfect|\binflam|aspirat|sepsis"
    r"|tumou?r|cancer|carcino|malign|metasta|neoplas|lymphom|o?edema\b|heart failure|fibros|embol|infarct|haemorrh"
    r"|hemorrh|contusion|\bARDS\b|diagnos(is|ed)|disease|positive for",
    re.IGNORECASE,
)
TEXT = ("LO", "SH", "ST", "LT", "UT", "UC", "PN")
ENDS = ("lowest", "highest")
FULL = Profile(lungs_seg=True, key_slices=True, slice_pictures=True, pdf=True)


def sentences(folder: Path) -> Iterator[tuple[str, str]]:
    """Every text with a blank in it that a program may say; docstrings and log names are none."""
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        silent = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and id(node) not in silent else None
            if isinstance(text, str) and " " in text:
                yield f"{path.name}:{node.lineno}", text


@pytest.mark.parametrize("package", [pipeline, dicom_node])
def test_no_sentence_of_the_program_names_a_cause(package: ModuleType) -> None:
    folder = Path(str(package.__file__)).parent
    found = list(sentences(folder))
    assert len(found) > 100
    assert [(place, text) for place, text in found if AETIOLOGY.search(text)] == []


def test_a_cause_would_be_found() -> None:
    for text in ("COVID-19 positive", "typical of viral pneumonia", "infected lung", "opacity of the disease"):
        assert AETIOLOGY.search(text)
    for text in ("opacity", "ground glass", "consolidation", "not for diagnostic use", "pleural effusion"):
        assert not AETIOLOGY.search(text)


def texts(ds: Dataset, of_source: frozenset[str]) -> Iterator[str]:
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield from texts(item, of_source)
        elif element.VR in TEXT and element.keyword not in of_source:
            yield str(element.value)


@pytest.mark.parametrize("lesions", [None, no_lesions])
def test_no_object_names_a_cause(lesions: Callable[[LesionMasks], LesionMasks] | None) -> None:
    """What the source says in its own words is passed on as it is."""
    analysis = make_analysis(flags=(Flag("x", "y"),), lesions=lesions)
    context = make_context(profile=FULL, priors=Priors((make_prior("2020-01-01", 0.2, 0.1),), "this node"))
    of_source = {element.keyword for element in analysis.volume.headers[0]} - {"SeriesDescription"}
    for ds in build_set(analysis, context).values():
        found = list(texts(ds, frozenset(of_source)))
        assert found
        assert [text for text in found if AETIOLOGY.search(text)] == []


def test_measurements_have_units_of_the_field() -> None:
    report = build_set(make_analysis(), make_context(profile=FULL))[ResultKind.SR]
    units = {element.value[0].CodeValue for element in measured_units(report)}
    assert units == {"ml", "%", "[hnsf'U]", "mm2", "mm"}


def measured_units(ds: Dataset) -> Iterator[DataElement]:
    for element in ds:
        if element.keyword == "MeasurementUnitsCodeSequence":
            yield element
        elif element.VR == "SQ":
            for item in element.value:
                yield from measured_units(item)


def test_the_radiologists_page_explains_every_warning() -> None:
    """The codes are the first arguments of `Flag`; those that are made of parts stand there in full."""
    folder = Path(pipeline.__file__).parent
    tree = ast.parse((folder / "quality.py").read_text(encoding="utf-8"))
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Flag"
    ]
    coded = {node.args[0].value for node in calls if isinstance(node.args[0], ast.Constant)}
    made = {f"{kind}{end}{rest}" for kind, rest in (("truncated-", ""), ("lung-in-", "-slice")) for end in ENDS}
    assert len(calls) == len(coded) + len(made) // 2
    page = (folder.parent / "docs" / "radiologist.md").read_text(encoding="utf-8")
    assert [code for code in sorted(coded | made) if f"`{code}`" not in page] == []
