"""Where audit messages go: files of a day, or a repository by syslog (RFC 5424) over UDP, TCP or TLS.

A sink writes what it is given or raises OSError; it may block, and has a thread of its own (`audit`).
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from ssl import SSLContext, SSLWantReadError
from typing import Protocol

FOLDER = "audit"  # of a `DailyFile`, in the state folder
PRIORITY = 85  # facility 10 (security), severity 5 (notice): PS3.15 A.6
MESSAGE_ID = "DICOM+RFC3881"  # A.6
APPLICATION = "dicomnode"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # says that the message is UTF-8, RFC 5424 6.4
MAX_DATAGRAM_BYTES = 65507
TIMEOUT_S = 10.0
FILE_MODE, FOLDER_MODE = 0o640, 0o750


class Sink(Protocol):
    """One place that takes messages."""

    def write(self, frames: Sequence[bytes]) -> None:
        """Take these, whole and in order, or raise OSError; then all of them will be given again."""

    def close(self) -> None:
        """Let go of file or connection."""


def frame(message: bytes, now: datetime, host: str, process_id: int) -> bytes:
    """A SYSLOG-MSG (RFC 5424 6) on one line."""
    stamp = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    header = f"<{PRIORITY}>1 {stamp} {host or '-'} {APPLICATION} {process_id} {MESSAGE_ID} - "
    return header.encode("ascii", "replace") + BYTE_ORDER_MARK + message


class DailyFile:
    """A line per message in FOLDER/YYYY-MM-DD.log, on stable storage when `write` returns."""

    def __init__(self, folder: Path, clock: Callable[[], datetime]) -> None:
        self._folder = folder
        self._clock = clock

    def write(self, frames: Sequence[bytes]) -> None:
        """As `Sink`; the day is that of the machine."""
        if not self._folder.is_dir():
            self._folder.mkdir(mode=FOLDER_MODE)
            _hand_over(self._folder, self._folder.parent)
        path = self._folder / f"{self._clock().astimezone():%Y-%m-%d}.log"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            before = os.fstat(descriptor).st_size
            if not before:
                os.fchmod(descriptor, FILE_MODE)  # whatever the umask of the service
                _hand_over(path, self._folder)
            try:
                _write_all(descriptor, b"".join(one + b"\n" for one in frames))
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, before)  # disk full: no halves
                raise
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Nothing stays open."""


def _write_all(descriptor: int, data: bytes) -> None:
    """Not by a file object: its buffer would keep what the disk did not take, and write it when it is closed."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def files_before(folder: Path, day: date) -> list[Path]:
    """Files of a `DailyFile` that are of earlier days, oldest first; whatever else lies there is none of them."""
    return sorted(path for path in folder.glob("*.log") if (found := _day(path)) is not None and found < day)


def _day(path: Path) -> date | None:
    with suppress(ValueError):
        found = date.fromisoformat(path.stem)
        return found if path.stem == found.isoformat() else None  # it takes other spellings too
    return None


def _hand_over(path: Path, folder: Path) -> None:
    """What a command makes that root runs beside the node has to belong to the service's user all the same."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


class Datagrams:
    """Syslog over UDP (RFC 5426): may be lost, cut off or read on the way without anybody knowing."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    def write(self, frames: Sequence[bytes]) -> None:
        """As `Sink`; what no datagram holds is cut off."""
        family, kind, protocol, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as connection:
            for one in frames:
                connection.sendto(one[:MAX_DATAGRAM_BYTES], address)

    def close(self) -> None:
        """Nothing stays open."""


class Stream:
    """Syslog over TCP (RFC 6587, octet counting) or TLS (RFC 5425), on a connection that is kept.

    Args:
        context: makes the TLS context, for each connection; None: TCP.
        name: that the certificate of the repository must have.
    """

    def __init__(self, host: str, port: int, context: Callable[[], SSLContext] | None = None, name: str = ""):
        self._address = (host, port)
        self._context = context
        self._name = name or host
        self._connection: socket.socket | None = None

    def write(self, frames: Sequence[bytes]) -> None:
        """As `Sink`. Syslog has no acknowledgement: what a repository that dies had not read is lost."""
        if self._connection is not None and _is_closed(self._connection):
            self.close()
        if self._connection is None:
            self._connection = self._connect()
        try:
            self._connection.sendall(b"".join(b"%d %b" % (len(one), one) for one in frames))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._address, TIMEOUT_S)
        if self._context is None:
            return connection
        try:
            return self._context().wrap_socket(connection, server_hostname=self._name)
        except BaseException:
            connection.close()
            raise


def _is_closed(connection: socket.socket) -> bool:
    """Whether the repository has hung up: it never says anything else."""
    readable = select.poll()  # not select(2), which ends at file descriptor 1023
    readable.register(connection, select.POLLIN)
    if not readable.poll(0):
        return False
    try:
        connection.settimeout(0)
        return not connection.recv(4096)
    except (BlockingIOError, SSLWantReadError):  # TLS itself had something to say: session tickets of TLS 1.3
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(TIMEOUT_S)
