"""What the node parses off the wire, each behind one function of bytes: for the fuzzer, and its corpus in tests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from pynetdicom.dsutils import decode

from dicom_node import commitment
from dicom_node.errors import NotParsable
from dicom_node.instance_check import identify
from dicom_node.malformed import MALFORMED
from dicom_node.part10 import FileMeta
from dicom_node.received import read
from tests.fixtures.ct import encode, slice_of
from tests.fixtures.reception import Node, receiving, recorded
from tests.fixtures.reception import encode as wire_encode

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
)
SECONDS = 20.0


@dataclass(frozen=True)
class Target:
    """Something that parses: good examples, and a function that raises only where something is wrong with it."""

    seeds: tuple[bytes, ...]
    parse: Callable[[bytes], None]


def _examples() -> tuple[bytes, ...]:
    """One data set in each transfer syntax, behind the byte that chooses it."""
    ds = slice_of(1)
    item = Dataset()
    item.CodeValue, item.ReferencedSOPSequence = "1", [Dataset()]
    ds.ProcedureCodeSequence = [item]
    return tuple(bytes([number]) + encode(ds, syntax) for number, syntax in enumerate(SYNTAXES))


def _split(data: bytes) -> tuple[UID, bytes]:
    return SYNTAXES[(data[0] if data else 0) % len(SYNTAXES)], data[1:]


@contextmanager
def heads(_folder: Path) -> Iterator[Target]:
    """`instance_check.identify`."""

    def parse(data: bytes) -> None:
        syntax, content = _split(data)
        with suppress(NotParsable):
            identify(BytesIO(content), syntax)

    yield Target(_examples(), parse)


@contextmanager
def files(folder: Path) -> Iterator[Target]:
    """`received.read`."""
    path = folder / "file.dcm"

    def parse(data: bytes) -> None:
        syntax, content = _split(data)
        path.write_bytes(FileMeta("1.2", "1.2.3", syntax, "CT1", "192.0.2.7").encode() + content)
        with suppress(NotParsable):
            read(path)

    yield Target(_examples(), parse)


@contextmanager
def reports(_folder: Path) -> Iterator[Target]:
    """`commitment.parse` of what pynetdicom decodes, as the receiver takes it."""
    ds = Dataset()
    ds.TransactionUID = "1.2.3"
    for keyword in ("ReferencedSOPSequence", "FailedSOPSequence"):
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.FailureReason = "1.2", "1.2.4", 0x0112
        setattr(ds, keyword, [item])

    def parse(data: bytes) -> None:
        syntax, content = _split(data)
        try:
            ds = decode(BytesIO(content), syntax.is_implicit_VR, syntax.is_little_endian)
        except (*MALFORMED, OSError):  # as the receiver refuses it
            return
        with suppress(NotParsable):
            commitment.parse(ds)

    yield Target(tuple(bytes([n]) + wire_encode(ds, syntax) for n, syntax in enumerate(SYNTAXES[:3])), parse)


@contextmanager
def conversations(folder: Path) -> Iterator[Target]:
    """A receiver on a socket: whatever is said to it, the association ends, in no error that nobody planned."""
    conversation = recorded(folder / "recorded")
    unplanned: list[threading.ExceptHookArgs] = []
    before, threading.excepthook = threading.excepthook, unplanned.append
    try:
        with receiving(folder / "state") as node:
            yield Target((b"".join(conversation), *conversation), lambda data: _say(node, data, unplanned))
    finally:
        threading.excepthook = before


def _say(node: Node, data: bytes, unplanned: list[threading.ExceptHookArgs]) -> None:
    with socket.create_connection(("127.0.0.1", node.port), SECONDS) as peer, suppress(ConnectionError):
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(65536):
            pass
    while node.spool.pending() and len(node.stored) > 100:
        node.stored.pop().unlink()  # what was understood must not fill the disk
    if unplanned:
        raise AssertionError("a thread ended in an error") from unplanned[0].exc_value


TARGETS: Mapping[str, Callable[[Path], AbstractContextManager[Target]]] = {
    "identify": heads,
    "file": files,
    "report": reports,
    "conversation": conversations,
}
