"""Sinks of audit messages: what is in the file of the day, and what a repository gets over UDP, TCP and TLS."""

from __future__ import annotations

import os
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue

import pytest

from dicom_node import syslog, tls
from dicom_node.syslog import DailyFile, Datagrams, Stream, frame
from dicom_node.tls import ClientTls, Identity
from tests.fixtures.certificates import Authority

NOW = datetime(2026, 11, 25, 23, 59, 59, 987654, tzinfo=UTC)
SECONDS = 10.0


def test_a_frame_is_that_of_rfc_5424() -> None:
    framed = frame("<?xml?>é".encode(), NOW, "node.example.org", 4711)
    header = b"<85>1 2026-11-25T23:59:59.987Z node.example.org dicomnode 4711 DICOM+RFC3881 - "
    assert framed == header + b"\xef\xbb\xbf<?xml?>\xc3\xa9"
    assert b" - dicomnode " in frame(b"", NOW, "", 1)


@contextmanager
def room_for(size_bytes: int) -> Iterator[None]:
    """Files cannot become longer: a write ends in the middle and the next one fails, as on a full disk."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, handler)


class TestDailyFile:
    def test_lines_are_added_to_the_file_of_the_day_which_others_cannot_read(self, tmp_path: Path) -> None:
        now = [datetime(2026, 11, 25, 12, tzinfo=UTC)]
        sink = DailyFile(tmp_path / "audit", lambda: now[0])
        before = os.umask(0o077)  # that of the unit
        try:
            sink.write([b"one", b"two"])
            sink.write([b"three"])
            now[0] += timedelta(days=1)
            sink.write([b"four"])
        finally:
            os.umask(before)
        first, second = sorted((tmp_path / "audit").iterdir())
        assert (first.name, second.name) == ("2026-11-25.log", "2026-11-26.log")
        assert first.read_bytes() == b"one\ntwo\nthree\n"
        assert second.read_bytes() == b"four\n"
        assert first.stat().st_mode & 0o777 == 0o640

    def test_what_root_makes_belongs_to_the_owner_of_the_state_folder(self, tmp_path: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root, as in CI")
        os.chown(tmp_path, 65534, 65534)
        DailyFile(tmp_path / "audit", lambda: NOW).write([b"one"])
        (file,) = (tmp_path / "audit").iterdir()
        assert (file.stat().st_uid, file.parent.stat().st_uid) == (65534, 65534)

    @pytest.mark.parametrize("length", [50, 20_000])
    def test_a_full_disk_leaves_no_half_line(self, tmp_path: Path, length: int) -> None:
        sink = DailyFile(tmp_path / "audit", lambda: NOW)
        sink.write([b"one"])
        with room_for(len(b"one\n") + length), pytest.raises(OSError, match="too large"):
            sink.write([b"x" * length, b"x" * length])
        sink.write([b"three"])
        (file,) = (tmp_path / "audit").iterdir()
        assert file.read_bytes() == b"one\nthree\n"


class Repository:
    """Takes streams of octet-counted messages; may hang up."""

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.messages: SimpleQueue[bytes] = SimpleQueue()
        self._context = context
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = self._server.getsockname()[1]
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            self._connections.append(connection)
            with connection.makefile("rb") as stream:
                while True:
                    length = b""
                    while not length.endswith(b" "):
                        byte = stream.read(1)
                        if not byte:
                            return
                        length += byte
                    self.messages.put(stream.read(int(length)))

    def hang_up(self) -> None:
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.hang_up()


@contextmanager
def repository(context: ssl.SSLContext | None = None) -> Iterator[Repository]:
    running = Repository(context)
    try:
        yield running
    finally:
        running.close()


def test_tcp_messages_are_counted_and_a_connection_that_was_lost_is_made_again() -> None:
    with repository() as there:
        sink = Stream("127.0.0.1", there.port)
        sink.write([b"one", "zwölf\nlines".encode()])
        assert [there.messages.get(timeout=SECONDS) for _ in range(2)] == [b"one", "zwölf\nlines".encode()]
        assert sink._connection is not None
        there.hang_up()
        sink._connection.settimeout(SECONDS)
        assert sink._connection.recv(1, socket.MSG_PEEK) == b""  # it has come through
        sink.write([b"three"])
        assert there.messages.get(timeout=SECONDS) == b"three"
        sink.close()


@contextmanager
def busy(files: int) -> Iterator[None]:
    """So many files are open, as with many associations; the unit allows 16384."""
    kept = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(kept[0], 2 * files), kept[1]))
    try:
        with ExitStack() as opened:
            for _ in range(files):
                opened.enter_context(Path(os.devnull).open("rb"))
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, kept)


def test_a_connection_made_while_many_files_are_open_is_written_to_again() -> None:
    with repository() as there, busy(1024):
        sink = Stream("127.0.0.1", there.port)
        for message in (b"one", b"two"):
            sink.write([message])
            assert there.messages.get(timeout=SECONDS) == message
        sink.close()


def test_tls_with_certificates_on_both_sides(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    owner, node = ca.issue("repository"), ca.issue("node")
    server = tls.server_context(Identity(owner.certificate, owner.key), ca.certificate)
    client = ClientTls("localhost", ca.certificate, Identity(node.certificate, node.key))
    with repository(server) as there:
        sink = Stream("127.0.0.1", there.port, lambda: tls.client_context(client), "localhost")
        sink.write([b"one"])
        sink.write([b"two" * 20_000])
        assert there.messages.get(timeout=SECONDS) == b"one"
        assert there.messages.get(timeout=SECONDS) == b"two" * 20_000
        sink.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            Stream("127.0.0.1", there.port, lambda: tls.client_context(client), "other").write([b"x"])


def test_a_repository_with_tls_1_3_and_its_tickets_has_one_connection(tmp_path: Path) -> None:
    """What any server but ours sends after the handshake is no end of the connection."""
    ca = Authority(tmp_path)
    owner = ca.issue("repository")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    server.load_cert_chain(owner.certificate, owner.key)
    assert server.num_tickets
    client = ClientTls("localhost", ca.certificate)
    with repository(server) as there:
        sink = Stream("127.0.0.1", there.port, lambda: tls.client_context(client), "localhost")
        for message in (b"one", b"two", b"three"):
            sink.write([message])
            assert there.messages.get(timeout=SECONDS) == message  # the tickets came before it was read
        assert len(there._connections) == 1
        there.hang_up()
        assert sink._connection is not None
        sink._connection.settimeout(SECONDS)
        assert sink._connection.recv(1) == b""  # it has come through
        sink.write([b"four"])
        assert there.messages.get(timeout=SECONDS) == b"four"
        sink.close()


def test_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", 0))
        there.settimeout(SECONDS)
        Datagrams("127.0.0.1", there.getsockname()[1]).write([b"one", b"x" * 70_000])
        assert there.recv(70_000) == b"one"
        assert there.recv(70_000) == b"x" * syslog.MAX_DATAGRAM_BYTES


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        Stream("127.0.0.1", port).write([b"one"])
