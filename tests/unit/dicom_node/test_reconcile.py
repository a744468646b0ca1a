"""What a source has beside what the ledger knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.config import CompletionSection, Source
from dicom_node.ledger import SeriesRecord
from dicom_node.part10 import FileMeta
from dicom_node.reconcile import ListedSeries, compare, listed_series, listed_since
from dicom_node.states import SeriesState
from tests.fixtures.ct import encode, slice_of
from tests.fixtures.records import series_record
from tests.fixtures.retrieving import RetrievingArchive
from tests.fixtures.samples import START

S = SeriesState
RULES = CompletionSection(min_slices=3)
NOW = START + timedelta(days=1)


def listed(number: int = 1, instances: int | None = 20, study: str = "1.2.3") -> ListedSeries:
    return ListedSeries("pacs", study, f"1.2.3.{number}", instances)


def known(*records: SeriesRecord) -> dict[str, SeriesRecord]:
    return {record.series_uid: record for record in records}


def record(state: SeriesState, number: int = 1, instances: int = 20, **changes: Any) -> SeriesRecord:
    return series_record(f"1.2.3.{number}", state=state, instances=instances, **changes)


def test_a_series_that_was_never_seen_is_found_and_fetched() -> None:
    (finding,) = compare([listed()], {}, RULES, NOW)
    assert (finding.reason, finding.state, finding.received, finding.fetch) == ("never seen", None, 0, True)


def test_short_series_are_passed_over() -> None:
    assert compare([listed(instances=2)], {}, RULES, NOW) == []
    assert len(compare([listed(instances=None)], {}, RULES, NOW)) == 1


@pytest.mark.parametrize("state", [S.DELIVERED, S.NOT_ANALYSED, S.CANCELLED])
def test_what_came_to_an_end_with_everything_is_no_finding(state: SeriesState) -> None:
    assert compare([listed()], known(record(state)), RULES, NOW) == []


@pytest.mark.parametrize("state", [S.DELIVERED, S.NOT_ANALYSED, S.INCOMPLETE, S.FAILED])
def test_what_lacks_instances_is_fetched(state: SeriesState) -> None:
    (finding,) = compare([listed()], known(record(state, instances=18)), RULES, NOW)
    assert finding.fetch
    assert finding.reason.startswith("20 instances there, 18 here")


@pytest.mark.parametrize("state", [S.INCOMPLETE, S.FAILED])
def test_what_ended_badly_with_everything_is_told_and_not_fetched(state: SeriesState) -> None:
    (finding,) = compare([listed()], known(record(state, reason="no luck")), RULES, NOW)
    assert (finding.reason, finding.fetch) == ("no luck", False)


@pytest.mark.parametrize("state", [S.RECEIVING, S.COMPLETE, S.QUEUED, S.ANALYSED])
def test_what_is_under_way_is_told_only_when_it_is_stuck(state: SeriesState) -> None:
    fresh = record(state, instances=18, changed_at=NOW - timedelta(minutes=59))
    assert compare([listed()], known(fresh), RULES, NOW) == []
    stuck = replace(fresh, changed_at=NOW - timedelta(minutes=61))
    assert len(compare([listed()], known(stuck), RULES, NOW)) == 1


def test_other_series_of_a_study_with_a_result_are_no_findings() -> None:
    both = [listed(1), listed(2)]
    assert compare(both, known(record(S.DELIVERED)), RULES, NOW) == []
    lacking = known(record(S.DELIVERED, instances=18))
    assert [finding.series.series_uid for finding in compare(both, lacking, RULES, NOW)] == ["1.2.3.1", "1.2.3.2"]
    rejected = known(record(S.NOT_ANALYSED))  # the localizer came, and the chest did not
    assert [finding.series.series_uid for finding in compare(both, rejected, RULES, NOW)] == ["1.2.3.2"]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[tuple[RetrievingArchive, Source]]:
    """Chest and head of one day, a chest of the next."""
    kept = RetrievingArchive(tmp_path / "archive")
    for uid, study, day, part in (
        ("1.2.3.1", "1.2.3", "20260102", "CHEST"),
        ("1.2.3.2", "1.2.3", "20260102", "HEAD"),
        ("1.2.4.1", "1.2.4", "20260103", "CHEST"),
    ):
        for number in (1, 2, 3):
            ds = slice_of(
                number,
                uid,
                StudyInstanceUID=study,
                StudyDate=day,
                BodyPartExamined=part,
                SeriesDescription=part.title(),
            )
            meta = FileMeta(ds.SOPClassUID, ds.SOPInstanceUID, ExplicitVRLittleEndian, "CT1", "127.0.0.1")
            path = tmp_path / "one.dcm"
            path.write_bytes(meta.encode() + encode(ds))
            kept.keep(path)
    port = kept.start()
    yield kept, Source(name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout_s=5)
    kept.stop()


def test_a_source_is_asked_day_by_day_for_chests(archive: tuple[RetrievingArchive, Source]) -> None:
    _, source = archive
    found = listed_since(source, date(2026, 1, 2), date(2026, 1, 2), "NODE")
    assert [(item.series_uid, item.instances) for item in found] == [("1.2.3.1", 3), ("1.2.4.1", 3)]
    assert [item.patient_id for item in found] == ["P1", "P1"]
    assert listed_since(source, date(2026, 1, 4), date(2026, 1, 4), "NODE") == []


def test_by_hand_every_ct_series_of_a_study_is_listed(archive: tuple[RetrievingArchive, Source]) -> None:
    _, source = archive
    found = listed_series(source, {"StudyInstanceUID": "1.2.3"}, "NODE")
    assert sorted(item.series_uid for item in found) == ["1.2.3.1", "1.2.3.2"]
    assert len(listed_series(source, {"PatientID": "P1"}, "NODE")) == 3
    assert listed_series(source, {"AccessionNumber": "none"}, "NODE") == []
