"""C-MOVE and C-GET against the small archive, and against archives that do not keep to the rules."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless, generate_uid
from pynetdicom import evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]

from dicom_node import retrieve
from dicom_node.archive import Address, Archive
from dicom_node.association_server import Answer
from dicom_node.config import Destination
from dicom_node.errors import PermanentError, TransientError
from dicom_node.retrieve import Retrieved
from dicom_node.upper_layer import Discarded, InstanceMemory
from tests.fixtures import wire
from tests.fixtures.part10 import reference, write_object
from tests.fixtures.retrieving import FIND, GET, MOVE, RetrievingArchive

ME, LIMIT_S = "NODE", 5.0
STUDY, SERIES = generate_uid(), generate_uid()
STORAGE = [build_context(CTImageStorage, syntax) for syntax in (ExplicitVRLittleEndian, RLELossless)]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[RetrievingArchive]:
    kept = RetrievingArchive(tmp_path / "archive")
    yield kept
    kept.stop()


@pytest.fixture
def paths(archive: RetrievingArchive, tmp_path: Path) -> list[Path]:
    """Three instances of one series, which the archive has, beside one of another."""
    three = [write_object(tmp_path, CTImageStorage, study_uid=STUDY, series_uid=SERIES) for _ in range(3)]
    archive.keep(*three, write_object(tmp_path, CTImageStorage, study_uid=STUDY))
    return three


def at(port: int, timeout_s: float = LIMIT_S) -> Destination:
    return Destination(name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout_s=timeout_s)


def uids(paths: list[Path]) -> set[str]:
    return {reference(path).sop_instance_uid for path in paths}


class Kept:
    """Keeps what a C-GET brings."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)  # of the first instances; the others are kept
        self.instances: dict[str, tuple[bytes, UID, UID]] = {}
        self.discarded = 0

    def __call__(self, request: C_STORE, sop_class: UID, transfer_syntax: UID) -> Answer:
        assert request.DataSet is not None
        self.discarded += isinstance(request.DataSet, Discarded)
        content = request.DataSet.getvalue()
        self.instances[str(request.AffectedSOPInstanceUID)] = (content, sop_class, transfer_syntax)
        return Answer(self.statuses.pop(0), "as the test says") if self.statuses else Answer(0x0000)


def get(
    peer: Destination,
    kept: Kept,
    requests: list[Dataset] | None = None,
    memory: InstanceMemory | None = None,
    limit_s: float = LIMIT_S,
) -> Retrieved:
    requests = requests or retrieve.identifiers(STUDY, SERIES)
    return retrieve.get(peer, requests, ME, STORAGE, kept, memory or InstanceMemory(1 << 20, 1 << 20), limit_s)


def move(peer: Destination, destination: str = "OTHER", requests: list[Dataset] | None = None) -> Retrieved:
    return retrieve.move(peer, requests or retrieve.identifiers(STUDY, SERIES), ME, destination, LIMIT_S)


# --- what is asked for -----------------------------------------------------------------------------------------


def test_identifiers_name_a_level_and_no_more_than_its_keys() -> None:
    (study,) = retrieve.identifiers("1.2")
    (series,) = retrieve.identifiers("1.2", "1.2.3")
    assert {element.keyword: element.value for element in study} == {
        "QueryRetrieveLevel": "STUDY",
        "StudyInstanceUID": "1.2",
    }
    assert series.QueryRetrieveLevel == "SERIES"
    many = [f"1.2.3.{number}" for number in range(120)]
    lists = retrieve.identifiers("1.2", "1.2.3", many)
    assert [request.QueryRetrieveLevel for request in lists] == ["IMAGE"] * 3
    assert [uid for request in lists for uid in request.SOPInstanceUID] == many


def test_two_retrievals_add_up() -> None:
    one = Retrieved(1, 2, 3, frozenset({"a"}), "said")
    assert one + Retrieved(1, 0, 0, frozenset({"b"}), "said") == Retrieved(2, 2, 3, frozenset({"a", "b"}), "said")
    assert Retrieved() + one == one


# --- C-GET -----------------------------------------------------------------------------------------------------


def test_get_brings_the_bytes_that_the_archive_has(archive: RetrievingArchive, paths: list[Path]) -> None:
    kept = Kept()
    assert get(at(archive.start()), kept) == Retrieved(completed=3)
    assert kept.instances.keys() == uids(paths)
    for path in paths:
        content, sop_class, syntax = kept.instances[reference(path).sop_instance_uid]
        assert (sop_class, syntax) == (CTImageStorage, ExplicitVRLittleEndian)
        assert len(content) > 0


def test_get_of_single_instances(archive: RetrievingArchive, paths: list[Path]) -> None:
    wanted = sorted(uids(paths))[:2]
    kept = Kept()
    assert get(at(archive.start()), kept, retrieve.identifiers(STUDY, SERIES, wanted)).completed == 2
    assert sorted(kept.instances) == wanted


def test_what_could_not_be_kept_is_named(archive: RetrievingArchive, paths: list[Path]) -> None:
    kept = Kept(0xA700)
    retrieved = get(at(archive.start()), kept)
    assert (retrieved.completed, retrieved.failed) == (2, 1)
    assert retrieved.failed_uids == {next(iter(kept.instances))}
    assert "0xB000" in retrieved.remark


