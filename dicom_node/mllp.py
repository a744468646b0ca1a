"""HL7 messages over TCP, as client: the Minimal Lower Layer Protocol (HL7 2.5.1 appendix C, IHE ITI TF-2 C.2.1).

A block is <VT> message <FS><CR>; of an answer <FS> is enough, which some systems leave it at. Every wait ends: an
answer has to be whole by the time limit, however slowly it comes, and no longer than any acknowledgement is.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dicom_node import tls
from dicom_node.errors import ConfigError, TransientError
from dicom_node.tls import Called

BEGIN, END = b"\x0b", b"\x1c\r"
END_OF_ANSWER = END[:1]  # what follows it stands before the next answer, where it means nothing
MAX_ANSWER_BYTES = 64 * 1024


def describe(peer: Called) -> str:
    """The peer as shown to people."""
    return f"{peer.host}:{peer.port}"


class Connection:
    """One message after the other; made by `connect`."""

    def __init__(self, peer: Called, sock: socket.socket) -> None:
        self._peer = peer
        self._socket = sock
        self._received = bytearray()

    def answers(self, message: bytes) -> Iterator[bytes]:
        """Send a message; then each block that comes back, until the time is over.

        Raises:
            TransientError: the connection broke, no block came in time, or what comes is no block.
        """
        end = time.monotonic() + self._peer.timeout_s
        try:
            self._socket.settimeout(self._peer.timeout_s)
            self._socket.sendall(BEGIN + message + END)
            while True:
                yield self._block(end)
        except TimeoutError as error:
            raise TransientError(
                f"{describe(self._peer)} did not acknowledge within {self._peer.timeout_s:.3g} s: it may have the "
                "message all the same, which is sent again under the same control ID."
            ) from error
        except ssl.SSLError as error:
            raise _no_tls(self._peer, error) from error
        except OSError as error:
            raise TransientError(f"{describe(self._peer)} broke the connection off.") from error

    def _block(self, end: float) -> bytes:
        while END_OF_ANSWER not in self._received:
            if len(self._received) > MAX_ANSWER_BYTES:
                raise TransientError(f"{describe(self._peer)} answers with more than {MAX_ANSWER_BYTES >> 10} kB.")
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            part = self._socket.recv(4096)
            if not part:
                raise TransientError(f"{describe(self._peer)} closed the connection without acknowledging.")
            self._received += part
        block, _, rest = bytes(self._received).partition(END_OF_ANSWER)
        self._received = bytearray(rest)
        _, began, content = block.rpartition(BEGIN)
        if not began:
            raise TransientError(f"{describe(self._peer)} does not speak MLLP: is the port right?")
        return content


@contextmanager
def connect(peer: Called) -> Iterator[Connection]:
    """A connection, over TLS where the peer is called so.

    Raises:
        TransientError: it cannot be had; all of that may pass by itself, a certificate may just be renewed.
    """
    with _open(peer) as sock:
        try:
            yield Connection(peer, sock)
        finally:
            tls.say_goodbye(sock)


def _open(peer: Called) -> socket.socket:
    where = describe(peer)
    try:
        sock = socket.create_connection((peer.host, peer.port), peer.timeout_s)
    except (socket.gaierror, UnicodeError) as error:
        raise TransientError(
            f"The host name {peer.host!r} cannot be resolved: correct host, or ask for its DNS entry."
        ) from error
    except TimeoutError as error:
        raise TransientError(
            f"{where} did not answer within {peer.timeout_s:.3g} s: is it up, does a firewall lie between?"
        ) from error
    except ConnectionRefusedError as error:
        raise TransientError(
            f"{where} refuses the connection: nothing listens there. Check port and service."
        ) from error
    except OSError as error:
        raise TransientError(f"No connection to {where}: {error.strerror or error}.") from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _secured(peer, sock)


def _secured(peer: Called, sock: socket.socket) -> socket.socket:
    if peer.client_tls is None:
        return sock
    try:
        return tls.client_context(peer.client_tls).wrap_socket(sock, server_hostname=peer.client_tls.name)
    except ConfigError as error:
        sock.close()
        raise TransientError(f"{describe(peer)} cannot be called with TLS: {error}.") from error
    except OSError as error:
        sock.close()
        raise _no_tls(peer, error) from error


def _no_tls(peer: Called, error: OSError) -> TransientError:
    return TransientError(f"No TLS connection to {describe(peer)}: {tls.reason(error)}. Check tls_name and tls_ca.")
