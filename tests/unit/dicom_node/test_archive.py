"""The small archive: what it keeps, how it answers queries, and that it can be told to misbehave."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.sop_class import CTImageStorage, SegmentationStorage  # type: ignore[attr-defined]

from dicom_node import query, scu
from dicom_node.archive import Archive
from dicom_node.commitment import CommitmentReport
from dicom_node.config import Destination
from tests.fixtures.part10 import reference, write_object

ME = "NODE"


@pytest.fixture()
def archive(tmp_path: Path) -> Iterator[Archive]:
    kept = Archive(tmp_path / "archive")
    yield kept
    kept.stop()


@pytest.fixture()
def peer(archive: Archive) -> Destination:
    return destination(archive.start())


def destination(port: int) -> Destination:
    return Destination(name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout_s=5)


def test_keeps_what_it_stored_over_a_restart(archive: Archive, peer: Destination, tmp_path: Path) -> None:
    path = write_object(tmp_path)
    scu.store(peer, [path], ME)
    archive.stop()
    again = Archive(archive.folder)
    port = again.start()
    assert query.find_instances(destination(port), [reference(path)], ME) == {reference(path).sop_instance_uid}
    again.stop()


def test_the_same_bytes_again_are_no_conflict(archive: Archive, peer: Destination, tmp_path: Path) -> None:
    path = write_object(tmp_path)
    scu.store(peer, [path, path], ME)
    scu.store(peer, [path], ME)
    assert archive.conflicts == []
    assert len(archive.instances) == 1


def test_other_bytes_under_a_uid_are_noticed_and_not_kept(
    archive: Archive, peer: Destination, tmp_path: Path
) -> None:
    path = write_object(tmp_path)
    scu.store(peer, [path], ME)
    ds = dcmread(path)
    ds.PatientID = "SOMEBODY ELSE"
    ds.save_as(path)
    (result,) = scu.store(peer, [path], ME)
    assert result.error is None
    assert archive.conflicts == [ds.SOPInstanceUID]
    assert archive.instances[ds.SOPInstanceUID].header.PatientID == "TRANSPORT"


def test_waits_for_what_is_stored(archive: Archive, peer: Destination, tmp_path: Path) -> None:
    sender = threading.Thread(target=scu.store, args=(peer, [write_object(tmp_path)], ME))
    sender.start()
    assert archive.wait_for(lambda: len(archive.instances) == 1, 10)
    sender.join()
    assert not archive.wait_for(lambda: len(archive.instances) == 2, 0.01)


def test_a_failure_status_keeps_nothing_a_warning_does(tmp_path: Path) -> None:
    statuses = iter([0xA700, 0xB000])
    archive = Archive(tmp_path / "archive", answer_store=lambda event: next(statuses))
    peer = destination(archive.start())
    refused, kept = scu.store(peer, [write_object(tmp_path), write_object(tmp_path)], ME)
    archive.stop()
    assert refused.error is not None
    assert kept.warning
    assert list(archive.instances) == [kept.sop_instance_uid]


def test_the_answer_to_a_commitment_request_can_be_replaced(tmp_path: Path) -> None:
    asked: list[CommitmentReport] = []

    def lie(report: CommitmentReport) -> CommitmentReport:
        asked.append(report)
        return CommitmentReport(report.transaction_uid, report.committed[:1], ((report.committed[1], 0x0110),))

    archive = Archive(tmp_path / "archive", answer_commitment=lie, same_association=True)
    peer = destination(archive.start())
    paths = [write_object(tmp_path), write_object(tmp_path)]
    scu.store(peer, paths, ME)
    uids = tuple(reference(path).sop_instance_uid for path in paths)
    reports: list[CommitmentReport] = []
    answered = threading.Event()

    def take(report: CommitmentReport) -> None:
        reports.append(report)
        answered.set()

    uid = generate_uid()
    scu.request_commitment(peer, [reference(path) for path in paths], uid, ME, take, answered, 5)
    archive.stop()
    assert asked == [CommitmentReport(uid, uids, ())]
    assert reports == [CommitmentReport(uid, uids[:1], ((uids[1], 0x0110),))]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"StudyInstanceUID": "1.2.3"}, {"1.2.3.1", "1.2.3.2"}),
        ({"StudyInstanceUID": "1.2.3\\1.2.4"}, {"1.2.3.1", "1.2.3.2", "1.2.4.1"}),
        ({"StudyInstanceUID": "", "PatientID": "TRANS*"}, {"1.2.3.1", "1.2.3.2", "1.2.4.1"}),
        ({"StudyInstanceUID": "", "PatientID": "TRANS?"}, set()),
        ({"StudyInstanceUID": "", "StudyDate": "20240401-20240501"}, {"1.2.3.1", "1.2.3.2", "1.2.4.1"}),
        ({"StudyInstanceUID": "", "StudyDate": "20240502-"}, set()),
        ({"StudyInstanceUID": "1.2.9"}, set()),
    ],
)
def test_series_queries(
    archive: Archive, peer: Destination, tmp_path: Path, keys: dict[str, str], expected: set[str]
) -> None:
    for study, series in (("1.2.3", "1.2.3.1"), ("1.2.3", "1.2.3.1"), ("1.2.3", "1.2.3.2"), ("1.2.4", "1.2.4.1")):
        scu.store(peer, [write_object(tmp_path, study_uid=study, series_uid=series)], ME)
    matches = query.find_series(peer, {**keys, "SeriesInstanceUID": ""}, ME)
    assert {match.SeriesInstanceUID for match in matches} == expected
    assert len(matches) == len(expected)


def test_study_query_gives_counts_and_modalities(archive: Archive, peer: Destination, tmp_path: Path) -> None:
    for series in ("1.2.3.1", "1.2.3.1", "1.2.3.2"):
        scu.store(peer, [write_object(tmp_path, SegmentationStorage, study_uid="1.2.3", series_uid=series)], ME)
    keys = {
        "StudyInstanceUID": "1.2.3",
        "NumberOfStudyRelatedSeries": "",
        "NumberOfStudyRelatedInstances": "",
        "ModalitiesInStudy": "",
        "PatientName": "",
    }
    ((study,),) = query.find(peer, [query.identifier("STUDY", keys)], ME)
    assert (study.NumberOfStudyRelatedSeries, study.NumberOfStudyRelatedInstances) == (2, 3)
    assert study.ModalitiesInStudy == "OT"
    assert study.PatientName in ("", None)


def test_an_unknown_level_is_refused(archive: Archive, peer: Destination) -> None:
    with pytest.raises(Exception, match="refused the query: cannot understand"):
        query.find(peer, [query.identifier("WARD", {"PatientID": ""})], ME)


def test_ct_is_stored_with_its_name_only(tmp_path: Path) -> None:
    """A UID from the wire becomes a file name only where it is one."""
    names: list[str] = []

    def change(event: evt.Event) -> int:
        event.request.AffectedSOPInstanceUID = "1.2..3"  # type: ignore[union-attr]
        names.append("asked")
        return 0x0000

    archive = Archive(tmp_path / "archive", answer_store=change)
    peer = destination(archive.start())
    (result,) = scu.store(peer, [write_object(tmp_path, CTImageStorage)], ME)
    archive.stop()
    assert names == ["asked"]
    assert result.error is not None
    assert "0xC000" in str(result.error)
    assert list(archive.folder.iterdir()) == []
