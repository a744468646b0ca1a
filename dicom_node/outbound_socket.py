"""The socket of an association that the node requests: every wait on it ends, and it knows what failed."""

from __future__ import annotations

import socket
import time
from ssl import SSLContext, SSLError
from typing import cast

from pynetdicom.transport import T_CONNECT, AssociationSocket

from dicom_node import tls

TlsArguments = tuple[SSLContext, str]  # context and host name to verify


class BoundedSocket(AssociationSocket):
    """A socket whose connection, reads and writes all end within the time limit, and which knows what failed."""

    failure: OSError | None = None

    def connect(self, primitive: T_CONNECT) -> None:
        """Connect, with TLS where asked for; what comes of it goes to the state machine as in the base class."""
        limit_s = self.assoc.connection_timeout
        sock = cast(socket.socket, self.socket)
        try:
            sock.settimeout(limit_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(primitive.address_info.as_tuple)
            if self.tls_args is not None:
                context, host_name = self.tls_args
                self.socket = context.wrap_socket(sock, server_hostname=host_name)
            self._is_connected = True
            primitive.result = "Evt2"
        except OSError as error:
            self.failure = error
            self._shutdown_socket()
            self.socket = None
            primitive.result = "Evt17"
        self.provider_queue.put(primitive)
        self._ready.set()

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly `nr_bytes`, or less where the peer closes; a peer that trickles is cut off like a silent one."""
        sock = cast(socket.socket, self.socket)
        end = time.monotonic() + (self.assoc.connection_timeout or 0.0)
        received = bytearray()
        while len(received) < nr_bytes:
            if time.monotonic() > end:
                raise TimeoutError("the rest of a PDU did not come in time")
            try:
                part = sock.recv(min(nr_bytes - len(received), 64 * 1024))
            except SSLError as error:  # with TLS 1.3 a peer that does not believe us says so only now
                self.failure = error
                raise
            if not part:
                break
            received += part
        return received

    def _shutdown_socket(self) -> None:
        """Close the connection; with TLS the peer is told so."""
        tls.say_goodbye(self.socket)
        super()._shutdown_socket()
