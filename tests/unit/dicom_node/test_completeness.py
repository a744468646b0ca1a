"""The proof of completeness: what the source says, what is fetched, and that no source ever holds up a series."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_node import query
from dicom_node.errors import PermanentError
from dicom_node.ledger import Ledger, Retrieval
from dicom_node.retry import FEWEST_ATTEMPTS
from dicom_node.states import RetrievalState, SeriesState
from tests.fixtures.paper_archive import ENTRY, PaperArchive
from tests.unit.dicom_node.test_coordinator import SOFT, Bench, ct

S, R = SeriesState, RetrievalState


@pytest.fixture
def pacs(monkeypatch: pytest.MonkeyPatch) -> PaperArchive:
    archive = PaperArchive()
    archive.patch(monkeypatch)
    return archive


@pytest.fixture
def bench(book: Ledger, tmp_path: Path, pacs: PaperArchive) -> Bench:
    return Bench(book, tmp_path / "state", ENTRY | {"backoff_s": 20, "backoff_cap_s": 40, "give_up_after_h": 1})


def send(bench: Bench, *numbers: int) -> None:
    for number in numbers:
        bench.send(SOFT, number)


def hold(pacs: PaperArchive, *numbers: int) -> None:
    pacs.hold(*(ct(SOFT, number) for number in numbers))


def completeness(bench: Bench) -> str:
    return bench.ledger.series(SOFT).completeness


def retrieval(bench: Bench) -> Retrieval:
    (found,) = bench.ledger.retrievals_of(SOFT)
    return found


def test_the_sources_number_shows_that_it_is_whole(bench: Bench, pacs: PaperArchive) -> None:
    hold(pacs, *range(1, 6))
    send(bench, *range(1, 6))
    bench.after(10)
    assert bench.state() is S.COMPLETE
    assert completeness(bench).startswith("5 instances, as many as pacs lists (C-FIND, NumberOfSeries")
    assert pacs.asked == ["series"]


def test_missing_slices_are_fetched_at_the_end_too_where_geometry_sees_nothing(
    bench: Bench, pacs: PaperArchive
) -> None:
    hold(pacs, *range(1, 8))
    send(bench, 1, 2, 3, 4)
    bench.after(10)
    assert bench.state() is S.RECEIVING, "three have come, and the series is to be quiet again"
    assert (retrieval(bench).state, retrieval(bench).wanted, retrieval(bench).fetched) == (R.DONE, 3, 3)
    bench.after(10)
    assert bench.state() is S.COMPLETE
    assert "7 instances, as many as pacs lists" in completeness(bench)
    assert "3 of them fetched from pacs by C-GET" in completeness(bench)
    bench.settle()
    assert bench.state() is S.DELIVERED
    assert bench.ledger.series(SOFT).revision == 1


def test_so_few_that_they_are_no_volume_are_fetched_too(bench: Bench, pacs: PaperArchive) -> None:
    hold(pacs, *range(1, 6))
    send(bench, 3)
    bench.after(10)
    bench.after(10)
    assert bench.state() is S.COMPLETE


def test_a_number_that_is_not_given_is_counted(bench: Bench, pacs: PaperArchive) -> None:
    pacs.numbers = False
    hold(pacs, *range(1, 6))
    send(bench, *range(1, 6))
    bench.after(10)
    assert completeness(bench).startswith("all 5 instances that pacs lists are here (C-FIND of each)")


def test_a_series_that_is_listed_in_parts_is_counted(
    bench: Bench, pacs: PaperArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by archives that have it in two places: the number of one part is not that of the series."""
    half = Dataset()
    half.NumberOfSeriesRelatedInstances = 4
    monkeypatch.setattr(query, "find_series", lambda *_args: [half, half])
    hold(pacs, *range(1, 9))
    send(bench, *range(1, 5))
    bench.after(10)
    assert retrieval(bench).fetched == 4
    bench.after(10)
    assert "all 8 instances that pacs lists are here" in completeness(bench)


