"""Connections below the level of DIMSE: silent, stalling, malformed, too many. Others must not notice."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification

from dicom_node import admission
from dicom_node.association_server import _plain
from dicom_node.upper_layer import DataPdu
from tests.fixtures import wire
from tests.fixtures.reception import (
    SECONDS,
    Node,
    calling,
    ct,
    receiving,
    recorded,
    status,
    store_dataset,
)

A_ASSOCIATE_AC, A_ASSOCIATE_RJ, P_DATA_TF, A_RELEASE_RP, A_ABORT = 2, 3, 4, 6, 7


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with receiving(tmp_path / "state") as running:
        yield running


@pytest.fixture
def hurried(tmp_path: Path) -> Iterator[Node]:
    """A receiver without patience."""
    with receiving(tmp_path / "state", idle_timeout_s=0.2) as running:
        yield running


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The PDUs of a requestor: A-ASSOCIATE-RQ, C-ECHO, a C-STORE in several, A-RELEASE-RQ."""
    sent = recorded(tmp_path_factory.mktemp("conversation"))
    assert [pdu[0] for pdu in sent] == [1, 4, 4, 4, 5]
    return sent


@contextmanager
def connected(node: Node) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", node.port), SECONDS) as peer:
        yield peer


def read_pdu(peer: socket.socket) -> bytes:
    """The next PDU, or b"" where the connection is closed."""
    try:
        header = peer.recv(6, socket.MSG_WAITALL)
        if len(header) < 6:
            return b""
        return header + peer.recv(struct.unpack(">L", header[2:])[0], socket.MSG_WAITALL)
    except ConnectionResetError:
        return b""


def read_all(peer: socket.socket) -> list[int]:
    """Types of all PDUs until the connection is closed."""
    types = []
    while pdu := read_pdu(peer):
        types.append(pdu[0])
    return types


def assert_serves(node: Node) -> None:
    with calling(node, [(Verification, ImplicitVRLittleEndian)]) as assoc:
        assert assoc.is_established
        assert assoc.send_c_echo().Status == 0x0000


def association_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("association ")]


