"""C-MOVE and C-GET: instances are fetched from an archive (PS3.4 annex C, Study Root model).

- `move`: the archive sends them by C-STORE to an AE title that it knows, in general ours: they come through our
  receiver like any others, which has to admit the archive. What comes back here is only the count.
- `get`: they come on the association that asks; whoever calls keeps them, and answers each of them.

A count says what the archive thinks. Whether an instance is here is for the ledger to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext, build_context, build_role
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node.association import MAX_CONTEXTS, NoContexts, Peer, associate, call, describe, failure, watched
from dicom_node.association_server import Answer
from dicom_node.audit_events import Tally, asking, of
from dicom_node.audit_message import Node
from dicom_node.config import Source
from dicom_node.errors import NodeError, NotParsable, PermanentError, TransientError
from dicom_node.instance_check import identify
from dicom_node.query import PENDING, UNABLE_TO_PROCESS, identifier
from dicom_node.upper_layer import InstanceMemory, MessageProvider

DESTINATION_UNKNOWN = 0xA801  # PS3.4 Table C.4-2
SOME_FAILED = 0xB000
SERVICES = {"move": "C-MOVE", "get": "C-GET"}
UIDS_PER_REQUEST = 50  # longer lists than that are cut or refused by some archives
Response = tuple[Dataset, Dataset | None]
OnInstance = Callable[[C_STORE, UID, UID], Answer]  # request, SOP class, transfer syntax; must not raise


class Unprocessed(TransientError):
    """The archive takes the request and cannot do it now; some say so of what they do not have."""


@dataclass(frozen=True)
class Retrieved:
    """What the archive says about one retrieval: sub-operations by outcome (PS3.4 C.4.2.1.5 to .9).

    Attributes:
        failed_uids: SOP Instance UIDs that it could not send; empty where it does not name them.
        remark: its last status in words, where that is no success.
    """

    completed: int = 0
    failed: int = 0
    warnings: int = 0
    failed_uids: frozenset[str] = field(default_factory=frozenset)
    remark: str = ""

    def __add__(self, other: Retrieved) -> Retrieved:
        """Both together."""
        return Retrieved(
            self.completed + other.completed,
            self.failed + other.failed,
            self.warnings + other.warnings,
            self.failed_uids | other.failed_uids,
            "; ".join(filter(None, dict.fromkeys((self.remark, other.remark)))),
        )


def identifiers(study_uid: str, series_uid: str = "", sop_instance_uids: Sequence[str] = ()) -> list[Dataset]:
    """Retrieve requests (PS3.4 C.4.2.2.1) for a study, one of its series, or these instances of the series."""
    keys = {"StudyInstanceUID": study_uid}
    if not series_uid:
        return [identifier("STUDY", keys)]
    keys["SeriesInstanceUID"] = series_uid
    if not sop_instance_uids:
        return [identifier("SERIES", keys)]
    starts = range(0, len(sop_instance_uids), UIDS_PER_REQUEST)
    lists = ["\\".join(sop_instance_uids[start : start + UIDS_PER_REQUEST]) for start in starts]
    return [identifier("IMAGE", {**keys, "SOPInstanceUID": uids}) for uids in lists]


def bring(
    source: Source,
    requests: Sequence[Dataset],
    calling_ae: str,
    storage: Sequence[PresentationContext],
    on_instance: OnInstance,
    memory: InstanceMemory,
    limit_s: float,
) -> Retrieved:
    """`move` to us or `get`, as `sources.retrieve` says; what a C-MOVE brings comes through the receiver."""
    if source.retrieve == "move":
        return move(source, requests, calling_ae, calling_ae, limit_s)
    return get(source, requests, calling_ae, storage, on_instance, memory, limit_s)


def lacking(source: Source, retrieved: Retrieved, count: int, what: str, calling_ae: str) -> TransientError:
    """The error for `count` instances (`what` they are) that did not come, whatever the archive says."""
    text = f"{count} {what} did not come"
    if retrieved.remark:
        return TransientError(f"{text}: {retrieved.remark}")
    if source.retrieve == "move":
        text += (
            f", although {source.name} says that it has sent {retrieved.completed}: ask the PACS administrator "
            f"whether {calling_ae} is registered there with this machine's address and port, and see the log for "
            "associations that were rejected"
        )
    return TransientError(f"{text} ({SERVICES[source.retrieve]}).")


def move(
    peer: Peer, requests: Sequence[Dataset], calling_ae: str, destination_ae: str, limit_s: float
) -> Retrieved:
    """C-MOVE for each of `identifiers`, on one association.

    Args:
        peer: the archive.
        requests: what is to be sent.
        calling_ae: our AE title.
        destination_ae: AE title that the archive sends to; it must know host and port of it.
        limit_s: longest wait for each response; many archives send none until the last instance is sent.

    Raises:
        TransientError, PermanentError: as in `association`, and where nothing was sent at all.
    """
    retrieved = Retrieved()
    try:
        with associate(peer, calling_ae, [build_context(StudyRootQueryRetrieveInformationModelMove)]) as assoc:
            for request in requests:
                responses = _move_responses(assoc, peer, request, destination_ae, limit_s)
                with asking(_node(peer), StudyRootQueryRetrieveInformationModelMove, request):
                    retrieved += _outcome(peer, responses, destination_ae)
    except NoContexts as error:
        raise _not_offered(peer, calling_ae, "C-MOVE", 'retrieve = "get"') from error
    return retrieved


def get(
    peer: Peer,
    requests: Sequence[Dataset],
    calling_ae: str,
    storage: Sequence[PresentationContext],
    on_instance: OnInstance,
    memory: InstanceMemory,
    limit_s: float,
) -> Retrieved:
    """C-GET for each of `identifiers`, on one association; `on_instance` keeps what comes, and answers it.

    Args:
        peer: the archive.
        requests: what is to be sent.
        calling_ae: our AE title.
        storage: presentation contexts of what may come; for these we are the provider (PS3.7 D.3.3.4). One for each
            transfer syntax lets the archive send what it has without converting it.
        on_instance: called on a thread of the association with each C-STORE request.
        memory: bounds the data sets that are received; a longer one comes as `upper_layer.Discarded`.
        limit_s: longest wait for each message, instances among them.

    Raises:
        TransientError, PermanentError: as in `association`, and where nothing was sent at all.
    """
    contexts = [build_context(StudyRootQueryRetrieveInformationModelGet), *storage][:MAX_CONTEXTS]
    classes = dict.fromkeys(str(context.abstract_syntax) for context in storage)
    roles = [build_role(uid, scp_role=True) for uid in classes]
    retrieved = Retrieved()
    tally = Tally(_node(peer), asked=True)

    def keep(event: evt.Event) -> Dataset:
        sop_class, transfer_syntax = UID(event.context.abstract_syntax), UID(event.context.transfer_syntax)
        answer = on_instance(cast(C_STORE, event.request), sop_class, transfer_syntax)
        _note(tally, cast(C_STORE, event.request), transfer_syntax, answer)
        cast(MessageProvider, event.assoc.dimse).release_memory()
        return _store_status(answer)

    try:
        with associate(peer, calling_ae, contexts, [(evt.EVT_C_STORE, keep)], roles, memory=memory) as assoc:
            if StudyRootQueryRetrieveInformationModelGet not in {
                cx.abstract_syntax for cx in assoc.accepted_contexts
            }:
                raise NoContexts(f"{describe(peer)} accepts no C-GET.")
            for request in requests:
                with asking(_node(peer), StudyRootQueryRetrieveInformationModelGet, request):
                    retrieved += _outcome(peer, _get_responses(assoc, peer, request, limit_s))
    except NoContexts as error:
        raise _not_offered(peer, calling_ae, "C-GET", 'retrieve = "move"') from error
    finally:
        tally.close()
    return retrieved


def _node(peer: Peer) -> Node:
    return Node(peer.ae_title, peer.ae_title, peer.host)


def _note(tally: Tally, request: C_STORE, transfer_syntax: UID, answer: Answer) -> None:
    """For the audit trail; an instance of which nothing can be read is not in it."""
    with suppress(NotParsable):
        if request.DataSet is not None:
            failure = answer.comment or f"status {answer.status:04X}"
            tally.note(of(identify(request.DataSet, transfer_syntax)), failure if answer.status else "")


def _move_responses(
    assoc: Association, peer: Peer, request: Dataset, destination_ae: str, limit_s: float
) -> Iterator[Response]:
    def answers() -> Iterator[Response]:  # sends only when the first answer is asked for
        yield from assoc.send_c_move(request, destination_ae, StudyRootQueryRetrieveInformationModelMove)

    responses = answers()
    while True:
        yield call(assoc, peer, lambda: next(responses), limit_s)


def _get_responses(assoc: Association, peer: Peer, request: Dataset, limit_s: float) -> Iterator[Response]:
    """Instances that come between the responses are kept on the way; each of them has the whole limit."""
    assoc.dimse_timeout = limit_s
    responses: Iterator[Response] = iter(())
    with watched(assoc, limit_s), suppress(RuntimeError):  # pynetdicom: the association has ended before
        responses = assoc.send_c_get(request, StudyRootQueryRetrieveInformationModelGet)
    for status, failures in responses:
        if "Status" not in status:  # the association ended, or was silent for too long
            break
        yield status, failures
    raise TransientError(f"{describe(peer)} broke the retrieval off, or said nothing for {limit_s:g} s.")


def _outcome(peer: Peer, responses: Iterator[Response], destination_ae: str = "") -> Retrieved:
    """Read the responses of one request to the last, which counts."""
    status, failures = next(response for response in responses if response[0].Status not in PENDING)
    code = int(status.Status)
    retrieved = Retrieved(
        completed=_count(status, "NumberOfCompletedSuboperations"),
        failed=_count(status, "NumberOfFailedSuboperations"),
        warnings=_count(status, "NumberOfWarningSuboperations"),
        failed_uids=_failed_uids(failures),
        remark="" if code == 0x0000 else str(_refusal(peer, status, destination_ae)),
    )
    if code not in (0x0000, SOME_FAILED) and not retrieved.completed:
        raise _refusal(peer, status, destination_ae)
    return retrieved


def _refusal(peer: Peer, status: Dataset, destination_ae: str) -> NodeError:
    what = "a part of the retrieval" if status.Status == SOME_FAILED else "the retrieval"
    if status.Status == DESTINATION_UNKNOWN:
        return PermanentError(
            f"{describe(peer)} knows no address of {destination_ae}: ask the PACS administrator to register "
            f"{destination_ae} with this machine's address and port as a destination of C-MOVE."
        )
    error = failure(peer, what, status, may_pass=UNABLE_TO_PROCESS)
    kind = Unprocessed if status.Status in UNABLE_TO_PROCESS else type(error)
    if not destination_ae:
        return kind(str(error))
    hint = f" If this goes on, ask whether {destination_ae} is registered there as a destination of C-MOVE."
    return kind(f"{error}{hint}")


def _store_status(answer: Answer) -> Dataset:
    status = Dataset()
    status.Status = answer.status
    if answer.comment:
        status.ErrorComment = answer.comment
    return status


def _count(status: Dataset, keyword: str) -> int:
    return int(status.get(keyword) or 0)


def _failed_uids(failures: Dataset | None) -> frozenset[str]:
    """Failed SOP Instance UID List (0008,0058)."""
    value = failures.get("FailedSOPInstanceUIDList") if failures is not None else None
    uids = value if isinstance(value, MultiValue | list) else [value]
    return frozenset(str(uid) for uid in uids if uid)


def _not_offered(peer: Peer, calling_ae: str, service: str, instead: str) -> PermanentError:
    return PermanentError(
        f"{describe(peer)} does not offer {service}: ask the PACS administrator to allow it for {calling_ae}, or "
        f"set {instead} for this source."
    )
