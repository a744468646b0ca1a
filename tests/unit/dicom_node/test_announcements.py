"""Who is told that a study was not analysed, when, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import evt

from dicom_node import announcements
from dicom_node.announcements import AnnouncementService, Announcer
from dicom_node.archive import OUT_OF_RESOURCES, accept
from dicom_node.carrier import carrier
from dicom_node.destinations import ObjectOutlet
from dicom_node.ledger import SeriesIdentity, Verdict
from dicom_node.states import SeriesState
from tests.fixtures.ct import slice_of
from tests.fixtures.outbox import Outbox
from tests.fixtures.samples import SERIES, STUDY, again, analyse, complete, deliver, filing, receive

QUIET_S = 60.0
OTHER = f"{STUDY}.2"


class Site:
    """An outbox, an archive that is told, and its announcer."""

    def __init__(self, folder: Path, stack: ExitStack, form: str = "report", **behaviour: Any) -> None:
        self.outbox = Outbox(folder, stack)
        self.archive, self.port = self.outbox.archive(**behaviour)
        self.clock, self.ledger = self.outbox.clock, self.outbox.ledger
        self.announcer = self._announcer(form)

    def _announcer(self, form: str) -> Announcer:
        config = self.outbox.config(self.port, not_analysed=form)
        (outlet,) = config.destinations
        assert isinstance(outlet, ObjectOutlet)
        return Announcer(outlet, carrier(outlet, "NODE"), config, self.ledger, self.outbox.spool, self.clock)

    def receive(self, series_uid: str = SERIES, count: int = 12, **changes: Any) -> None:
        """Instances whose files are in the archive folder."""
        for number in range(1, count + 1):
            made = filing(number, series_uid, **changes)
            ds = slice_of(number, series_uid, StudyInstanceUID=STUDY, SOPInstanceUID=made.sop_instance_uid)
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.save_as(self.outbox.spool.archive / made.path, enforce_file_format=True)
        receive(self.ledger, series_uid, count, self.clock(), **changes)

    def end(self, series_uid: str, state: SeriesState, reason: str) -> None:
        assert self.ledger.settle(self.ledger.series(series_uid), state, reason, self.clock())

    def tell(self, after_s: float = QUIET_S) -> list[str]:
        """What the archive has been told in all, after so long."""
        self.clock.advance(after_s)
        self.announcer.run_once()
        return self.told()

    def told(self) -> list[str]:
        files = [dcmread(path) for path in sorted(self.archive.folder.glob("*.dcm"))]
        return [str(ds.ContentSequence[-1].ContentSequence[0].TextValue) for ds in files]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def site(tmp_path: Path, stack: ExitStack) -> Site:
    return Site(tmp_path, stack)


def test_an_incomplete_series_is_told_once_after_the_quiet_time(site: Site) -> None:
    site.receive()
    assert site.tell() == [], "it is being received"
    site.end(SERIES, SeriesState.INCOMPLETE, "3 slices are missing")
    assert site.tell(1) == []
    assert site.tell() == [f"Not analysed: series {SERIES} (12 images): 3 slices are missing"]
    assert len(site.tell(3600)) == 1
    told = [event.reason for event in site.ledger.details(SERIES).events if event.subject == "announced"]
    assert told == ["pacs: is to be told that the study was not analysed", "pacs"]


def test_what_nobody_expects_a_result_of_is_not_told(site: Site) -> None:
    site.receive(count=2)
    site.end(SERIES, SeriesState.NOT_ANALYSED, "2 slices are fewer than 10")
    assert site.tell() == []


def test_one_notice_for_a_study_names_every_series(site: Site) -> None:
    site.receive(count=12)
    site.receive(OTHER, count=20)
    for uid in (SERIES, OTHER):
        site.end(uid, SeriesState.NOT_ANALYSED, "the slices are not axial")
    site.tell()
    (file,) = site.archive.folder.glob("*.dcm")
    words = [item.TextValue for item in dcmread(file).ContentSequence[-1].ContentSequence]
    assert words[:2] == [
        f"Not analysed: series {OTHER} (20 images): the slices are not axial",
        f"Not analysed: series {SERIES} (12 images): the slices are not axial",
    ]


def test_a_study_with_a_result_or_on_its_way_to_one_is_not_told(site: Site) -> None:
    site.receive()
    site.receive(OTHER)
    site.end(OTHER, SeriesState.NOT_ANALYSED, "the slices are not axial")
    assert site.tell() == [], "the first is being received"
    complete(site.ledger, SERIES, site.clock())
    analyse(site.ledger, SERIES, site.clock())
    assert site.tell() == []
    site.ledger.cancel(SERIES, site.clock())
    assert site.tell() != [], "a person took the only result away"


def test_what_ended_long_ago_is_not_told_when_it_is_switched_on(site: Site) -> None:
    site.receive()
    site.end(SERIES, SeriesState.INCOMPLETE, "3 slices are missing")
    assert site.tell(timedelta(days=2).total_seconds()) == []


def test_other_reasons_later_are_told_again(site: Site) -> None:
    site.receive()
    site.end(SERIES, SeriesState.INCOMPLETE, "3 slices are missing")
    site.tell()
    site.ledger.file_instances([filing(13)], site.clock())
    assert len(site.tell()) == 1, "it is being received again"
    site.end(SERIES, SeriesState.INCOMPLETE, "2 slices are missing")
    assert len(site.tell()) == 2


def test_slices_that_come_while_it_is_sent_take_it_back(tmp_path: Path, stack: ExitStack) -> None:
    """The archive is busy first; before the next attempt the series is whole."""
    answers = iter([0xA700])
    site = Site(tmp_path, stack, answer_store=lambda _event: next(answers, 0x0000))
    site.receive()
    site.end(SERIES, SeriesState.INCOMPLETE, "3 slices are missing")
    assert site.tell() == []
    site.ledger.file_instances([filing(13)], site.clock())
    assert site.tell(3600) == []
    assert any("does not apply any more" in event.reason for event in site.ledger.details(SERIES).events)
    site.end(SERIES, SeriesState.INCOMPLETE, "3 slices are missing")
    assert len(site.tell()) == 1


def test_busy_is_tried_again_and_refused_is_not(tmp_path: Path, stack: ExitStack) -> None:
    answers = [0xA700, 0x0124]

    def answer(_event: evt.Event) -> int:
        return answers.pop(0) if answers else 0x0000

    site = Site(tmp_path, stack, answer_store=answer)
    site.receive()
    site.end(SERIES, SeriesState.INCOMPLETE, "3 slices are missing")
    assert site.tell() == []
    assert site.tell(3600) == []
    assert site.tell(3600) == []
    assert answers == []
    states = [event.new_state for event in site.ledger.details(SERIES).events if event.subject == "announced"]
    assert states == ["pending", "pending", "failed"]
    site.ledger.retry(SERIES, site.clock())
    site.end(SERIES, SeriesState.INCOMPLETE, "3 slices are missing")
    assert len(site.tell()) == 1, "a person tried again, and the archive allows it now"


def test_a_notice_never_goes_into_another_study(tmp_path: Path, stack: ExitStack) -> None:
    """The archive is busy; meanwhile the images that it is made of turn out to be another patient's."""
    answers = iter([0xA700])
    site = Site(tmp_path, stack, answer_store=lambda _event: next(answers, 0x0000))
    site.receive(count=12)
    site.receive(OTHER, count=11)
    for uid in (SERIES, OTHER):
        site.end(uid, SeriesState.INCOMPLETE, "3 slices are missing")
    assert site.tell() == []
    moved = SeriesIdentity(SERIES, "7.7.7", "P2")
    header = {"StudyInstanceUID": "7.7.7", "PatientID": "P2"}
    corrected = [
        again(site.ledger, number, Verdict.CORRECTED, SERIES, identity=moved, header=header)
        for number in range(1, 13)
    ]
    site.ledger.file_instances(corrected, site.clock())
    assert all("(11 images)" in told for told in site.tell(3600))
    files = [dcmread(path) for path in site.archive.folder.glob("*.dcm")]
    assert {str(ds.StudyInstanceUID) for ds in files} <= {STUDY}