def test_nothing_could_be_kept(archive: RetrievingArchive, paths: list[Path]) -> None:
    with pytest.raises(TransientError, match=r"refused the retrieval: out of resources \(0xA702\)"):
        get(at(archive.start()), Kept(0xA700, 0xA700, 0xA700))


def test_an_instance_that_is_too_long_is_not_held_in_memory(
    archive: RetrievingArchive, paths: list[Path], tmp_path: Path
) -> None:
    archive.keep(write_object(tmp_path, CTImageStorage, study_uid=STUDY, series_uid=SERIES, rows=100))
    kept = Kept()
    memory = InstanceMemory(10_000, 20_000)
    assert get(at(archive.start()), kept, memory=memory).completed == 4
    assert kept.discarded == 1
    assert memory.take(20_000)  # all was given back


def test_an_archive_that_does_not_wait_for_answers_is_cut_off() -> None:
    """Instances without end that nobody has answered would fill the memory."""
    from dicom_node.association import MAX_UNANSWERED, _Instances

    provider = object.__new__(_Instances)
    events: list[str] = []

    class Queue:
        def put(self, event: str) -> None:
            events.append(event)

    class Filled:
        def qsize(self) -> int:
            return MAX_UNANSWERED + 1

    provider._assoc = type("Assoc", (), {"dul": type("Dul", (), {"event_queue": Queue()})()})()  # type: ignore
    provider.msg_queue = Filled()  # type: ignore[assignment]
    provider.receive_primitive(None)  # type: ignore[arg-type]
    assert events == ["Evt19"]


# --- C-MOVE ----------------------------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Archive]:
    """Where the archive is asked to send to."""
    destination = Archive(tmp_path / "other", "OTHER")
    yield destination
    destination.stop()


def test_move_sends_to_the_destination(archive: RetrievingArchive, paths: list[Path], other: Archive) -> None:
    archive.peers["OTHER"] = Address("127.0.0.1", other.start())
    assert move(at(archive.start())) == Retrieved(completed=3)
    assert other.instances.keys() == uids(paths)


def test_a_destination_that_the_archive_does_not_know(archive: RetrievingArchive, paths: list[Path]) -> None:
    with pytest.raises(PermanentError, match=r"knows no address of OTHER: ask the PACS administrator to register"):
        move(at(archive.start()))


def test_a_destination_that_refuses_instances(
    archive: RetrievingArchive, paths: list[Path], tmp_path: Path
) -> None:
    statuses = [0xA700]
    other = Archive(tmp_path / "other", "OTHER", answer_store=lambda event: statuses.pop() if statuses else 0x0000)
    archive.peers["OTHER"] = Address("127.0.0.1", other.start())
    try:
        retrieved = move(at(archive.start()))
    finally:
        other.stop()
    assert (retrieved.completed, retrieved.failed) == (2, 1)
    assert retrieved.failed_uids == uids(paths) - other.instances.keys()


# --- both: archives that fail ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ((FIND, GET), 'does not offer C-MOVE: .* or set retrieve = "get"'),
        ((FIND, MOVE), 'does not offer C-GET: .* or set retrieve = "move"'),
    ],
)
def test_an_archive_without_the_service(tmp_path: Path, models: tuple[Any, ...], says: str) -> None:
    archive = RetrievingArchive(tmp_path, models=models)
    peer = at(archive.start())
    try:
        with pytest.raises(PermanentError, match=says):
            move(peer) if GET in models else get(peer, Kept())
    finally:
        archive.stop()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(0xA701, TransientError), (0xC000, TransientError), (0xFE00, TransientError), (0xA900, PermanentError)],
)
@pytest.mark.parametrize("service", ["move", "get"])
def test_a_retrieval_that_is_refused(
    archive: RetrievingArchive, other: Archive, status: int, kind: type[Exception], service: str
) -> None:
    def refuse(event: evt.Event) -> Iterator[Any]:
        yield 1
        yield status, None

    archive.answer = refuse
    archive.peers["OTHER"] = Address("127.0.0.1", other.start())
    peer = at(archive.start())
    with pytest.raises(kind, match=f"refused the retrieval: .*0x{status:04X}"):
        move(peer) if service == "move" else get(peer, Kept())


@pytest.mark.parametrize("service", ["move", "get"])
@pytest.mark.parametrize("then", [wire.hang_up, wire.silent, wire.trickle])
def test_a_retrieval_that_breaks_off_ends(archive: RetrievingArchive, service: str, then: wire.Behaviour) -> None:
    """One whole PDU, the A-ASSOCIATE-AC, and half of the next."""
    with wire.peer(wire.cut(archive.start(), 1, then)) as port:
        peer = at(port, 0.3)
        with pytest.raises(TransientError, match=r"broke the (connection|retrieval) off|did not answer within"):
            if service == "get":
                get(peer, Kept(), limit_s=0.3)
            else:
                retrieve.move(peer, retrieve.identifiers(STUDY, SERIES), ME, "OTHER", 0.3)


def test_the_wait_for_each_instance_is_its_own(archive: RetrievingArchive, paths: list[Path]) -> None:
    """Three instances, each of which takes most of the limit, take longer than the limit together."""
    ready = threading.Event()

    def slow(event: evt.Event) -> Iterator[Any]:
        from pydicom import dcmread

        yield 3
        for path in paths:
            ready.wait(0.4)
            yield 0xFF00, dcmread(path)

    archive.answer = slow
    assert get(at(archive.start()), Kept(), limit_s=1.0).completed == 3
