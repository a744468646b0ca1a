"""The services that the node uses: Verification, Storage and Storage Commitment, each as one function.

Every wait ends, and everything that goes wrong is a `TransientError` (tried again) or a `PermanentError` (stops)
whose text says what to do. Archives are asked in `query`, and instances fetched in `retrieve`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import _config as pynetdicom_config
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from dicom_node import commitment
from dicom_node.association import MAX_CONTEXTS, NoContexts, Peer, associate, call, describe, failure, words
from dicom_node.audit_events import Shipment
from dicom_node.audit_message import Node
from dicom_node.commitment import CommitmentReport
from dicom_node.errors import NodeError, NotWanted, PermanentError, TransientError
from pipeline.types import ObjectReference

# A path given to send_c_store is sent as its bytes are, instead of being decoded and encoded again.
pynetdicom_config.STORE_SEND_CHUNKED_DATASET = True

MAX_FRUITLESS = 3  # associations in a row that end at their first object: it is not the object
SLOWEST_BYTES_PER_S = 125_000  # a link of 1 Mbit/s; an object that takes longer counts as stuck
_INTERCHANGEABLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)  # what an uncompressed object may become
_REQUEST_COMMITMENT = 1  # action type, PS3.4 Table J.3-1
STORED_WITH_WARNING = {0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)}  # PS3.7 annex C, PS3.4 Table B.2-1
DUPLICATE = 0x0111  # PS3.7 C.5.7: the peer has this SOP instance


@dataclass(frozen=True)
class StoreResult:
    """What became of one file.

    Attributes:
        path: the file.
        sop_instance_uid: of the object; empty where the file cannot be read.
        error: why it is not stored; None when it is.
        warning: what the peer remarked although it stored the object.
    """

    path: Path
    sop_instance_uid: str
    error: NodeError | None = None
    warning: str = ""


Begin = Callable[[Path], bool]


def always(path: Path) -> bool:
    """Send every file."""
    return True


def withdrawn(path: Path, sop_instance_uid: str = "") -> StoreResult:
    """Of a file that must not be sent any more."""
    return StoreResult(path, sop_instance_uid, NotWanted(f"{path} was withdrawn before it was sent"))


def echo(peer: Peer, calling_ae: str) -> None:
    """C-ECHO: return when the peer answers with success, raise otherwise."""
    with associate(peer, calling_ae, [build_context(Verification)]) as assoc:
        status, _ = call(assoc, peer, lambda: (assoc.send_c_echo(), None))
        if status.Status != 0x0000:
            raise failure(peer, "the echo", status)


# --- Storage ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One file to send. It is sent as it is, or re-encoded with one of `fallbacks`."""

    path: Path
    sop_class: UID
    sop_instance: UID
    syntax: UID
    size_bytes: int

    @property
    def fallbacks(self) -> tuple[UID, ...]:
        """Transfer syntaxes that it may be converted to without touching a pixel."""
        return syntaxes_of(self.syntax)[1:]

    @property
    def contexts(self) -> set[tuple[UID, UID]]:
        """(SOP class, transfer syntax) of the presentation contexts that it can go through."""
        return {(self.sop_class, syntax) for syntax in (self.syntax, *self.fallbacks)}


def syntaxes_of(own: UID) -> tuple[UID, ...]:
    """Transfer syntaxes that an object may be sent in, its own first."""
    if own in (*_INTERCHANGEABLE, DeflatedExplicitVRLittleEndian):
        return (own, *(syntax for syntax in _INTERCHANGEABLE if syntax != own))
    return (own,)


