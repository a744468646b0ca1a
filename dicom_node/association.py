"""Associations that the node requests: opened with clear errors, closed in every case, never waiting for ever.

pynetdicom bounds the wait for an answer, but not the time inside one read or write, and it keeps the reason of a
failed connection to itself. Both are added here, so that `scu` is about services only.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ssl import SSLCertVerificationError, SSLError
from typing import Any, Protocol

from pydicom.dataset import Dataset
from pynetdicom import _config as pynetdicom_config
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import P_DATA, SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation

from dicom_node import tls
from dicom_node.associate_pdu import readable
from dicom_node.errors import ConfigError, NodeError, PermanentError, TransientError
from dicom_node.outbound_socket import BoundedSocket, TlsArguments
from dicom_node.tls import Called
from dicom_node.upper_layer import INVALID_PDU, InstanceMemory, MessageProvider

MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: odd identifiers of one byte
MAX_PDU_BYTES = 128 * 1024  # what we offer to receive: answers are small
MAX_UNANSWERED = 4  # messages that a peer may send ahead: pending responses among them
_MARGIN_S = 10.0  # by how much the watchdog outlasts the time limits of pynetdicom

_MAY_PASS = {0x0110, 0x0213, 0xFE00, *range(0xA700, 0xA800)}  # processing failure, resources, cancelled
_WORDS: Mapping[int, str] = {
    0x0110: "processing failure",
    0x0112: "no such SOP instance",
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0119: "class and instance conflict",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0x0211: "unrecognised operation",
    0x0213: "resource limitation",
    0xA7: "out of resources",
    0xA9: "data set does not match its SOP class",
    0xC: "cannot understand the data set",
}

# What is queried and found names patients; that never goes into a log.
pynetdicom_config.LOG_REQUEST_IDENTIFIERS = False
pynetdicom_config.LOG_RESPONSE_IDENTIFIERS = False

EventHandler = tuple[Any, Any]


class Peer(Called, Protocol):
    """An application entity that we call; `config.Destination` is one."""

    @property
    def ae_title(self) -> str:
        """Called AE title."""


class NoContexts(PermanentError):
    """The peer accepted the association, but none of the presentation contexts."""


def describe(peer: Peer) -> str:
    """The peer as shown to people."""
    return f"{peer.ae_title} at {peer.host}:{peer.port}"


@contextmanager
def associate(
    peer: Peer,
    calling_ae: str,
    contexts: Sequence[PresentationContext],
    handlers: Sequence[EventHandler] = (),
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    memory: InstanceMemory | None = None,
) -> Iterator[Association]:
    """An established association, over TLS where the peer is called so; released at the end, aborted on errors.

    With `memory` the peer may send instances on it (C-GET), within that bound; its `dimse` is a `MessageProvider`.

    Raises:
        TransientError: not reachable, busy, silent, or the connection broke.
        PermanentError: refused in a way that a person has to change.
        NoContexts: established, but with no presentation context of ours.
    """
    entity = _Entity(calling_ae, peer.timeout_s, memory)
    rejections: list[A_ASSOCIATE_RJ] = []

    def note(event: evt.Event) -> None:
        """pynetdicom takes a rejection whose connection is closed at once for a connection that broke."""
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    begin = time.monotonic()
    try:
        assoc = entity.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.ae_title,
            max_pdu=MAX_PDU_BYTES,
            ext_neg=list(roles),
            tls_args=_tls_arguments(peer),
            evt_handlers=[*handlers, (evt.EVT_PDU_RECV, note)],
        )
    except (socket.gaierror, UnicodeError) as error:
        raise TransientError(
            f"The host name {peer.host!r} cannot be resolved: correct it in the configuration, or ask for its DNS "
            "entry."
        ) from error
    except OSError as error:  # no socket to be had: out of file descriptors or memory
        raise _connection_error(error, peer) from error
    if not assoc.is_established:
        if rejections:
            pdu = rejections[0]
            raise rejection(peer, calling_ae, pdu.result or 0, pdu.source or 0, pdu.reason_diagnostic or 0)
        raise _why_not(assoc, peer, calling_ae, time.monotonic() - begin)
    try:
        yield assoc
        with watched(assoc, peer.timeout_s):
            _release(assoc)
    finally:
        if not assoc.is_released:
            assoc.abort()


def _release(assoc: Association) -> None:
    """Release it, or answer the peer that has asked for that meanwhile, as one may that has reported commitment.

    pynetdicom would ask all the same, which its upper layer does not survive (PS3.8 Table 9-10: no Evt11 in Sta8).
    """
    if not assoc.is_established:
        return
    assoc._reactor_checkpoint.clear()  # else it may take the peer's request away between question and answer
    while not assoc._is_paused and assoc.is_established:
        time.sleep(0.0001)
    if assoc.is_established and assoc.acse.is_release_requested():
        assoc.acse.send_release(is_response=True)
        assoc.is_released, assoc.is_established = True, False
        assoc.kill()
    else:
        assoc.release()


def _tls_arguments(peer: Peer) -> TlsArguments | None:
    """Made for each association: certificates may have been renewed since the last."""
    if peer.client_tls is None:
        return None
    try:
        return tls.client_context(peer.client_tls), peer.client_tls.name
    except ConfigError as error:  # transient: a file may be about to be replaced
        raise TransientError(f"{describe(peer)} cannot be called with TLS: {error}.") from error


@contextmanager
def watched(assoc: Association, limit_s: float) -> Iterator[None]:
    """Abort the association from outside when the body outlasts `limit_s` by a margin.

    pynetdicom waits without a limit for its own reactor thread to pause; should that thread have died, or have
    been resumed by an N-EVENT-REPORT at the wrong moment, this is what ends the wait.
    """
    watchdog = threading.Timer(limit_s + _MARGIN_S, assoc.abort)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


class _Entity(ApplicationEntity):
    """Our side of an association, with one time limit for everything."""

    def __init__(self, ae_title: str, timeout_s: float, memory: InstanceMemory | None) -> None:
        super().__init__(ae_title)
        self._memory = memory
        self.connection_timeout = timeout_s
        self.acse_timeout = timeout_s
        self.dimse_timeout = timeout_s
        self.network_timeout = None  # being idle is no fault while a commitment report is awaited

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: TlsArguments | None
    ) -> BoundedSocket:
        assoc.dimse = _Answers(assoc) if self._memory is None else _Instances(assoc, self._memory)
        decode = assoc.dul._decode_pdu
        vars(assoc.dul)["_decode_pdu"] = lambda pdu: decode(readable(pdu))
        sock = BoundedSocket(assoc, address=address)
        sock.tls_args = tls_args
        return sock


class _Answers(DIMSEServiceProvider):
    """Messages of an association that we requested: answers to us, for the thread that waits for them only.

    pynetdicom's reactor thread looks for requests in the same queue, and may be there just when an answer comes: it
    would throw it away. Peers have no requests for us but N-EVENT-REPORT, which does not pass through the queue.
    """

    def get_msg(self, block: bool = False) -> Any:
        """Only the reactor does not wait; it gets nothing."""
        return super().get_msg(block) if block else (None, None)


class _Instances(_Answers, MessageProvider):
    """The same, where instances come beside the answers: each within the bound, and one at a time."""

    def receive_primitive(self, primitive: P_DATA) -> None:
        """A peer that sends on without waiting for our answers would fill the queue (PS3.7 D.3.3.3)."""
        if self.msg_queue.qsize() > MAX_UNANSWERED:
            self.dul.event_queue.put(INVALID_PDU)
            return
        super().receive_primitive(primitive)


def _why_not(assoc: Association, peer: Peer, calling_ae: str, waited_s: float) -> NodeError:
    """Why there is no association although nobody rejected it, as the error to raise."""
    failure = getattr(assoc.dul.socket, "failure", None)
    if failure is not None:
        return _connection_error(failure, peer)
    if assoc.rejected_contexts and not assoc.accepted_contexts:
        return NoContexts(f"{describe(peer)} accepts none of the services asked for.")
    if waited_s >= peer.timeout_s:
        return TransientError(
            f"{describe(peer)} took the connection but gave no answer within {peer.timeout_s:g} s."
        )
    return TransientError(
        f"{describe(peer)} broke the connection off instead of answering. If this goes on, ask the PACS "
        f"administrator whether {calling_ae} may connect from this address."
    )


def _connection_error(failure: OSError, peer: Peer) -> TransientError:
    """What a failed TCP connection or TLS handshake means; all of it may pass by itself."""
    if isinstance(failure, SSLError):
        text = f"No TLS connection to {describe(peer)}: {tls.reason(failure)}. {_tls_advice(failure)}"
    elif isinstance(failure, TimeoutError):
        text = (
            f"{describe(peer)} did not answer within {peer.timeout_s:g} s: check that it is switched on and that "
            "no firewall lies between."
        )
    elif failure.errno == errno.ECONNREFUSED:
        text = f"{describe(peer)} refuses the connection: nothing listens there. Check host, port and the service."
    elif failure.errno == errno.ECONNRESET and peer.client_tls is not None:
        text = f"No TLS connection to {describe(peer)}: it breaks the handshake off. Is that its port for TLS?"
    else:
        text = f"No connection to {describe(peer)}: {failure.strerror or failure}."
    error = TransientError(text)
    error.__cause__ = failure  # it happened in another thread
    return error


def _tls_advice(failure: SSLError) -> str:
    if isinstance(failure, SSLCertVerificationError):
        return "Check tls_ca and tls_name; the PACS administrator knows what its certificate says."
    if "ALERT" in (failure.reason or ""):
        return "The peer refuses: have the node's certificate (tls.certificate) made known to it."
    return "Check port and tls here, and the peer's TLS settings."


def rejection(peer: Peer, calling_ae: str, result: int, source: int, reason: int) -> NodeError:
    """The error for an A-ASSOCIATE-RJ (PS3.8 Table 9-21): an unknown AE title is permanent whatever `result` says.

    Args:
        peer: who rejected us.
        calling_ae: our AE title.
        result: 1 permanent, 2 transient.
        source: 1 service user, 2 service provider (ACSE), 3 service provider (presentation).
        reason: meaning depends on `source`.
    """
    who = describe(peer)
    if (source, reason) == (1, 3):
        return PermanentError(
            f"{who} does not know our AE title {calling_ae}: ask the PACS administrator to register {calling_ae} "
            "with this machine's address and port."
        )
    if (source, reason) == (1, 7):
        return PermanentError(
            f"{who} does not go by the AE title {peer.ae_title}: correct ae_title in the configuration, or ask the "
            "PACS administrator for the right one."
        )
    if source == 3:
        return TransientError(f"{who} is busy ({'local limit exceeded' if reason == 2 else 'congestion'}).")
    if (source, reason) in {(1, 2), (2, 2)}:
        return PermanentError(f"{who} does not speak this version of the DICOM protocol.")
    if result == 2:
        return TransientError(f"{who} rejects the association for now and gives no reason.")
    return PermanentError(
        f"{who} rejects the association for good and gives no reason: ask the PACS administrator what {calling_ae} "
        "is allowed to do."
    )


def call(
    assoc: Association,
    peer: Peer,
    send: Callable[[], tuple[Dataset, Dataset | None]],
    limit_s: float | None = None,
) -> tuple[Dataset, Dataset | None]:
    """Send a request; its status and data set, or a `TransientError` where no answer comes within the limit."""
    limit_s = limit_s or peer.timeout_s
    assoc.dimse_timeout = limit_s
    begin = time.monotonic()
    try:
        with watched(assoc, limit_s):
            status, answer = send()
    except RuntimeError:  # pynetdicom: the association has ended before the request was sent
        status, answer = Dataset(), None
    if "Status" in status:
        return status, answer
    if time.monotonic() - begin >= limit_s:
        raise TransientError(f"{describe(peer)} did not answer within {limit_s:.3g} s.")
    raise TransientError(f"{describe(peer)} broke the connection off.")


def failure(peer: Peer, what: str, status: Dataset, may_pass: Container[int] = ()) -> NodeError:
    """The error for a status of `peer` that is no success."""
    return refused(describe(peer), what, status, may_pass)


def refused(who: str, what: str, status: Dataset, may_pass: Container[int] = ()) -> NodeError:
    """The error for a status that is no success (PS3.7 annex C, PS3.4 tables of the services)."""
    code = int(status.Status)
    text = f"{who} refused {what}: {words(status)}."
    if code in _MAY_PASS or code in may_pass:
        return TransientError(text)
    if code in {0x0122, 0x0118, 0x0124}:
        text += " Ask the PACS administrator to allow it."
    return PermanentError(text)


def words(status: Dataset) -> str:
    """A status in words, with its code and the peer's own comment."""
    code = int(status.Status)
    words = _WORDS.get(code) or _WORDS.get(code >> 8) or _WORDS.get(code >> 12) or "status"
    comment = str(status.get("ErrorComment", "") or "")
    return f"{words} (0x{code:04X}{', ' + comment if comment else ''})"
