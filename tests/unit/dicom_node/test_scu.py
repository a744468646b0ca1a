"""The services that the node uses, against the small archive and against peers that misbehave on the wire."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.presentation import StoragePresentationContexts, build_context
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    Comprehensive3DSRStorage,
    RawDataStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    StorageCommitmentPushModel,
    Verification,
    uid_to_service_class,
)

from dicom_node import scu
from dicom_node.archive import CONTEXTS, Address, Archive
from dicom_node.association import associate, rejection, watched
from dicom_node.commitment import CommitmentReport
from dicom_node.config import Destination
from dicom_node.errors import PermanentError, TransientError
from tests.fixtures import wire
from tests.fixtures.part10 import data_set_bytes, reference, write_object

ME = "NODE"
StartArchive = Callable[..., tuple[Archive, Destination]]


@pytest.fixture()
def start_archive(tmp_path: Path) -> Iterator[StartArchive]:
    """Start archives with the given behaviour; they stop with the test."""
    with ExitStack() as stack:

        def start(**behaviour: Any) -> tuple[Archive, Destination]:
            archive = Archive(tmp_path / f"archive-{generate_uid()}", **behaviour)
            port = archive.start()
            stack.callback(archive.stop)
            return archive, at(port, timeout_s=5)

        yield start


def at(port: int, timeout_s: float = 0.3, ae_title: str = "ARCHIVE", host: str = "127.0.0.1") -> Destination:
    return Destination(name="pacs", ae_title=ae_title, host=host, port=port, timeout_s=timeout_s)


def without(sop_class: str) -> list[Any]:
    return [context for context in CONTEXTS if context.abstract_syntax != sop_class]


# --- Verification and the ways in which an association can fail ---------------------------------------------


def test_echo_is_answered(start_archive: StartArchive) -> None:
    _, peer = start_archive()
    scu.echo(peer, ME)  # raises where it is not: the tests below


def test_nobody_listens(start_archive: StartArchive) -> None:
    archive, peer = start_archive()
    archive.stop()
    with pytest.raises(TransientError, match=r"refuses the connection: nothing listens there\. Check host, port"):
        scu.echo(peer, ME)


def test_unknown_host_name() -> None:
    with pytest.raises(TransientError, match=r"'no\.such\.host\.invalid' cannot be resolved: correct it"):
        scu.echo(at(104, host="no.such.host.invalid"), ME)


def test_called_title_not_recognised(start_archive: StartArchive) -> None:
    _, peer = start_archive()
    with pytest.raises(PermanentError, match=r"does not go by the AE title OTHER: correct ae_title"):
        scu.echo(at(peer.port, ae_title="OTHER"), ME)


def test_calling_title_not_recognised(start_archive: StartArchive) -> None:
    _, peer = start_archive(calling_ae_titles=("SOMEBODY",))
    with pytest.raises(PermanentError, match="ask the PACS administrator to register NODE"):
        scu.echo(peer, ME)


@pytest.mark.parametrize(
    ("result", "source", "reason", "kind", "says"),
    [
        (1, 1, 3, PermanentError, "register NODE"),
        (2, 1, 3, PermanentError, "register NODE"),
        (1, 1, 7, PermanentError, "does not go by the AE title"),
        (1, 1, 2, PermanentError, "version of the DICOM protocol"),
        (1, 2, 2, PermanentError, "version of the DICOM protocol"),
        (1, 1, 1, PermanentError, "for good"),
        (1, 2, 1, PermanentError, "for good"),
        (2, 1, 1, TransientError, "for now"),
        (2, 2, 1, TransientError, "for now"),
        (2, 3, 1, TransientError, "congestion"),
        (1, 3, 2, TransientError, "local limit"),
    ],
)
def test_rejections_are_decoded(result: int, source: int, reason: int, kind: type[Exception], says: str) -> None:
    error = rejection(at(104), ME, result, source, reason)
    assert type(error) is kind
    assert says in str(error)
    assert "ARCHIVE at 127.0.0.1:104" in str(error)


def test_a_busy_peer_is_asked_again_later() -> None:
    def reject(connection: Any, over: threading.Event) -> None:
        connection.recv(4096)
        connection.sendall(b"\x03\0\0\0\0\x04\0\x02\x03\x02")  # transient, presentation, local limit

    with wire.peer(reject) as port, pytest.raises(TransientError, match="is busy .local limit exceeded"):
        scu.echo(at(port), ME)


def test_a_rejection_is_understood_however_fast_the_connection_is_closed() -> None:
    """As Orthanc does: the PDU (PS3.8 Table 9-21) and the end of the connection come together."""

    def reject(connection: Any, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(bytes.fromhex("03000000000400010107"))

    with wire.peer(reject) as port:
        for _ in range(20):
            with pytest.raises(PermanentError, match="does not go by the AE title"):
                scu.echo(at(port, timeout_s=5.0), ME)


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [(wire.silent, "took the connection but gave no answer within 0.3 s"), (wire.closing, "broke the connection")],
)
def test_peers_that_never_answer(behaviour: wire.Behaviour, says: str) -> None:
    with wire.peer(behaviour) as port, pytest.raises(TransientError, match=says):
        scu.echo(at(port), ME)


def test_what_a_peer_says_of_itself_decides_nothing(start_archive: StartArchive) -> None:
    """Items that are not known are skipped (PS3.8 9.3); who tells no maximum length takes the usual one."""
    _, peer = start_archive()

    def change(items: wire.Items) -> wire.Items:
        kept = [item for item in items if item[0] not in (wire.MAXIMUM_LENGTH, wire.VERSION_NAME)]
        return [*kept, (wire.VERSION_NAME, b"LONGER THAN SIXTEEN"), (0x5F, b"?")]

    with wire.peer(wire.reworded(peer.port, lambda pdu: wire.with_user_items(pdu, change))) as port:
        scu.echo(at(port, timeout_s=5), ME)


@pytest.mark.parametrize("whole_pdus", [0, 1], ids=["associate", "response"])
@pytest.mark.parametrize("then", [wire.hang_up, wire.silent, wire.trickle], ids=["hangs up", "stalls", "trickles"])
def test_half_a_pdu(start_archive: StartArchive, whole_pdus: int, then: wire.Behaviour) -> None:
    archive, peer = start_archive()
    before = set(threading.enumerate())
    with wire.peer(wire.cut(peer.port, whole_pdus, then)) as port, pytest.raises(TransientError):
        scu.echo(at(port), ME)
    archive.stop()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


def test_a_peer_that_asks_for_the_release_first_is_answered(start_archive: StartArchive) -> None:
    """As one may that has reported commitment, and needs the association no more."""
    archive, peer = start_archive()
    asked = threading.Event()

    def note(event: evt.Event) -> None:
        if event.next_state == "Sta8":  # PS3.8 Table 9-10: a release was asked for, and is to be answered
            asked.set()

    with associate(peer, ME, [build_context(Verification)], [(evt.EVT_FSM_TRANSITION, note)]) as assoc:
        assoc._reactor_checkpoint.clear()  # the request is here, and has not been looked at
        assert archive._server is not None
        (theirs,) = archive._server.active_associations
        thread = threading.Thread(target=theirs.release)
        thread.start()
        assert asked.wait(5)
    thread.join(5)
    assert (assoc.is_released, theirs.is_released) == (True, True)


def test_garbage_instead_of_an_answer() -> None:
    def web_server(connection: Any, over: threading.Event) -> None:
        connection.recv(64)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with wire.peer(web_server) as port, pytest.raises(TransientError, match="broke the connection"):
        scu.echo(at(port), ME)


def test_the_watchdog_aborts_what_outlasts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.association._MARGIN_S", 0.0)
    aborted = threading.Event()

    class Stuck:
        def abort(self) -> None:
            aborted.set()

    with watched(Stuck(), 0.01):  # type: ignore[arg-type]
        assert aborted.wait(10)


def test_the_watchdog_leaves_the_quick_alone() -> None:
    before = threading.active_count()

    class Quick:
        def abort(self) -> None:
            pytest.fail("aborted")

    with watched(Quick(), 60):  # type: ignore[arg-type]
        assert threading.active_count() == before + 1


# --- Storage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless]
)
def test_the_stored_bytes_are_sent_as_they_are(start_archive: StartArchive, tmp_path: Path, syntax: str) -> None:
    archive, peer = start_archive()
    path = write_object(tmp_path, syntax=ExplicitVRLittleEndian if syntax == RLELossless else syntax)
    if syntax == RLELossless:
        ds = dcmread(path)
        ds.SamplesPerPixel, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 1, 8, 7, 0
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.compress(RLELossless, generate_instance_uid=False)
        ds.save_as(path)
    (result,) = scu.store(peer, [path], ME)
    assert result == scu.StoreResult(path, reference(path).sop_instance_uid)
    kept = archive.instances[result.sop_instance_uid].path.read_bytes()
    assert data_set_bytes(kept) == data_set_bytes(path.read_bytes())
    assert dcmread(archive.instances[result.sop_instance_uid].path).file_meta.TransferSyntaxUID == syntax


def test_only_needed_contexts_are_asked_for_on_one_association(start_archive: StartArchive, tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []

    def look(event: evt.Event) -> int:
        seen.append((event.assoc, {(cx.abstract_syntax, *cx.transfer_syntax) for cx in _asked(event)}))
        return 0x0000

    _, peer = start_archive(answer_store=look)
    seg = write_object(tmp_path, SegmentationStorage)
    sr = write_object(tmp_path, Comprehensive3DSRStorage, ImplicitVRLittleEndian)
    results = scu.store(peer, [seg, sr, seg], ME)
    assert [result.path for result in results] == [seg, sr, seg]
    assert not any(result.error for result in results)
    assert len({assoc for assoc, _ in seen}) == 1
    assert seen[0][1] == {
        (sop_class, syntax)
        for sop_class in (SegmentationStorage, Comprehensive3DSRStorage)
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    }


def _asked(event: evt.Event) -> list[Any]:
    return list(event.assoc.requestor.requested_contexts)


def test_results_are_told_as_they_come(start_archive: StartArchive, tmp_path: Path) -> None:
    kept_when_told: list[int] = []
    archive, peer = start_archive()
    paths = [write_object(tmp_path) for _ in range(3)]
    scu.store(peer, paths, ME, on_result=lambda result: kept_when_told.append(len(archive.instances)))
    assert kept_when_told == [1, 2, 3]


@pytest.mark.parametrize(
    ("syntax", "spoken"),
    [
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        (ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        (DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian),
    ],
)
def test_uncompressed_objects_fall_back(
    start_archive: StartArchive, tmp_path: Path, syntax: str, spoken: str
) -> None:
    archive, peer = start_archive(contexts=[build_context(SecondaryCaptureImageStorage, spoken)])
    path = write_object(tmp_path, syntax=syntax)
    (result,) = scu.store(peer, [path], ME)
    assert result.error is None
    kept = dcmread(archive.instances[result.sop_instance_uid].path)
    assert kept.file_meta.TransferSyntaxUID == spoken
    sent = dcmread(path)
    assert {element.tag: element.value for element in kept} == {element.tag: element.value for element in sent}


def test_big_endian_is_not_converted(start_archive: StartArchive, tmp_path: Path) -> None:
    _, peer = start_archive()
    (result,) = scu.store(peer, [write_object(tmp_path, syntax=ExplicitVRBigEndian)], ME)
    assert isinstance(result.error, PermanentError)
    assert "does not take Secondary Capture Image Storage (Explicit VR Big Endian)" in str(result.error)


def test_a_refused_class_does_not_hold_up_the_others(start_archive: StartArchive, tmp_path: Path) -> None:
    archive, peer = start_archive()
    pdf, picture = write_object(tmp_path, RawDataStorage), write_object(tmp_path)
    refused, stored = scu.store(peer, [pdf, picture], ME)
    assert isinstance(refused.error, PermanentError)
    assert "Raw Data Storage" in str(refused.error)
    assert "ask the PACS administrator to allow this SOP class" in str(refused.error)
    assert stored.error is None
    assert list(archive.instances) == [stored.sop_instance_uid]


def test_nothing_but_refused_classes(start_archive: StartArchive, tmp_path: Path) -> None:
    _, peer = start_archive()
    (result,) = scu.store(peer, [write_object(tmp_path, RawDataStorage)], ME)
    assert isinstance(result.error, PermanentError)
    assert "does not take Raw Data Storage" in str(result.error)


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (0xA700, TransientError, "out of resources (0xA700)"),
        (0xA702, TransientError, "out of resources (0xA702)"),
        (0x0110, TransientError, "processing failure"),
        (0x0213, TransientError, "resource limitation"),
        (0xA900, PermanentError, "data set does not match its SOP class (0xA900)"),
        (0xC000, PermanentError, "cannot understand the data set (0xC000)"),
        (0xC123, PermanentError, "cannot understand the data set (0xC123)"),
        (0x0122, PermanentError, "SOP class not supported (0x0122). Ask the PACS administrator"),
        (0x0124, PermanentError, "not authorised (0x0124). Ask the PACS administrator"),
        (0x0117, PermanentError, "invalid SOP instance"),
    ],
)
def test_failure_statuses(
    start_archive: StartArchive, tmp_path: Path, status: int, kind: type[Exception], says: str
) -> None:
    archive, peer = start_archive(answer_store=lambda event: status)
    (result,) = scu.store(peer, [write_object(tmp_path)], ME)
    assert type(result.error) is kind
    assert says in str(result.error)
    assert not archive.instances


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0107, 0x0111])
def test_warnings_count_as_stored_and_are_shown(start_archive: StartArchive, tmp_path: Path, status: int) -> None:
    _, peer = start_archive(answer_store=lambda event: status)
    (result,) = scu.store(peer, [write_object(tmp_path)], ME)
    assert result.error is None
    assert f"0x{status:04X}" in result.warning


@pytest.mark.parametrize(
    ("indigestible", "sent", "stored"),
    [({1}, 4, {0, 2, 3}), ({0, 1}, 4, {2, 3}), ({0, 1, 2}, 3, set())],
    ids=["one", "two", "it is not the object"],
)
def test_an_object_at_which_the_peer_gives_up_holds_up_no_other(
    start_archive: StartArchive, tmp_path: Path, indigestible: set[int], sent: int, stored: set[int]
) -> None:
    paths = [write_object(tmp_path) for _ in range(4)]
    uids = [reference(path).sop_instance_uid for path in paths]
    seen: list[int] = []

    def abort_at_some(event: evt.Event) -> int:
        seen.append(uids.index(str(event.request.AffectedSOPInstanceUID)))  # type: ignore[union-attr]
        if seen[-1] in indigestible:
            event.assoc.abort(block=False)
        return 0xC000 if seen[-1] in indigestible else 0x0000

    archive, peer = start_archive(answer_store=abort_at_some)
    results = scu.store(peer, paths, ME)
    assert seen == list(range(sent))
    assert {number for number, result in enumerate(results) if result.error is None} == stored
    assert set(archive.instances) == {uids[number] for number in stored}
    errors = [result.error for result in results if result.error is not None]
    assert all(isinstance(error, TransientError) and "broke the connection off" in str(error) for error in errors)


def test_the_peer_stores_but_never_says_so(start_archive: StartArchive, tmp_path: Path) -> None:
    over = threading.Event()

    def wait(event: evt.Event) -> int:
        over.wait()
        return 0x0000

    archive, peer = start_archive(answer_store=wait)
    (result,) = scu.store(at(peer.port), [write_object(tmp_path)], ME)
    over.set()
    assert isinstance(result.error, TransientError)
    assert "did not answer within 0.3" in str(result.error)


def test_a_dead_peer_is_the_error_of_every_file(tmp_path: Path) -> None:
    paths = [write_object(tmp_path) for _ in range(2)]
    with wire.peer(wire.silent) as port:
        results = scu.store(at(port), paths, ME)
    assert [result.path for result in results] == paths
    assert all(isinstance(result.error, TransientError) for result in results)


def test_files_that_are_none(start_archive: StartArchive, tmp_path: Path) -> None:
    archive, peer = start_archive()
    text = tmp_path / "notes.txt"
    text.write_text("no DICOM here")
    empty = tmp_path / "empty.dcm"
    empty.touch()
    good = write_object(tmp_path)
    results = scu.store(peer, [text, tmp_path / "absent.dcm", empty, good], ME)
    assert [type(result.error) for result in results] == [PermanentError] * 3 + [type(None)]
    assert "is not a DICOM file" in str(results[0].error)
    assert "cannot be read: No such file" in str(results[1].error)
    assert list(archive.instances) == [reference(good).sop_instance_uid]


def _is_storage(sop_class: Any) -> bool:
    return uid_to_service_class(sop_class) is StorageServiceClass  # pynetdicom lists some that it cannot serve


def test_more_classes_than_one_association_can_carry(start_archive: StartArchive, tmp_path: Path) -> None:
    offered = [cx for cx in StoragePresentationContexts if _is_storage(cx.abstract_syntax)]
    classes = [str(cx.abstract_syntax) for cx in offered[:70]]
    associations: list[Any] = []

    def note(event: evt.Event) -> int:
        associations.append(event.assoc)
        return 0x0000

    archive, peer = start_archive(answer_store=note, contexts=offered)
    results = scu.store(peer, [write_object(tmp_path, sop_class) for sop_class in classes], ME)
    assert [result.error for result in results] == [None] * 70
    assert len(archive.instances) == 70
    assert [len(_contexts(assoc)) for assoc in dict.fromkeys(associations)] == [128, 12]


def _contexts(assoc: Any) -> list[Any]:
    return list(assoc.requestor.requested_contexts)


def test_a_large_object_arrives_whole(start_archive: StartArchive, tmp_path: Path) -> None:
    archive, peer = start_archive()
    path = write_object(tmp_path, rows=100, columns=30_000)
    (result,) = scu.store(peer, [path], ME)
    kept = archive.instances[result.sop_instance_uid].path.read_bytes()
    assert data_set_bytes(kept) == data_set_bytes(path.read_bytes())


# --- Storage Commitment -------------------------------------------------------------------------------------


def request(peer: Destination, files: list[Path], stay_s: float = 5) -> tuple[str, list[CommitmentReport]]:
    """Ask for commitment and wait for the report on the same association."""
    reports: list[CommitmentReport] = []
    answered = threading.Event()

    def on_report(report: CommitmentReport) -> None:
        reports.append(report)
        answered.set()

    uid = generate_uid()
    scu.request_commitment(peer, [reference(path) for path in files], uid, ME, on_report, answered, stay_s)
    return uid, reports


def test_report_on_the_same_association(start_archive: StartArchive, tmp_path: Path) -> None:
    _, peer = start_archive(same_association=True)
    path, absent = write_object(tmp_path), write_object(tmp_path)
    scu.store(peer, [path], ME)
    uid, reports = request(peer, [path, absent])
    here, missing = reference(path).sop_instance_uid, reference(absent).sop_instance_uid
    assert reports == [CommitmentReport(uid, (here,), ((missing, 0x0112),))]


def test_no_report_within_the_stay(start_archive: StartArchive, tmp_path: Path) -> None:
    _, peer = start_archive(answer_commitment=lambda report: None)
    _, reports = request(peer, [write_object(tmp_path)], stay_s=0.05)
    assert reports == []


def test_an_answer_by_another_way_ends_the_stay(start_archive: StartArchive, tmp_path: Path) -> None:
    _, peer = start_archive(answer_commitment=lambda report: None)
    answered = threading.Event()
    answered.set()
    # Would wait for an hour, past the time limit of the test.
    scu.request_commitment(
        peer, [reference(write_object(tmp_path))], generate_uid(), ME, lambda report: None, answered, 3600
    )


def test_roles_on_a_report_by_a_new_association(start_archive: StartArchive, tmp_path: Path) -> None:
    """The archive requests, as the SCP (PS3.4 J.3.3, PS3.7 D.3.3.4); the node accepts, as the SCU."""
    contexts: list[Any] = []
    arrived = threading.Event()

    def on_report(event: evt.Event) -> tuple[int, None]:
        (context,) = event.assoc.accepted_contexts
        contexts.append(context)
        arrived.set()
        return 0x0000, None

    node = ApplicationEntity(ME)
    node.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    server = node.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    archive, peer = start_archive()
    archive.peers[ME] = Address("127.0.0.1", server.socket.getsockname()[1])  # type: ignore[union-attr]
    request(peer, [write_object(tmp_path)], stay_s=0.0)
    assert arrived.wait(10)
    assert contexts[0].as_scu
    assert not contexts[0].as_scp
    node.shutdown()


def test_a_peer_without_commitment(start_archive: StartArchive, tmp_path: Path) -> None:
    _, peer = start_archive(contexts=without(StorageCommitmentPushModel))
    with pytest.raises(PermanentError, match='has no Storage Commitment: .* set verify = "find"'):
        request(peer, [write_object(tmp_path)])


@pytest.mark.parametrize(("status", "kind"), [(0x0110, TransientError), (0x0122, PermanentError)])
def test_a_refused_commitment_request(tmp_path: Path, status: int, kind: type[Exception]) -> None:
    entity = ApplicationEntity("ARCHIVE")
    entity.add_supported_context(StorageCommitmentPushModel)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, lambda event: (status, None))]
    )
    with pytest.raises(kind, match=f"refused the commitment request: .*0x{status:04X}"):
        request(at(server.socket.getsockname()[1], 5), [write_object(tmp_path)])  # type: ignore[union-attr]
    entity.shutdown()
