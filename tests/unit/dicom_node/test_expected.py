"""Reports that an archive was asked to send: handed to who asked for them, and to nobody else; nothing is filed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
)
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from dicom_node import prior_reports, scu
from dicom_node.archive import Address
from dicom_node.audit_events import EVENTS
from dicom_node.audit_message import Study
from dicom_node.config import Destination, Source
from dicom_node.errors import NodeError, TransientError
from dicom_node.report_retrieval import CONTEXTS, MAX_REPORTS, Collected, ReportSeries, bring
from dicom_node.upper_layer import Discarded
from pipeline import sr_reader
from tests.fixtures.orthanc import free_port
from tests.fixtures.part10 import data_set_bytes, write_object
from tests.fixtures.reception import (
    AE_TITLE,
    SECONDS,
    Node,
    calling,
    ct,
    encode,
    receiving,
    status,
    store,
    store_dataset,
)
from tests.fixtures.retrieving import RetrievingArchive

SR = (Comprehensive3DSRStorage, ExplicitVRLittleEndian)
CT = (CTImageStorage, ExplicitVRLittleEndian)
STUDY, SERIES, WANTED, UNASKED = "1.2.3", "1.2.3.4", "1.2.3.4.5", "1.2.3.4.6"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with receiving(tmp_path / "state") as running:
        yield running


def report(uid: str = WANTED, **elements: Any) -> Dataset:
    return ct(SOPClassUID=Comprehensive3DSRStorage, SOPInstanceUID=uid, PixelData=None, **elements)


@contextmanager
def expecting(node: Node) -> Iterator[Collected]:
    collected = Collected()
    with node.expected.instances({"ARCHIVE"}, {WANTED}, CONTEXTS, collected.take):
        yield collected


def archive(node: Node, *contexts: tuple[str, str]) -> Any:
    return calling(node, contexts or (SR, CT), calling_ae="ARCHIVE")


def accepted(assoc: Association) -> set[Any]:
    return {context.abstract_syntax for context in assoc.accepted_contexts}


def test_a_report_is_taken_while_it_is_expected_and_is_not_filed(node: Node) -> None:
    wanted = report()
    with archive(node) as assoc:
        assert accepted(assoc) == {CTImageStorage}
    with expecting(node) as collected, archive(node) as assoc:
        assert status(store_dataset(assoc, wanted)) == 0x0000
    assert collected.reports == [(encode(wanted), ExplicitVRLittleEndian)]
    assert node.stored == [] and node.spool.pending() == []
    assert node.receiver.active_series() == frozenset()
    with archive(node) as assoc:
        assert accepted(assoc) == {CTImageStorage}


def test_nobody_else_may_send_one(node: Node) -> None:
    with expecting(node) as collected, calling(node, (SR, CT), calling_ae="MODALITY") as assoc:
        assert accepted(assoc) == {CTImageStorage}
    assert collected.reports == []


def test_ct_of_the_same_archive_is_filed_as_ever(node: Node) -> None:
    with expecting(node) as collected, archive(node, CT, SR) as assoc:
        assert status(store_dataset(assoc, ct(SeriesInstanceUID=SERIES))) == 0x0000
    assert collected.reports == [] and len(node.stored) == 1


def test_a_report_that_is_not_listed_or_one_that_comes_too_late_is_refused(node: Node) -> None:
    with ExitStack() as associations:
        with expecting(node) as collected:
            assoc = associations.enter_context(archive(node))
            assert status(store_dataset(assoc, report(UNASKED))) == 0x0122
        assert status(store_dataset(assoc, report())) == 0x0122
    assert collected.reports == [] and node.stored == []


def test_where_others_are_ignored_those_that_are_expected_are_taken_all_the_same(tmp_path: Path) -> None:
    with receiving(tmp_path / "state", other_modalities="ignore") as node:
        wanted = report()
        with archive(node) as assoc:
            assert status(store_dataset(assoc, wanted)) == 0x0000
        with expecting(node) as collected, archive(node) as assoc:
            assert status(store_dataset(assoc, report(UNASKED))) == 0x0000
            assert collected.reports == []
            assert status(store_dataset(assoc, wanted)) == 0x0000
        assert collected.reports == [(encode(wanted), ExplicitVRLittleEndian)]
        assert node.stored == []


def test_hostile_reports(node: Node) -> None:
    wanted = report()
    with expecting(node) as collected, archive(node, SR) as assoc:
        assert status(store(assoc, encode(wanted), "1.2.9", Comprehensive3DSRStorage)) == 0xA900
        assert status(store(assoc, b"", "1.2.9", Comprehensive3DSRStorage)) == 0x0122
        assert (
            status(store(assoc, encode(wanted)[:40], str(wanted.SOPInstanceUID), Comprehensive3DSRStorage))
            == 0x0122
        )
        too_long = report(EncapsulatedDocument=bytes(sr_reader.MAX_BYTES))
        assert status(store_dataset(assoc, too_long)) == 0xA700
    assert collected.reports == [] and node.stored == []


def test_the_audit_trail_knows_of_them(node: Node) -> None:
    events: list[Any] = []
    recorder = logging.Handler()
    recorder.emit = lambda record: events.append(record.msg)  # type: ignore[method-assign]
    EVENTS.addHandler(recorder)
    try:
        with expecting(node), archive(node) as assoc:
            store_dataset(assoc, report(PatientID="P-1", StudyInstanceUID=STUDY))
        node.ended.get(timeout=SECONDS)
    finally:
        EVENTS.removeHandler(recorder)
    (received,) = events
    assert received.instances == [Study(STUDY, "P-1", "", {Comprehensive3DSRStorage: 1})]


class TestCollected:
    """Bounds."""

    def take(self, collected: Collected, uid: str, data: bytes = b"x", **changes: Any) -> int:
        request = C_STORE()
        request.AffectedSOPInstanceUID = UID(uid)
        request.DataSet = changes.get("data_set", BytesIO(data))
        sop_class = UID(changes.get("sop_class", Comprehensive3DSRStorage))
        return collected.take(request, sop_class, UID(changes.get("syntax", ExplicitVRLittleEndian))).status

    def test_so_many(self) -> None:
        collected = Collected()
        assert {self.take(collected, f"1.{number}") for number in range(MAX_REPORTS)} == {0x0000}
        assert self.take(collected, "1.0") == 0x0000
        assert self.take(collected, "2.0") == 0xA700
        assert len(collected.reports) == MAX_REPORTS

    def test_what_comes_with_two_contents_is_believed_neither_time(self) -> None:
        collected = Collected()
        answers = [self.take(collected, "1.0", data) for data in (b"x", b"forged", b"x")]
        assert answers == [0x0000, 0xA700, 0xA700]
        assert self.take(collected, "1.1") == 0x0000 and len(collected.reports) == 1

    def test_so_large(self) -> None:
        collected, large = Collected(), bytes(sr_reader.MAX_BYTES)
        assert self.take(collected, "1.0", large + b"x") == 0xA700
        assert [self.take(collected, f"1.{number}", large) for number in range(9)] == [0x0000] * 8 + [0xA700]

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"sop_class": EnhancedSRStorage}, 0x0122),
            ({"syntax": DeflatedExplicitVRLittleEndian}, 0x0122),
            ({"data_set": None}, 0xA700),
            ({"data_set": Discarded("too long")}, 0xA700),
        ],
    )
    def test_what_is_not_read(self, changes: dict[str, Any], expected: int) -> None:
        collected = Collected()
        assert self.take(collected, "1.0", **changes) == expected
        assert collected.reports == []


class Moving:
    """An archive with two reports of one series that knows the node, and what is asked of it."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node = node
        self.paths = [
            write_object(folder, Comprehensive3DSRStorage, study_uid=STUDY, series_uid=SERIES) for _ in range(2)
        ]
        self.archive = RetrievingArchive(folder / "archive")
        self.archive.keep(*self.paths)
        self.archive.peers[AE_TITLE] = Address("127.0.0.1", node.port)
        self.port = self.archive.start()

    def bring(self, timeout_s: float = SECONDS, **changes: Any) -> list[tuple[bytes, UID]]:
        source = Source(
            name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=self.port, timeout_s=timeout_s, **changes
        )
        uids = tuple(str(dcmread(path).SOPInstanceUID) for path in self.paths)
        return bring(source, [ReportSeries(STUDY, SERIES, uids)], AE_TITLE, self.node.expected)

    def send(self, paths: Sequence[Path] = ()) -> None:
        me = Destination(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=self.node.port)
        scu.store(me, paths or self.paths, "ARCHIVE")


