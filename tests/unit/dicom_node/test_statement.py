"""How the word of a source reads."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_node.statement import Missing, Statement, ascii_text
from tests.fixtures.samples import START


def said(**changes: Any) -> Statement:
    return Statement(**{"source": "pacs", "again_at": START, "received": 300, "listed": 300} | changes)


def missing(*numbers: int | None) -> tuple[Missing, ...]:
    return tuple(Missing(f"1.2.{index}", number) for index, number in enumerate(numbers))


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (said(), ["300 instances, as many as pacs lists (C-FIND, NumberOfSeriesRelatedInstances)"]),
        (
            said(fetched=20, service="C-GET"),
            [
                "300 instances, as many as pacs lists (C-FIND, NumberOfSeriesRelatedInstances)",
                "20 of them fetched from pacs by C-GET",
            ],
        ),
        (said(by_number=False), ["all 300 instances that pacs lists are here (C-FIND of each)"]),
        (
            said(by_number=False, received=301),
            ["all 300 instances that pacs lists are here (C-FIND of each); 1 more were received"],
        ),
        (
            said(listed=0, by_number=False),
            ["pacs does not list the series: shown by quiet time and geometry alone"],
        ),
        (
            said(listed=None, remark="it is down.\n"),
            [
                "pacs could not be asked for its number of instances (it is down): shown by quiet time and "
                "geometry alone"
            ],
        ),
    ],
)
def test_what_it_adds_to_the_completeness(statement: Statement, expected: list[str]) -> None:
    assert statement.shown == expected
    assert statement.lacks == ""


def test_missing_instances_are_named_by_their_numbers() -> None:
    statement = said(listed=23, missing=missing(3, 7, 8, 9, 20), pending=True)
    assert statement.lacks == (
        "pacs lists 23 instances, 5 of them have not come (InstanceNumber 3, 7 to 9, 20); they are being fetched "
        "by C-MOVE"
    )
    many = said(missing=missing(*range(1, 60, 2)), remark="ask the administrator.").lacks
    assert "InstanceNumber 1, 3, 5, 7, 9, 11, 13, 15, 17, 19 and 20 more); ask the administrator" in many
    assert "InstanceNumber" not in said(missing=missing(3, None)).lacks


def test_the_words_of_an_archive_fit_into_a_report() -> None:
    text = ascii_text("Größe\r\n" + "x" * 1000)
    assert text.isascii()
    assert len(text) == 300
    assert text.startswith("Gr??e xxx")