def test_that_an_earlier_result_does_not_count_any_more_is_said_first(site: Site) -> None:
    site.receive()
    complete(site.ledger, SERIES, site.clock())
    analyse(site.ledger, SERIES, site.clock())
    deliver(site.ledger, now=site.clock())
    site.ledger.file_instances([filing(13)], site.clock())
    site.end(SERIES, SeriesState.INCOMPLETE, "3 slices are missing")
    assert site.tell() == [
        "Not analysed: An earlier result of this study is in the archive and does not count any more"
    ]


def test_a_disk_that_cannot_be_written_is_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError(28, "No space left on device")

    site.receive()
    site.end(SERIES, SeriesState.INCOMPLETE, "3 slices are missing")
    with monkeypatch.context() as patch:
        patch.setattr(announcements, "TemporaryDirectory", full)
        assert site.tell() == []
    assert len(site.tell(3600)) == 1


def test_what_was_still_to_be_told_when_that_was_turned_off_does_not_come_out_later(site: Site) -> None:
    site.receive()
    site.end(SERIES, SeriesState.INCOMPLETE, "3 slices are missing")
    site.archive.answer_store = lambda _: OUT_OF_RESOURCES
    assert site.tell() == []
    config = site.outbox.config(site.port, not_analysed="nothing")
    AnnouncementService(config, site.ledger, site.outbox.spool, site.clock).start()
    site.archive.answer_store = accept
    assert site.tell(7 * 86400.0) == []


def test_a_later_result_replaces_it(site: Site) -> None:
    site.receive()
    site.end(SERIES, SeriesState.INCOMPLETE, "3 slices are missing")
    site.tell()
    (uid,) = site.archive.instances
    site.ledger.file_instances([filing(13)], site.clock())
    complete(site.ledger, SERIES, site.clock())
    job = analyse(site.ledger, SERIES, site.clock())
    for profile in ("default", "another"):  # what the destination has now
        (named,) = site.ledger.superseded(job, {"pacs": profile})[profile]
        assert named.sop_instance_uid == uid


def test_without_an_image_left_it_fails_and_says_so(site: Site) -> None:
    site.receive()
    site.end(SERIES, SeriesState.INCOMPLETE, "3 slices are missing")
    for path in site.outbox.spool.archive.glob("*.dcm"):
        path.unlink()
    assert site.tell() == []
    assert any("no notice can be made" in event.reason for event in site.ledger.details(SERIES).events)


def test_a_picture_where_that_is_asked_for(tmp_path: Path, stack: ExitStack) -> None:
    site = Site(tmp_path, stack, form="picture")
    site.receive()
    site.end(SERIES, SeriesState.INCOMPLETE, "3 slices are missing")
    site.clock.advance(QUIET_S)
    site.announcer.run_once()
    (file,) = site.archive.folder.glob("*.dcm")
    assert dcmread(file).Modality == "OT"
