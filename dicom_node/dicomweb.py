"""The web services that the node uses: STOW-RS and QIDO-RS (PS3.18 10.5 and 10.6), each as one function.

Everything that goes wrong is a `TransientError` or a `PermanentError`, as in `scu`: the same faults have the same
class on either way, and a failure reason in a response is judged as the C-STORE status of that number.

An object is a request of its own: its bytes are streamed as they lie on disk, and the fault of one is no other's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydicom.dataset import Dataset

from dicom_node.association import refused, words
from dicom_node.audit_events import Asked, Shipment, report
from dicom_node.audit_message import Node
from dicom_node.errors import NodeError, PermanentError, TransientError
from dicom_node.http_session import Answer, BrokenOff, Session, WebPeer, refusal, session
from dicom_node.query import identifier
from dicom_node.scu import (
    DUPLICATE,
    MAX_FRUITLESS,
    SLOWEST_BYTES_PER_S,
    STORED_WITH_WARNING,
    Begin,
    Item,
    StoreResult,
    always,
    read_item,
    withdrawn,
)
from pipeline.types import ObjectReference

STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.1"  # C-FIND, whose counterpart QIDO-RS is
_CHUNK_BYTES = 256 * 1024
_ONE_OBJECT = {400, 409, 413, 415, 422, 500}  # says nothing about the objects after it
# Store Instances Response Module (PS3.3 I.2.2), tags as DICOM JSON has them (PS3.18 F.2)
_REFERENCED, _FAILED = "00081199", "00081198"
_REFERENCED_INSTANCE, _FAILURE_REASON, _WARNING_REASON = "00081155", "00081197", "00081196"
_INSTANCE = "00080018"
_PROCESSING_FAILURE = 0x0110  # PS3.7 C.5.12


def check(peer: WebPeer) -> None:
    """Ask for one study: return when the service answers with success, raise otherwise."""
    with session(peer) as opened:
        answer = opened.request("GET", "/studies", params={"limit": "1"})
    if answer.status not in (200, 204):
        raise refusal(peer, "the query", answer.status)


def store(
    peer: WebPeer,
    files: Sequence[Path],
    on_result: Callable[[StoreResult], None] | None = None,
    begin: Begin = always,
) -> list[StoreResult]:
    """STOW-RS files in their order, on one connection.

    Args:
        peer: the service.
        files: DICOM files (PS3.10).
        on_result: called with each result as soon as it is known.
        begin: called before each object is sent; one that it denies is not, with `NotWanted`.

    Returns:
        one result per file, in order; a fault of the service, or a connection that cannot be had, is that of every
        file after it too. One that breaks at an object is its fault alone, as in `scu.store`.
    """
    results: list[StoreResult] = []
    shipment = Shipment(_node(peer), files)

    def note(result: StoreResult) -> None:
        results.append(result)
        if on_result is not None:
            on_result(result)

    fruitless = 0
    try:
        with session(peer) as opened:
            for path in files:
                try:
                    result = _store_one(opened, peer, path) if begin(path) else withdrawn(path)
                    fruitless = 0
                except BrokenOff as error:
                    fruitless += 1
                    if fruitless == MAX_FRUITLESS:
                        raise
                    result = StoreResult(path, "", error)
                note(result)
    except (TransientError, PermanentError) as error:
        for path in files[len(results) :]:
            note(StoreResult(path, "", error))
    shipment.close(results)
    return results


def _store_one(opened: Session, peer: WebPeer, path: Path) -> StoreResult:
    """Send one file; errors of the file are in the result, errors of connection and service are raised."""
    boundary = secrets.token_hex(16)
    try:
        item = read_item(path)
        file = path.open("rb")
    except PermanentError as error:
        return StoreResult(path, "", error)
    except OSError as error:
        return StoreResult(path, "", PermanentError(f"{path} cannot be read: {error.strerror}"))
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    tail = f"\r\n--{boundary}--\r\n".encode()

    def body() -> Iterator[bytes]:
        yield head
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
        yield tail

    with file:
        answer = opened.request(
            "POST",
            "/studies",
            content=body(),
            headers={
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Content-Length": str(len(head) + item.size_bytes + len(tail)),
            },
            limit_s=peer.timeout_s + item.size_bytes / SLOWEST_BYTES_PER_S,
        )
    return _judge(peer, item, answer)


def _judge(peer: WebPeer, item: Item, answer: Answer) -> StoreResult:
    """What a response says about the one object that was sent (PS3.18 10.5.3)."""
    failed, stored = _items(answer.body, _FAILED), _items(answer.body, _REFERENCED)
    for named in _of(failed, item.sop_instance):
        status = _status(named, _FAILURE_REASON, _PROCESSING_FAILURE)
        if status.Status not in (*STORED_WITH_WARNING, DUPLICATE):
            return _failed(item, refused(peer.url, item.sop_class.name, status))
        return StoreResult(item.path, item.sop_instance, warning=f"stored with warning {words(status)}")
    if answer.status not in (200, 202):
        error = refusal(peer, item.sop_class.name, answer.status)
        if answer.status not in _ONE_OBJECT:
            raise error
        return _failed(item, error)
    for named in _of(stored, item.sop_instance):
        status = _status(named, _WARNING_REASON, 0x0000)
        warning = f"stored with warning {words(status)}" if status.Status else ""
        return StoreResult(item.path, item.sop_instance, warning=warning)
    if failed or stored:
        text = "names other objects in its answer: it may have given this one another UID, which must not be."
        return _failed(item, PermanentError(f"{peer.url} {text}"))
    if answer.status == 202:
        return _failed(item, TransientError(f"{peer.url} took an object and did not say what became of it."))
    return StoreResult(item.path, item.sop_instance, warning="answered success without saying what was stored")


def _node(peer: WebPeer) -> Node:
    """The service in the audit trail."""
    return Node(peer.url, address=urlsplit(peer.url).hostname or "")


def _failed(item: Item, error: NodeError) -> StoreResult:
    return StoreResult(item.path, item.sop_instance, error)


def _status(named: dict[str, Any], tag: str, absent: int) -> Dataset:
    """A failure or warning reason as a C-STORE status: the numbers are the same (PS3.3 I.2.2)."""
    status = Dataset()
    value = _first(named, tag)
    status.Status = value if isinstance(value, int) and 0 <= value <= 0xFFFF else absent
    return status


# --- QIDO-RS -----------------------------------------------------------------------------------------------------


def find_instances(peer: WebPeer, references: Iterable[ObjectReference]) -> set[str]:
    """Which of these objects the service lists: their SOP Instance UIDs."""
    found: set[str] = set()
    with session(peer) as opened:
        for reference in references:
            answer = opened.request(
                "GET",
                f"/studies/{reference.study_uid}/series/{reference.series_uid}/instances",
                params={"SOPInstanceUID": reference.sop_instance_uid},
            )
            known = answer.status in (200, 204, 404)  # 404: the study or series is unknown there
            report(Asked(_node(peer), STUDY_ROOT, _identifier(reference), "" if known else f"HTTP {answer.status}"))
            if not known:
                raise refusal(peer, "the query", answer.status)
            matches = answer.body if answer.status == 200 and isinstance(answer.body, list) else []
            if any(_first(match, _INSTANCE) == reference.sop_instance_uid for match in matches):
                found.add(reference.sop_instance_uid)
    return found


def _identifier(reference: ObjectReference) -> Dataset:
    """The query as C-FIND would have it, for the audit trail."""
    keys = {
        "StudyInstanceUID": reference.study_uid,
        "SeriesInstanceUID": reference.series_uid,
        "SOPInstanceUID": reference.sop_instance_uid,
    }
    return identifier("IMAGE", keys)


# --- DICOM JSON, as it may come from anywhere --------------------------------------------------------------------


def _items(body: Any, tag: str) -> list[Any]:
    """The items of a sequence; none where there is no such thing. Some answer with a list of one data set."""
    body = body[0] if isinstance(body, list) and len(body) == 1 else body
    values = body.get(tag, {}) if isinstance(body, dict) else {}
    items = values.get("Value") if isinstance(values, dict) else None
    return items if isinstance(items, list) else []


def _of(items: list[Any], sop_instance_uid: str) -> list[dict[str, Any]]:
    """Those items that speak of an instance."""
    return [item for item in items if _first(item, _REFERENCED_INSTANCE) == sop_instance_uid]


def _first(item: Any, tag: str) -> Any:
    """The first value of an attribute; None where there is none."""
    return next(iter(_items(item, tag)), None)