@pytest.fixture
def moving(node: Node, tmp_path: Path) -> Iterator[Moving]:
    made = Moving(node, tmp_path)
    yield made
    made.archive.stop()


@pytest.mark.parametrize("manner", ["move", "get"])
def test_brought_as_the_source_says(moving: Moving, manner: str) -> None:
    sent = {data_set_bytes(path.read_bytes()) for path in moving.paths}
    assert {data for data, _ in moving.bring(retrieve=manner)} == sent
    assert moving.node.stored == [] and moving.node.expected.contexts("ARCHIVE") == []


def test_an_archive_that_answers_before_it_sends_is_waited_for(moving: Moving) -> None:
    senders: list[threading.Thread] = []

    def answer(_event: Any) -> Iterator[Any]:
        senders.append(threading.Thread(target=moving.send))
        senders[0].start()
        yield 0

    moving.archive.answer = answer
    assert len(moving.bring()) == 2
    senders[0].join(SECONDS)


def test_an_archive_that_says_it_has_sent_what_did_not_come(moving: Moving) -> None:
    moving.archive.answer = lambda _event: iter([0])
    with pytest.raises(
        TransientError, match=r"2 reports did not come, although pacs .* registered there.*calling_ae_titles"
    ):
        moving.bring(timeout_s=0.2)
    assert moving.node.expected.contexts("ARCHIVE") == []