class TestSilence:
    """Peers that say nothing, or stop in the middle."""

    def test_a_silent_connection_keeps_nobody_waiting(self, node: Node) -> None:
        with connected(node), connected(node):
            assert_serves(node)

    def test_it_is_closed_when_artim_expires(self, hurried: Node) -> None:
        with connected(hurried) as peer:
            assert peer.recv(1) == b""

    def test_half_a_request_does_not_gain_time(self, hurried: Node, conversation: list[bytes]) -> None:
        with connected(hurried) as peer:
            peer.sendall(conversation[0][:50])
            assert peer.recv(1) == b""

    def test_the_oldest_silent_connection_makes_room(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(admission, "MAX_IDLE_CONNECTIONS", 2)
        with calling(node) as assoc, connected(node) as first, connected(node) as second:
            with connected(node):
                assert first.recv(1) == b""
                second.setblocking(False)
                with pytest.raises(BlockingIOError):
                    second.recv(1)
            assert status(store_dataset(assoc, ct())) == 0x0000

    def test_and_no_other_is_dropped(self, node: Node) -> None:
        with ExitStack() as stack:
            peers = [stack.enter_context(connected(node)) for _ in range(admission.MAX_IDLE_CONNECTIONS)]
            assert_serves(node)  # one more: the first is dropped for it
            assert peers[0].recv(1) == b""
            for peer in peers[2:]:  # the connection of assert_serves may linger, and cost the second its place
                peer.setblocking(False)
                with pytest.raises(BlockingIOError):
                    peer.recv(1)

    def test_so_does_one_that_is_over_and_not_closed(
        self, node: Node, conversation: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(admission, "MAX_IDLE_CONNECTIONS", 1)
        with connected(node) as peer:
            peer.sendall(conversation[0] + conversation[-1])
            assert [read_pdu(peer)[0] for _ in range(2)] == [A_ASSOCIATE_AC, A_RELEASE_RP]
            with connected(node):
                assert read_pdu(peer) == b""

    def test_an_association_that_falls_silent_is_aborted(self, hurried: Node, conversation: list[bytes]) -> None:
        with connected(hurried) as peer:
            peer.sendall(conversation[0])
            assert read_pdu(peer)[0] == A_ASSOCIATE_AC
            assert read_all(peer) == [A_ABORT]

    @pytest.mark.parametrize("cut", [3, 6, 100])
    def test_a_sender_that_stalls_inside_a_pdu_is_aborted(
        self, hurried: Node, conversation: list[bytes], cut: int
    ) -> None:
        with connected(hurried) as peer:
            peer.sendall(conversation[0])
            assert read_pdu(peer)[0] == A_ASSOCIATE_AC
            peer.sendall(conversation[3][:cut])
            assert read_all(peer) == [A_ABORT]
        assert hurried.received() == []
        assert hurried.ended.get(timeout=SECONDS) == frozenset()

    def test_a_peer_that_does_not_close_is_closed(self, hurried: Node, conversation: list[bytes]) -> None:
        with connected(hurried) as peer:
            peer.sendall(conversation[0])
            assert read_pdu(peer)[0] == A_ASSOCIATE_AC
            peer.sendall(conversation[-1])
            assert read_all(peer) == [A_RELEASE_RP]

    def test_a_sender_that_is_never_silent_and_never_done_is_aborted(
        self, tmp_path: Path, conversation: list[bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        context_id = conversation[3][10]
        drop = struct.pack(">BxLLBBB", P_DATA_TF, 7, 3, context_id, 0, 0)  # one byte of a data set, not the last
        with receiving(tmp_path / "state", idle_timeout_s=0.2, min_bytes_per_s=10**9) as node:
            with connected(node) as peer:
                peer.sendall(b"".join(conversation[:3]))
                assert read_pdu(peer)[0] == A_ASSOCIATE_AC
                with pytest.raises(OSError):
                    while True:
                        peer.sendall(drop)
            assert node.ended.get(timeout=SECONDS) == frozenset()
            assert node.received() == []
        assert "aborted: slower than reception.min_bytes_per_s" in caplog.text

    def test_one_that_is_fast_enough_may_take_longer_than_the_idle_time(
        self, tmp_path: Path, conversation: list[bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        context_id = conversation[3][10]
        drop = struct.pack(">BxLLBBB", P_DATA_TF, 7, 3, context_id, 0, 0)
        with (
            receiving(tmp_path / "state", idle_timeout_s=0.5, min_bytes_per_s=1, max_association_s=1.5) as node,
            connected(node) as peer,
        ):
            peer.sendall(b"".join(conversation[:3]))
            assert read_pdu(peer)[0] == A_ASSOCIATE_AC
            with pytest.raises(OSError):
                while True:
                    peer.sendall(drop)
            assert node.ended.get(timeout=SECONDS) == frozenset()
        assert "aborted: open for longer than reception.max_association_s" in caplog.text

    def test_an_association_that_never_ends_is_ended(
        self, tmp_path: Path, conversation: list[bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        with receiving(tmp_path / "state", max_association_s=0.3) as node:
            with connected(node) as peer:
                peer.sendall(conversation[0])
                assert read_pdu(peer)[0] == A_ASSOCIATE_AC
                answer = P_DATA_TF
                while answer == P_DATA_TF:
                    peer.sendall(conversation[1])  # C-ECHO
                    answer = read_pdu(peer)[0]
                assert answer == A_ABORT
            assert node.ended.get(timeout=SECONDS) == frozenset()
        assert "aborted: open for longer than reception.max_association_s" in caplog.text


def abort_in(pdus: list[bytes], number: int, cut: int | None = None) -> bytes:
    return b"".join(pdus[:number]) + pdus[number][:cut]


class TestMidTransfer:
    """The peer goes away while it sends."""

    @pytest.mark.parametrize("cut", [1, 6, 200])
    def test_a_connection_lost_inside_an_instance(self, node: Node, conversation: list[bytes], cut: int) -> None:
        with connected(node) as peer:
            peer.sendall(abort_in(conversation, 3, cut))
            assert read_pdu(peer)[0] == A_ASSOCIATE_AC
        assert node.ended.get(timeout=SECONDS) == frozenset()
        assert node.received() == []
        assert list(node.spool.partial.iterdir()) == []

    def test_the_memory_of_an_instance_that_breaks_off_is_given_back(
        self, node: Node, conversation: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, take, taken = node.memory._free, node.memory.take, threading.Event()
        monkeypatch.setattr(node.memory, "take", lambda wanted: (take(wanted), taken.set())[0])
        data = conversation[3]
        unfinished = data[:11] + bytes([data[11] & 0b01]) + data[12:]  # of its fragment: not the last
        with connected(node) as peer:
            peer.sendall(b"".join(conversation[:3]) + unfinished)
            assert read_pdu(peer)[0] == A_ASSOCIATE_AC
            assert taken.wait(SECONDS)
            assert node.memory._free < before
        assert node.ended.get(timeout=SECONDS) == frozenset()
        for thread in association_threads():
            thread.join(SECONDS)
        assert node.memory._free == before
        assert node.received() == []

    def test_an_abort_between_command_and_data_set(self, node: Node, conversation: list[bytes]) -> None:
        with connected(node) as peer:
            peer.sendall(abort_in(conversation, 2) + struct.pack(">BxLxxBB", A_ABORT, 4, 0, 0))
            assert read_all(peer)[0] == A_ASSOCIATE_AC
        assert node.ended.get(timeout=SECONDS) == frozenset()
        assert node.received() == []


def _named(name: bytes) -> Callable[[wire.Items], wire.Items]:
    return lambda items: [(kind, name if kind == wire.VERSION_NAME else value) for kind, value in items]


@pytest.mark.parametrize(
    "change",
    [
        lambda items: [*items, (0x5F, b"of a later edition")],
        lambda items: [item for item in items if item[0] != wire.MAXIMUM_LENGTH],
        lambda items: [(kind, b"@\0" if kind == wire.MAXIMUM_LENGTH else value) for kind, value in items],
        lambda items: [item for item in items if item[0] != wire.CLASS_UID],
        lambda items: [(kind, b"" if kind == wire.CLASS_UID else value) for kind, value in items],
        lambda items: [],
        _named(b"LONGER THAN SIXTEEN"),
        _named(b"V1.0\0"),
        _named("Gerät".encode("latin-1")),
        _named(b""),
    ],
    ids=["unknown", "no maximum length", "short maximum length", "no class", "empty class"]
    + ["nothing", "long name", "padded name", "name in Latin-1", "no name"],
)
def test_what_a_request_says_beside_decides_nothing(
    node: Node, conversation: list[bytes], change: Callable[[wire.Items], wire.Items]
) -> None:
    """Unknown items are skipped (PS3.8 9.3, D.2); AE titles end at a NUL."""
    request = wire.with_user_items(conversation[0], change)
    titles = b"".join(request[at : at + 16].rstrip().ljust(16, b"\0") for at in (10, 26))
    with connected(node) as peer:
        peer.sendall(request[:10] + titles + request[42:] + b"".join(conversation[1:]))
        answers = [read_pdu(peer)[:1] for _ in conversation[1:]]  # to the C-STORE, which comes in two PDUs, one
    assert answers == [bytes([kind]) for kind in (A_ASSOCIATE_AC, P_DATA_TF, P_DATA_TF, A_RELEASE_RP)]
    assert len(node.stored) == 1


class TestMalformed:
    """Bytes that are no association."""

    @pytest.mark.parametrize(
        "data",
        [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00" + bytes(512),  # a TLS ClientHello
            b"\x01\x00\x00\x00\x00\x00",
            b"\x01\x00\x00\x00\x00\x44" + bytes(68),
            b"\x01\x00\xff\xff\xff\xff" + bytes(1000),
            b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x02\x01\x03",
            b"\x05\x00\x00\x00\x00\x04" + bytes(4),
        ],
        ids=["http", "tls", "no content", "zeros", "endless", "data first", "release first"],
    )
    def test_in_place_of_a_request(self, node: Node, data: bytes) -> None:
        with connected(node) as peer:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            assert set(read_all(peer)) <= {A_ABORT}
        assert_serves(node)

    @pytest.mark.parametrize(
        "data",
        [
            b"\x09\x00\x00\x00\x00\x04" + bytes(4),
            b"\x04\x00\xff\xff\xff\xff",
            b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x00\x01\x03",
            b"\x04\x00\x00\x00\x00\x06\x00\x00\xff\xff\x01\x03",
            b"\x04\x00\x00\x00\x00\x03\x00\x00\x00",
            b"\x04\x00\x00\x00\x00\x0a\x00\x00\x00\x06\x01\x03\xff\xff\xff\xff",
            b"\x04\x00\x00\x00\x00\x0a\x00\x00\x00\x06\x01\x02\x00\x00\x00\x00",
            b"\x02\x00\x00\x00\x00\x44" + bytes(68),
        ],
        ids=[
            "unknown type",
            "longer than agreed",
            "empty value",
            "value longer than its PDU",
            "no value",
            "command set that does not parse",
            "data set without a command",
            "accept",
        ],
    )
    def test_on_an_association(self, node: Node, conversation: list[bytes], data: bytes) -> None:
        with connected(node) as peer:
            peer.sendall(conversation[0])
            assert read_pdu(peer)[0] == A_ASSOCIATE_AC
            peer.sendall(data)
            assert read_pdu(peer)[:1] == bytes([A_ABORT])
        assert node.ended.get(timeout=SECONDS) == frozenset()
        assert_serves(node)

    def test_a_context_without_transfer_syntaxes(self, node: Node, conversation: list[bytes]) -> None:
        request = conversation[0]
        at = request.index(b"\x30\x00")  # abstract syntax of the first context; its transfer syntaxes follow
        end = at + 4 + struct.unpack_from(">H", request, at + 2)[0]
        (length,) = struct.unpack_from(">H", request, at - 6)
        without = bytearray(request[:end] + request[at - 4 + length :])
        struct.pack_into(">H", without, at - 6, end - at + 4)
        struct.pack_into(">L", without, 2, len(without) - 6)
        with connected(node) as peer:
            peer.sendall(without)
            assert read_pdu(peer)[0] == A_ABORT
        assert_serves(node)

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_damaged_conversations(
        self, node: Node, conversation: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every one ends, with an answer or an abort, in no unplanned error, and leaves no thread."""
        unplanned: list[Any] = []
        monkeypatch.setattr(threading, "excepthook", unplanned.append)
        rng = random.Random(20)
        for _ in range(int(os.environ.get("DICOMNODE_DAMAGED", "250"))):
            pdus = [bytearray(pdu) for pdu in conversation]
            for _ in range(rng.randint(1, 4)):
                damage(rng, pdus)
            with connected(node) as peer:
                try:
                    peer.sendall(b"".join(pdus))
                    peer.shutdown(socket.SHUT_WR)
                    types = read_all(peer)
                except (BrokenPipeError, ConnectionResetError):
                    continue
                assert set(types) <= {A_ASSOCIATE_AC, A_ASSOCIATE_RJ, P_DATA_TF, A_RELEASE_RP, A_ABORT}
        for thread in association_threads():
            thread.join(SECONDS)
        assert association_threads() == []
        assert unplanned == []
        assert node.receiver.active_series() == frozenset()
        assert_serves(node)


def damage(rng: random.Random, pdus: list[bytearray]) -> None:
    """Change a byte, cut, repeat, drop or swap."""
    pdu = rng.choice(pdus)
    place = rng.randrange(len(pdu)) if pdu else 0
    match rng.randrange(6):
        case 0 | 1:
            if pdu:
                pdu[place] = rng.randrange(256)
        case 2:
            del pdu[place:]
        case 3:
            pdu[place:place] = rng.randbytes(rng.randrange(20))
        case 4:
            pdus.insert(rng.randrange(len(pdus)), bytearray(pdu))
        case _:
            rng.shuffle(pdus)


class TestListening:
    """The socket that accepts."""

    def test_accepted_connections_send_at_once(self, node: Node) -> None:
        with calling(node):
            (assoc,) = node.receiver._servers[0]._admission.all()
            accepted = assoc._upper._connection.socket
            assert accepted is not None
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    def test_an_address_that_is_not_allowed_hears_nothing(self, tmp_path: Path, conversation: list[bytes]) -> None:
        with receiving(tmp_path, networks=["192.0.2.0/24"]) as node, connected(node) as peer:
            assert read_pdu(peer) == b""

    def test_ipv4_peers_of_an_ipv6_socket_are_ipv4(self) -> None:
        assert _plain("::ffff:192.0.2.1") == ip_address("192.0.2.1")
        assert _plain("2001:db8::1") == ip_address("2001:db8::1")
        assert _plain("192.0.2.1") == ip_address("192.0.2.1")

    def test_nothing_is_left_of_many_associations(self, node: Node) -> None:
        def open_files() -> int:
            return len(list(Path("/proc/self/fd").iterdir()))

        assert_serves(node)
        before = open_files()
        for _ in range(30):
            with calling(node) as assoc:
                assert status(store_dataset(assoc, ct())) == 0x0000
            node.ended.get(timeout=SECONDS)
        for thread in association_threads():
            thread.join(SECONDS)
        assert association_threads() == []
        assert open_files() <= before

    def test_stopped_it_is_gone(self, tmp_path: Path) -> None:
        with receiving(tmp_path) as node, connected(node) as peer:
            node.receiver.stop()
            assert read_pdu(peer) == b""
            assert association_threads() == []
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", node.port), SECONDS)

    def test_out_of_descriptors_it_waits_and_recovers(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        listening: Any = node.receiver._servers[0]._listening
        failed = threading.Event()

        class Exhausted:
            """Fails once, as accept(2) does where no descriptor is left."""

            def accept(self) -> Any:
                if not failed.is_set():
                    failed.set()
                    raise OSError(24, "Too many open files")
                return listening.accept()

            def __getattr__(self, name: str) -> Any:
                return getattr(listening, name)

        monkeypatch.setattr(node.receiver._servers[0], "_listening", Exhausted())
        assert_serves(node)
        assert failed.is_set()


def test_data_values_are_views_until_they_are_read() -> None:
    body = bytearray(struct.pack(">LB", 4, 1) + b"\x02ab" + struct.pack(">LB", 2, 3) + b"\x03")
    (first, second) = DataPdu(memoryview(body)).to_primitive().presentation_data_value_list
    assert (first[0], bytes(first[1])) == (1, b"\x02ab")
    assert (second[0], bytes(second[1])) == (3, b"\x03")
    body[6] = ord("z")
    assert BytesIO(first[1]).read() == b"\x02zb"