def store(
    peer: Peer,
    files: Sequence[Path],
    calling_ae: str,
    on_result: Callable[[StoreResult], None] | None = None,
    begin: Begin = always,
) -> list[StoreResult]:
    """C-STORE files in their order, on one association as long as 128 presentation contexts are enough.

    One context per SOP class and transfer syntax that occurs is asked for, so that the peer cannot choose another
    syntax where it supports the file's own: then the stored bytes are sent as they are. Uncompressed objects fall
    back to the other uncompressed little endian syntax.

    Args:
        peer: who is called.
        files: DICOM files (PS3.10).
        calling_ae: our AE title.
        on_result: called with each result as soon as it is known.
        begin: called before each object is put on the wire; one that it denies is not sent, with `NotWanted`.

    Returns:
        one result per file, in order; where no association can be had, that is the error of every file not stored
        by then.
    """
    results: dict[Path, StoreResult] = {}
    shipment = Shipment(Node(peer.ae_title, peer.ae_title, peer.host), files)

    def note(result: StoreResult) -> None:
        results[result.path] = result
        if on_result is not None:
            on_result(result)

    items = []
    for path in files:
        try:
            items.append(read_item(path))
        except PermanentError as error:
            note(StoreResult(path, "", error))
    for batch in _batches(items):
        try:
            _store_batch(peer, batch, calling_ae, note, begin)
        except (TransientError, PermanentError) as error:
            for item in batch:
                if item.path not in results:
                    note(StoreResult(item.path, item.sop_instance, error))
    shipment.close(list(results.values()))
    return [results[path] for path in files]