def test_what_came_is_kept_where_the_rest_does_not_come(moving: Moving) -> None:
    """As by C-GET: who asked counts what is lacking and says so."""

    def answer(_event: Any) -> Iterator[Any]:
        moving.send(moving.paths[:1])
        yield 0

    moving.archive.answer = answer
    assert len(moving.bring(timeout_s=0.2)) == 1


@pytest.mark.parametrize(("manner", "come"), [("get", 2), ("move", 0)])
def test_a_series_whose_instances_are_not_listed(moving: Moving, manner: Literal["move", "get"], come: int) -> None:
    """By C-GET it comes all the same; by C-MOVE nobody can say what belongs to it, and that is told."""
    source = Source(
        name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=moving.port, timeout_s=SECONDS, retrieve=manner
    )
    series = [ReportSeries(STUDY, SERIES, ())]
    assert len(bring(source, series, AE_TITLE, moving.node.expected)) == come
    told = prior_reports._lacking(source, series, come)
    assert told == ("" if come else "; 1 series could not, as their instances are not listed")


def test_reports_beyond_what_is_fetched_are_counted() -> None:
    series = [ReportSeries(STUDY, f"1.{k}", tuple(f"1.{k}.{n}" for n in range(60))) for k in range(2)]
    kept = prior_reports._so_many(series)
    assert kept == series[:1]
    source = Source(name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=104)
    assert prior_reports._lacking(source, series, 60) == "; 60 could not be fetched"


def test_an_archive_that_cannot_reach_the_node(moving: Moving) -> None:
    moving.archive.peers[AE_TITLE] = Address("127.0.0.1", free_port())
    with pytest.raises(NodeError, match="destination of C-MOVE"):
        moving.bring()


def test_a_node_that_stops_waits_for_nobody(moving: Moving) -> None:
    moving.archive.answer = lambda _event: iter([0])
    moving.node.expected.stop()
    with pytest.raises(TransientError, match="2 reports did not come"):
        moving.bring(timeout_s=600)
