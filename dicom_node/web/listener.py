"""The listening socket of the page. It never holds more than a few connections, whatever comes."""

from __future__ import annotations

import socket
from contextlib import suppress

from dicom_node.config_web import WebSection

MAX_CONNECTIONS = 64


class Listener(socket.socket):
    """A listening socket that drops its oldest connection for a new one where there are too many.

    File descriptors are the node's: reception needs them. Whoever opens connections and says nothing, in the middle
    of a TLS handshake too, so holds a few of them, and not for long.
    """

    def __init__(self, family: socket.AddressFamily) -> None:
        super().__init__(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only on these
        self._accepted: list[socket.socket] = []  # oldest first

    def accept(self) -> tuple[socket.socket, object]:
        """As `socket.socket`."""
        connection, address = super().accept()
        self._accepted = [one for one in self._accepted if one.fileno() >= 0]
        if len(self._accepted) >= MAX_CONNECTIONS:
            with suppress(OSError):
                self._accepted.pop(0).shutdown(socket.SHUT_RDWR)  # whoever has it reads its end, and closes it
        self._accepted.append(connection)
        return connection, address


def listen(section: WebSection) -> Listener:
    """At the address and port of [web].

    Raises:
        OSError: they cannot be had.
    """
    listening = Listener(socket.AF_INET6 if ":" in section.bind else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((section.bind, section.port))
        listening.listen(MAX_CONNECTIONS)
    except OSError as error:
        listening.close()
        text = f"cannot listen on {section.bind} port {section.port}: {error.strerror}"
        raise OSError(error.errno, text) from error
    return listening