def read_item(path: Path) -> Item:
    """What the file meta information of a file says; PermanentError where it is none, or cannot be read."""
    try:
        meta = read_file_meta_info(path)
        sop_class, sop_instance = UID(meta.MediaStorageSOPClassUID), UID(meta.MediaStorageSOPInstanceUID)
        return Item(path, sop_class, sop_instance, UID(meta.TransferSyntaxUID), path.stat().st_size)
    except OSError as error:
        raise PermanentError(f"{path} cannot be read: {error.strerror}") from error
    except (InvalidDicomError, AttributeError, EOFError, ValueError, KeyError) as error:
        raise PermanentError(f"{path} is not a DICOM file: {error}") from error


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Split where the presentation contexts of one association do not suffice."""
    batch: list[Item] = []
    contexts: set[tuple[UID, UID]] = set()
    for item in items:
        if len(contexts | item.contexts) > MAX_CONTEXTS:
            yield batch
            batch, contexts = [], set()
        batch.append(item)
        contexts |= item.contexts
    if batch:
        yield batch


def _store_batch(
    peer: Peer, batch: Sequence[Item], calling_ae: str, note: Callable[[StoreResult], None], begin: Begin
) -> None:
    """Store on one association; where the peer ends it at an object, what lies behind that goes on another one.

    Else one object that the peer cannot digest would keep all others from arriving, at every attempt.
    """
    rest, fruitless = list(batch), 0
    while rest:
        done, error = _store_some(peer, rest, calling_ae, note, begin)
        fruitless = fruitless + 1 if done == 1 else 0
        rest = rest[done:]
        if error is not None and fruitless == MAX_FRUITLESS:
            raise error  # that of all the rest


def _store_some(
    peer: Peer, batch: Sequence[Item], calling_ae: str, note: Callable[[StoreResult], None], begin: Begin
) -> tuple[int, TransientError | None]:
    """How many were done with, and what ended the association at the last of these, if something did."""
    wanted = sorted(set().union(*(item.contexts for item in batch)))
    try:
        with associate(peer, calling_ae, [build_context(*pair) for pair in wanted]) as assoc:
            for number, item in enumerate(batch, 1):
                try:
                    note(_store_one(assoc, peer, item, number % 0x10000, begin))
                except TransientError as error:
                    note(StoreResult(item.path, item.sop_instance, error))
                    return number, error
    except NoContexts:
        for item in batch:
            note(StoreResult(item.path, item.sop_instance, _not_accepted(peer, item)))
    return len(batch), None


def _store_one(assoc: Association, peer: Peer, item: Item, message_id: int, begin: Begin) -> StoreResult:
    """Send one file; errors of the file are in the result, errors of the association are raised."""
    accepted = {(cx.abstract_syntax, cx.transfer_syntax[0]) for cx in assoc.accepted_contexts if cx.as_scu}
    if not accepted & item.contexts:
        return StoreResult(item.path, item.sop_instance, _not_accepted(peer, item))
    if not begin(item.path):
        return withdrawn(item.path, item.sop_instance)
    as_it_is = (item.sop_class, item.syntax) in accepted
    try:
        content = item.path if as_it_is else dcmread(item.path)
        status, _ = call(
            assoc,
            peer,
            lambda: (assoc.send_c_store(content, msg_id=message_id), None),
            peer.timeout_s + item.size_bytes / SLOWEST_BYTES_PER_S,
        )
    except (ValueError, AttributeError, OSError) as error:  # an object that cannot be read or encoded
        return StoreResult(item.path, item.sop_instance, PermanentError(f"{item.path} cannot be sent: {error}"))
    found = outcome(peer, item.sop_class.name, status)
    if isinstance(found, str):
        return StoreResult(item.path, item.sop_instance, warning=found)
    return StoreResult(item.path, item.sop_instance, found)


def outcome(peer: Peer, what: str, status: Dataset) -> NodeError | str:
    """What the status of a C-STORE means: an error, or stored with this warning; empty: without."""
    if status.Status == 0x0000:
        return ""
    if status.Status in STORED_WITH_WARNING or status.Status == DUPLICATE:
        return f"stored with warning {words(status)}"
    return failure(peer, what, status)


def _not_accepted(peer: Peer, item: Item) -> PermanentError:
    return PermanentError(
        f"{describe(peer)} does not take {item.sop_class.name} ({item.syntax.name}): ask the PACS administrator to "
        "allow this SOP class, or give the destination a profile without it."
    )


# --- Storage Commitment ------------------------------------------------------------------------------------------


def request_commitment(
    peer: Peer,
    references: Sequence[ObjectReference],
    transaction_uid: str,
    calling_ae: str,
    on_report: Callable[[CommitmentReport], None],
    answered: threading.Event,
    stay_s: float,
) -> None:
    """Ask the peer to take responsibility for objects (PS3.4 annex J), and stay a while for its answer.

    The report comes on this association or, now or much later, on one that the peer opens to the receiver; who
    calls has persisted the Transaction UID before. We are the requestor and the SCU, which is the default, so that
    no role is negotiated here.

    Args:
        peer: who is called.
        references: the objects.
        transaction_uid: new for each request.
        calling_ae: our AE title; the peer answers to the address that it has registered for it.
        on_report: called with a report that comes on this association, in another thread.
        answered: ends the stay; set by whoever gets the report, on whatever association.
        stay_s: how long the association is kept open for the report.

    Raises:
        TransientError, PermanentError: the request was not accepted.
    """
    reporters: list[threading.Thread] = []

    def take_report(event: evt.Event) -> tuple[int, None]:
        reporters.append(threading.current_thread())
        on_report(commitment.parse(event.event_information))
        return 0x0000, None

    information = _action_information(transaction_uid, references)
    handlers = [(evt.EVT_N_EVENT_REPORT, take_report)]
    try:
        with associate(peer, calling_ae, [build_context(StorageCommitmentPushModel)], handlers) as assoc:
            status, _ = call(
                assoc,
                peer,
                lambda: assoc.send_n_action(
                    information,
                    _REQUEST_COMMITMENT,
                    StorageCommitmentPushModel,
                    StorageCommitmentPushModelInstance,
                ),
            )
            if status.Status != 0x0000:
                raise failure(peer, "the commitment request", status)
            answered.wait(stay_s)
            for reporter in reporters:  # pynetdicom answers in that thread; a release must not overtake it
                reporter.join(peer.timeout_s)
    except NoContexts as error:
        raise PermanentError(
            f"{describe(peer)} has no Storage Commitment: ask the PACS administrator to allow it for {calling_ae}, "
            'or set verify = "find" for this destination.'
        ) from error


def _action_information(transaction_uid: str, references: Sequence[ObjectReference]) -> Dataset:
    """Action Information of a commitment request (PS3.4 Table J.3-1)."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = []
    for reference in references:
        item = Dataset()
        item.ReferencedSOPClassUID = reference.sop_class_uid
        item.ReferencedSOPInstanceUID = reference.sop_instance_uid
        information.ReferencedSOPSequence.append(item)
    return information
