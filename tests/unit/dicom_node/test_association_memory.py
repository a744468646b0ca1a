"""What an association leaves behind: nothing that waits for the garbage collector."""

from __future__ import annotations

import gc
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.association_server import InboundAssociation
from tests.fixtures.reception import SECONDS, Node, receiving, recorded

ROUNDS = 10
PARTS = ("pynetdicom", "dicom_node.association_server", "dicom_node.upper_layer", "dicom_node.connection")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with receiving(tmp_path / "state") as running:
        yield running


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What names itself in a circle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def say(node: Node, stream: bytes) -> None:
    """Connect, say that much, read until the other side closes."""
    with socket.create_connection(("127.0.0.1", node.port), SECONDS) as peer:
        peer.sendall(stream)
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(65536):
            pass


def join_associations() -> None:
    for thread in threading.enumerate():
        if isinstance(thread, InboundAssociation):
            thread.join(SECONDS)


def held() -> Counter[str]:
    """How many parts of associations there are, of each class."""
    kinds = [type(each) for each in gc.get_objects()]
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith(PARTS))


def test_associations_are_gone_when_they_are_over(node: Node, tmp_path: Path, no_collector: None) -> None:
    request, echo, command, data, release = recorded(tmp_path / "recorder")
    conversations = {
        "released": request + echo + command + data + release,
        "broken off within an instance": request + command + data[: len(data) // 2],
        "an invalid PDU": request + b"\x09\0\0\0\0\0",
        "half a request": request[:50],
    }
    for stream in conversations.values():  # what is kept once for all is there then
        say(node, stream)
    join_associations()
    gc.collect()
    before = held()
    for _ in range(ROUNDS):
        for stream in conversations.values():
            say(node, stream)
    join_associations()
    # A thread that is just ending holds its association for a moment longer than it can be joined.
    assert {part: number for part, number in (held() - before).items() if number >= ROUNDS} == {}


def test_an_association_that_is_over_can_be_interrupted(node: Node, tmp_path: Path) -> None:
    request, *_, release = recorded(tmp_path / "recorder")
    (server,) = node.receiver._servers
    with socket.create_connection(("127.0.0.1", node.port), SECONDS) as peer:
        peer.sendall(request)
        assert peer.recv(1) == b"\x02"  # A-ASSOCIATE-AC: it has been accepted
        (assoc,) = server._admission.all()
        peer.sendall(release)
    assoc.join(SECONDS)
    assert not assoc.is_alive()
    assoc.interrupt()  # as a stop of the node may that has just listed it
