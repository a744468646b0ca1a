"""C-FIND against the small archive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from dicom_node import query
from dicom_node.archive import CONTEXTS, Archive
from dicom_node.config import Destination
from dicom_node.errors import PermanentError, TransientError
from tests.fixtures.part10 import reference, write_object
from tests.fixtures.retrieving import RetrievingArchive

ME = "NODE"


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[RetrievingArchive]:
    kept = RetrievingArchive(tmp_path / "archive")
    yield kept
    kept.stop()


@pytest.fixture
def peer(archive: RetrievingArchive) -> Destination:
    return at(archive.start())


def at(port: int) -> Destination:
    return Destination(name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout_s=5)


def test_find_instances(archive: RetrievingArchive, peer: Destination, tmp_path: Path) -> None:
    here, absent = write_object(tmp_path), write_object(tmp_path)
    archive.keep(here)
    found = query.find_instances(peer, [reference(here), reference(absent)], ME)
    assert found == {reference(here).sop_instance_uid}


def test_find_series_counts_instances(archive: RetrievingArchive, peer: Destination, tmp_path: Path) -> None:
    study, series = generate_uid(), generate_uid()
    archive.keep(*(write_object(tmp_path, study_uid=study, series_uid=series) for _ in range(3)))
    archive.keep(write_object(tmp_path, study_uid=study), write_object(tmp_path))
    matches = query.find_series(peer, {"StudyInstanceUID": study}, ME)
    counts = {
        query.text(match, "SeriesInstanceUID"): query.number(match, "NumberOfSeriesRelatedInstances")
        for match in matches
    }
    assert counts.pop(series) == 3
    assert list(counts.values()) == [1]


def test_studies_of_a_patient_and_images_of_a_series(
    archive: RetrievingArchive, peer: Destination, tmp_path: Path
) -> None:
    study, series = generate_uid(), generate_uid()
    paths = [write_object(tmp_path, study_uid=study, series_uid=series) for _ in range(2)]
    archive.keep(*paths, write_object(tmp_path, study_uid=study))
    (found,) = query.find_studies(peer, {"PatientID": "TRANSPORT"}, ME)
    assert query.text(found, "StudyInstanceUID") == study
    assert query.text(found, "StudyDate") == "20240501"
    assert query.text(found, "AccessionNumber") == ""
    images = query.find_images(peer, study, series, ME)
    assert {str(image.SOPInstanceUID) for image in images} == {reference(path).sop_instance_uid for path in paths}
    assert query.find_images(peer, study, "1.2.3", ME) == []


def test_a_peer_without_queries(tmp_path: Path) -> None:
    model = StudyRootQueryRetrieveInformationModelFind
    archive = Archive(tmp_path, contexts=[context for context in CONTEXTS if context.abstract_syntax != model])
    try:
        with pytest.raises(PermanentError, match="does not answer queries"):
            query.find_studies(at(archive.start()), {}, ME)
    finally:
        archive.stop()


@pytest.mark.parametrize(
    ("status", "kind"), [(0xA700, TransientError), (0xC001, TransientError), (0xA900, PermanentError)]
)
def test_a_query_that_fails(
    archive: RetrievingArchive,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type[Exception],
) -> None:
    def fail(self: Archive, event: evt.Event) -> Iterator[tuple[int, None]]:
        yield status, None

    monkeypatch.setattr(Archive, "_on_find", fail)
    with pytest.raises(kind, match=f"refused the query: .*0x{status:04X}"):
        query.find_studies(at(archive.start()), {}, ME)


def test_what_is_of_another_series_is_left_out(archive: RetrievingArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an archive that goes by the study alone."""

    def answer(self: Archive, event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        for series in ("1.2.3", "1.2.33", ""):
            match = query.identifier(
                "IMAGE", {"StudyInstanceUID": "1.2", "SOPInstanceUID": f"{series}.1".strip(".")}
            )
            match.SeriesInstanceUID = series
            yield 0xFF01, match  # PS3.4 Table C.4-1: a warning, some optional keys were not matched

    monkeypatch.setattr(Archive, "_on_find", answer)
    found = query.find_images(at(archive.start()), "1.2", "1.2.3", ME)
    assert [str(match.SOPInstanceUID) for match in found] == ["1.2.3.1", "1"]


def test_a_flood_of_matches_ends(archive: RetrievingArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    def flood(self: Archive, event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        while True:
            yield 0xFF00, query.identifier("STUDY", {"PatientID": "X"})

    monkeypatch.setattr(Archive, "_on_find", flood)
    monkeypatch.setattr(query, "MAX_MATCHES", 7)
    with pytest.raises(PermanentError, match="more than 7 matches"):
        query.find_studies(at(archive.start()), {}, ME)


@pytest.mark.parametrize(
    ("given", "expected"), [("12", 12), (" 12 ", 12), (12, 12), ("", None), ("many", None), (None, None)]
)
def test_numbers_of_matches(given: Any, expected: int | None) -> None:
    match = Dataset()
    if given is not None:
        match.InstanceNumber = None
        match["InstanceNumber"]._value = given  # as a peer may send it
    assert query.number(match, "InstanceNumber") == expected


@pytest.mark.parametrize(
    ("value", "exact"), [("A12", True), ("", False), (" ", False), ("*", False), ("A?", False), ("A\\B", False)]
)
def test_what_a_person_asks_for_names_one_thing(value: str, exact: bool) -> None:
    assert query.is_exact(value) is exact
