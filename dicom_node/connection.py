"""The socket of an association that a peer opens, with or without TLS."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from ssl import SSLSocket

from pynetdicom.transport import AssociationSocket

from dicom_node import tls
from dicom_node.tls import PeerCertificate

DISCARD_BYTES = 1 << 16


class Connection(AssociationSocket):
    """The socket of an association, whose reads and writes end at a deadline (seconds of `time.monotonic`)."""

    def fill(self, view: memoryview, deadline: float) -> None:
        """Read until `view` is full.

        Raises:
            TimeoutError: it was not by the deadline.
            OSError: the connection is closed.
        """
        while view:
            received = self._wait(deadline).recv_into(view)
            if not received:
                raise ConnectionResetError("closed by the peer")
            view = view[received:]

    def discard(self, deadline: float) -> None:
        """Throw away what comes until the peer closes. Raises as `fill`."""
        while self._wait(deadline).recv(DISCARD_BYTES):
            pass

    def send(self, bytestream: bytes) -> None:
        """Send a PDU; a peer that does not take it in time is treated as gone."""
        if self.socket is not None:
            self.socket.settimeout(self.assoc.network_timeout)
            super().send(bytestream)

    def shake_hands(self, limit_s: float) -> PeerCertificate | None:
        """The handshake of a TLS connection, as server: who the peer is.

        Raises:
            OSError: the peer is not believed, does not speak TLS as we do, or takes too long.
        """
        if isinstance(self.socket, SSLSocket):
            self.socket.settimeout(limit_s)
            self.socket.do_handshake()
            return tls.peer_certificate(self.socket)
        return None

    def interrupt(self) -> None:
        """Wake a thread that waits in `fill` or `discard`, from any other; it finds the connection closed."""
        connection = self.socket  # its own thread may set it to None
        if connection is not None:
            with suppress(OSError):
                # not its own: that of an SSLSocket gives up encryption, while its thread may still send
                socket.socket.shutdown(connection, socket.SHUT_RD)

    def _shutdown_socket(self) -> None:
        """Close the connection for certain, also where the peer was first."""
        if self.socket is not None:
            tls.say_goodbye(self.socket)
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()

    def _wait(self, deadline: float) -> socket.socket:
        """The socket, with what is left until the deadline as its time limit."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        if self.socket is None:
            raise ConnectionResetError("closed")
        self.socket.settimeout(remaining)
        # Many senders leave Nagle's algorithm on: the end of each message waits for our acknowledgement, which
        # Linux delays by up to 40 ms. The option does not last, so it is set before each wait.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return self.socket
