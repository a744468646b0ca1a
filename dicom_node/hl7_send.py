"""Result SRs to a RIS: one ORU^R01 each by MLLP, and what the acknowledgement means for its delivery."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from dicom_node import hl7_message, mllp
from dicom_node.audit_events import Shipment
from dicom_node.audit_message import Node
from dicom_node.config import Hl7Destination
from dicom_node.errors import NodeError, PermanentError, TransientError
from dicom_node.hl7_message import Incomplete, Message
from dicom_node.hl7_text import Acknowledgement, NotHl7, acknowledgement, escape
from dicom_node.malformed import MALFORMED
from dicom_node.mllp import Connection, describe
from dicom_node.scu import Begin, StoreResult, always, withdrawn

MAX_TOLD = 200  # characters of what a RIS says

ACCEPTED, REFUSED = frozenset({"AA", "CA"}), frozenset({"AE", "AR", "CE", "CR"})  # table 0008
_MAY_PASS = frozenset({"206", "207"})  # table 0357: record locked, internal error of the application


def check(peer: Hl7Destination) -> None:
    """Return when the port answers, over TLS where it is called so; nothing is sent."""
    with mllp.connect(peer):
        return


def store(
    peer: Hl7Destination,
    files: Sequence[Path],
    on_result: Callable[[StoreResult], None] | None = None,
    begin: Begin = always,
) -> list[StoreResult]:
    """Send the message of each SR in their order, on one connection.

    Args:
        peer: the RIS.
        files: result SRs (PS3.10).
        on_result: called with each result as soon as it is known.
        begin: called before each message is sent; one that it denies is not, with `NotWanted`.

    Returns:
        one result per file, in order; a fault of the connection is that of every file after it too.
    """
    results: list[StoreResult] = []
    shipment = Shipment(Node(describe(peer), address=peer.host), files)

    def note(result: StoreResult) -> None:
        results.append(result)
        if on_result is not None:
            on_result(result)

    try:
        with mllp.connect(peer) as connection:
            for path in files:
                note(_send(connection, peer, path) if begin(path) else withdrawn(path))
    except TransientError as error:
        for path in files[len(results) :]:
            note(StoreResult(path, "", error))
    shipment.close(results)
    return results


def _send(connection: Connection, peer: Hl7Destination, path: Path) -> StoreResult:
    """One message; what is wrong with it is in the result, what is wrong with the connection is raised."""
    try:
        ds = dcmread(path)
        message = hl7_message.build(ds, peer)
    except Incomplete as error:
        return StoreResult(path, "", PermanentError(f"No message can be made of the report: {error}."))
    except (*MALFORMED, InvalidDicomError, OSError) as error:
        return StoreResult(path, "", PermanentError(f"{path} is no report that can be read: {error}"))
    said = _answer(connection, peer, message)
    return StoreResult(path, str(ds.SOPInstanceUID), *_judge(peer, replace(said, text=_nameless(said.text, ds))))


def _answer(connection: Connection, peer: Hl7Destination, message: Message) -> Acknowledgement:
    """The acknowledgement of this message; a late one of another is passed over.

    Raises:
        TransientError: none came in time.
    """
    other = ""
    try:
        for block in connection.answers(message.data):
            try:
                said = acknowledgement(block)
            except NotHl7 as error:
                raise TransientError(f"{describe(peer)} answers with something else: {error}.") from error
            if said.control_id == message.control_id:
                return said
            other = f" It acknowledged another message ({said.control_id[:20]!r} instead of {message.control_id})."
    except TransientError as error:
        raise TransientError(f"{error}{other}") from error
    raise TransientError(f"{describe(peer)} did not acknowledge.{other}")


def _nameless(text: str, ds: Dataset) -> str:
    """What a RIS says, without the patient whom it may name: it goes to the log too, which names nobody."""
    values = [str(ds.get(keyword) or "") for keyword in ("PatientID", "PatientBirthDate", "AccessionNumber")]
    values += re.split(r"[\^= ]", str(ds.get("PatientName") or ""))
    hidden = {form for value in values for form in (value, escape(value), _garbled(value)) if len(value) > 1}
    for form in sorted(hidden, key=len, reverse=True):
        text = re.sub(re.escape(form), "[...]", text, flags=re.IGNORECASE)
    return text[:MAX_TOLD]  # only now: a name that is cut would not be found


def _garbled(value: str) -> str:
    """As it is read where a RIS answers in Latin-1."""
    return "".join(c if c.isascii() else "\ufffd" for c in value)


def _judge(peer: Hl7Destination, said: Acknowledgement) -> tuple[NodeError | None, str]:
    """The error that an acknowledgement means, if any, and what is to be shown with a success."""
    if said.code in ACCEPTED:
        return None, f"acknowledged with {said.text}" if said.text else ""
    told = f"{describe(peer)} refused the message with {said.code}" + (f": {said.text}" if said.text else "")
    if said.code not in REFUSED:
        return TransientError(f"{describe(peer)} acknowledged with the unknown code {said.code[:8]!r}."), ""
    if said.condition in _MAY_PASS:
        return TransientError(f"{told}."), ""
    return PermanentError(
        f"{told}. Correct what it names, or ask the RIS administrator; then `dicomnode retry`."
    ), ""
