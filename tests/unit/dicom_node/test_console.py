"""What the console says of the figures of an analysis."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from dicom_node import console as show
from dicom_node.ledger import Ledger, SeriesIdentity
from pipeline import quality, run
from pipeline.types import Analysis
from tests.fixtures.results import make_analysis, without_left_lung
from tests.fixtures.samples import SERIES, START, filing


def shown(analysis: Analysis) -> dict[str, str]:
    """The lines by their first word; of the warnings the first."""
    console = Console(file=io.StringIO(), width=200)
    show.show_report(console, run.report(analysis))
    assert isinstance(console.file, io.StringIO)
    lines = [line for line in console.file.getvalue().splitlines() if line.strip()]
    return {line.split()[0]: line for line in reversed(lines)}


def test_figures_of_both_lungs() -> None:
    analysis = make_analysis()
    lines = shown(analysis)
    for name in ("both", "right", "left"):
        assert "not measured" not in lines[name]
        assert lines[name].count("%") == 2
        assert lines[name].count(" ml") == 3


def test_a_lung_that_was_not_found_is_not_measured() -> None:
    one = without_left_lung(make_analysis())
    flags = quality.flags(one.volume, one.lungs, one.lesions, one.scores)
    report = run.report(replace(one, flags=flags))
    assert report["left"]["severity_score"] is None
    assert report["left"]["consolidation_score"] is None
    assert report["left"]["ggo_score"] is None
    assert report["severity_score"] > 0
    lines = shown(replace(one, flags=flags))
    assert lines["left"].split("0 ml")[0].count("not measured") == 2
    assert "%" not in lines["left"]
    assert "%" in lines["right"]
    assert "The left lung was not found" in lines["!"]


def test_names_off_the_wire_are_shown_as_they_are_and_steer_nothing(book: Ledger) -> None:
    """Neither rich's markup, nor HTML, nor a terminal's control sequences."""
    hostile = "[red]P[/red]<script>x</script>"
    identity = SeriesIdentity(SERIES, "1.2.3", hostile, description="\x1b]0;pwned\x07\x1b[2J\x9b31m end")
    book.file_instances([filing(1, identity=identity)], START)
    console = Console(file=io.StringIO(), width=300)
    console.print(show.status_view(book.counts(), book.list_series()))
    show.show_series(console, book.details(SERIES))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count(hostile) == 2
    assert not set(text) & {"\x1b", "\x07", "\x9b"}
    assert text.count("\N{REPLACEMENT CHARACTER}]0;pwned") == 2