def test_what_the_receiver_does_not_take_is_not_waited_for(bench: Bench, pacs: PaperArchive) -> None:
    hold(pacs, *range(1, 6))
    pacs.hold(ct(SOFT, 6, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"))
    send(bench, *range(1, 6))
    bench.after(10)
    assert bench.state() is S.COMPLETE
    assert completeness(bench).startswith("all 5 instances that pacs lists are here")


def test_a_source_that_does_not_answer_holds_up_nobody(bench: Bench, pacs: PaperArchive) -> None:
    pacs.go_away()
    send(bench, *range(1, 6))
    bench.after(10)
    assert bench.state() is S.COMPLETE
    assert completeness(bench).startswith(
        "pacs could not be asked for its number of instances (PACS at h:104 refuses the connection): shown by quiet"
    )
    asked = len(pacs.asked)
    bench.send_all("1.2.3.2")
    bench.after(10)
    assert bench.state("1.2.3.2") is S.COMPLETE
    assert len(pacs.asked) == asked, "it counts as away for a while, and is not called for every series"


def test_one_that_never_answers_at_all_holds_up_nobody(bench: Bench, pacs: PaperArchive) -> None:
    send(bench, *range(1, 6))
    bench.now += timedelta(seconds=10)
    bench.coordinator.sweep(bench.now)  # the question is put, and its thread hangs
    assert bench.state() is S.RECEIVING
    bench.now += timedelta(seconds=4 * 30)
    bench.coordinator.sweep(bench.now)
    assert bench.state() is S.QUEUED
    assert "it did not answer within 120 s" in completeness(bench)


def test_it_is_asked_again_while_a_gap_is_waited_for(bench: Bench, pacs: PaperArchive) -> None:
    pacs.go_away()
    hold(pacs, *range(1, 7))
    send(bench, 1, 2, 3, 5, 6)
    bench.after(10)
    assert bench.state() is S.RECEIVING
    pacs.error = None
    bench.after(25)
    assert retrieval(bench).fetched == 1
    bench.after(10)
    assert bench.state() is S.COMPLETE


def test_after_the_node_was_off_a_source_that_is_up_later_than_it_is_asked_again(
    bench: Bench, pacs: PaperArchive
) -> None:
    hold(pacs, *range(1, 6))
    pacs.withheld = {f"{SOFT}.5"}
    send(bench, 1, 2, 3, 4)
    for _ in range(4):
        bench.after(40)
    assert retrieval(bench).attempts >= FEWEST_ATTEMPTS
    pacs.go_away()
    bench.now += timedelta(days=2)  # longer than give_up_after_h
    bench.restart()
    bench.after(10)
    assert retrieval(bench).state is R.WAITING
    pacs.error, pacs.withheld = None, set()
    bench.after(3600)
    assert retrieval(bench).state is R.DONE


def test_what_it_lists_and_never_sends_ends_as_incomplete_with_its_numbers(
    bench: Bench, pacs: PaperArchive
) -> None:
    hold(pacs, *range(1, 9))
    pacs.withheld = {f"{SOFT}.{number}" for number in (4, 8)}
    send(bench, 1, 2, 3, 5, 6, 7)
    bench.after(10)
    assert bench.state() is S.RECEIVING
    assert "2 of them have not come (InstanceNumber 4, 8)" in bench.ledger.series(SOFT).reason
    for _ in range(6):
        bench.after(20)
    ended = bench.ledger.series(SOFT)
    assert ended.state is S.INCOMPLETE
    assert ended.reason.startswith("given up after 100 s without a new instance: pacs lists 8 instances, 2 of them")
    assert "InstanceNumber 4, 8" in ended.reason
    assert "1 slices are missing, at 8.00 mm" in ended.reason
    pacs.withheld = set()
    bench.after(40)
    bench.settle()
    assert bench.state() is S.DELIVERED, "the retrieval goes on after the series was given up"


def test_without_a_source_the_same_gap_is_named_by_position(book: Ledger, tmp_path: Path) -> None:
    bench = Bench(book, tmp_path / "state")
    send(bench, 1, 2, 3, 5, 6, 7)
    bench.after(10)
    bench.after(100)
    assert bench.ledger.series(SOFT).state is S.INCOMPLETE
    assert "1 slices are missing, at 8.00 mm" in bench.ledger.series(SOFT).reason


def test_a_refusal_for_good_is_told_and_a_person_may_ask_again(bench: Bench, pacs: PaperArchive) -> None:
    hold(pacs, *range(1, 9))
    send(bench, 1, 2, 3, 4)
    original = pacs._get

    def refuse(*arguments: Any) -> Any:
        raise PermanentError("PACS at h:104 knows no address of DICOMNODE: ask the PACS administrator.")

    from dicom_node import retrieve

    retrieve.get = refuse  # type: ignore[assignment]  # restored by the fixture's monkeypatch
    for _ in range(8):
        bench.after(20)
    ended = bench.ledger.series(SOFT)
    assert ended.state is S.INCOMPLETE
    assert "knows no address of DICOMNODE" in ended.reason
    assert retrieval(bench).state is R.FAILED
    retrieve.get = original
    bench.ledger.retry(SOFT, bench.now)
    bench.settle()
    assert bench.state() is S.DELIVERED
    assert "4 of them fetched from pacs by C-GET" in completeness(bench)


def test_a_series_too_long_to_fetch(book: Ledger, tmp_path: Path, pacs: PaperArchive) -> None:
    bench = Bench(book, tmp_path / "state", ENTRY | {"max_instances": 2})
    hold(pacs, *range(1, 9))
    send(bench, 1, 2, 3, 4)
    bench.after(10)
    assert retrieval(bench).state is R.FAILED
    assert "4 instances are lacking, sources.max_instances of pacs is 2" in retrieval(bench).reason


def test_localizers_and_other_body_parts_are_not_asked_about(bench: Bench, pacs: PaperArchive) -> None:
    hold(pacs, *range(1, 9))
    bench.send(SOFT, 1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    bench.after(10)
    assert bench.state() is S.NOT_ANALYSED
    assert pacs.asked == []


def test_a_correction_under_a_new_uid_makes_one_new_revision(bench: Bench, pacs: PaperArchive) -> None:
    send(bench, *range(1, 6))
    bench.settle()
    bench.send(SOFT, 3, pixels=9, SOPInstanceUID=f"{SOFT}.103")
    bench.settle()
    series = bench.ledger.series(SOFT)
    assert (series.state, series.revision) == (S.DELIVERED, 2)
    assert "1 slices replaced by later ones at the same position" in series.completeness
    results = [result for result in bench.ledger.details(SOFT).results if result.current]
    assert len(results) == 1


def test_after_a_restart_the_source_is_asked_again(bench: Bench, pacs: PaperArchive) -> None:
    hold(pacs, *range(1, 9))
    pacs.withheld = set(pacs.held)
    send(bench, 1, 2, 3, 4)
    bench.after(10)
    assert retrieval(bench).state is R.WAITING
    pacs.withheld = set()
    bench.restart()
    bench.after(40)
    bench.after(10)
    assert bench.state() is S.COMPLETE
    assert "4 of them fetched from pacs by C-GET" in completeness(bench)
