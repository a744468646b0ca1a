"""Who may come in: the listening socket and the associations that peers open on it.

The listening thread only accepts: whatever needs a peer's cooperation happens on that connection's own thread, so
that a peer which says nothing keeps nobody else waiting.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import count
from socketserver import BaseServer
from typing import Any, Protocol, cast

from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationServer

from dicom_node import tls
from dicom_node.admission import Admission, Rejection
from dicom_node.malformed import MALFORMED, brief
from dicom_node.renewal import RenewedContext
from dicom_node.tls import PeerCertificate
from dicom_node.upper_layer import InlineUpperLayer, InstanceMemory, MessageProvider, Patience

LOGGER = logging.getLogger(__name__)
STOP_TIMEOUT_S = 10.0
MAX_TOLD = 5  # SOP classes in one line of the log: there are senders that ask for everything
_TRANSFER_SYNTAXES_NOT_SUPPORTED = 4  # Result/Reason of a presentation context (PS3.8 Table 9-18)
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Answer:
    """The status of a C-STORE-RSP (PS3.4 B.2.3) with its Error Comment."""

    status: int
    comment: str = ""


def _names(uids: Collection[UID | None]) -> str:
    """The names of a few UIDs, and how many more there are."""
    names = ", ".join(sorted(repr(UID(str(uid)).name) for uid in uids)[:MAX_TOLD])
    return names + (f" and {len(uids) - MAX_TOLD} more" if len(uids) > MAX_TOLD else "")


class Service(Protocol):
    """What the associations of a server are for. Called on the thread of the association."""

    def admit(self, called_ae: str, calling_ae: str, certificate: PeerCertificate | None) -> Rejection | None:
        """None where an association may be opened by who has proved to be this."""

    def contexts(self, calling_ae: str) -> Sequence[PresentationContext]:
        """What this peer may propose beside the contexts of the server; for the same SOP class these count."""

    def negotiated(self, rejection: Rejection | None) -> None:
        """An association was opened, or was rejected."""

    def turned_away(self, host: str, calling_ae: str, reason: str) -> None:
        """Somebody was not let in because of who he is or is not; the AE title may not be known."""

    def store(self, assoc: InboundAssociation, request: C_STORE, context: PresentationContext) -> Answer:
        """Serve a C-STORE; raises nothing."""

    def report(self, event: evt.Event) -> tuple[int, None]:
        """Serve an N-EVENT-REPORT: status, and no Event Reply."""

    def ended(self, assoc: InboundAssociation) -> None:
        """An association is over, however it ended."""


class InboundAssociation(Association):
    """An association that a peer opens; its one thread reads, serves and answers."""

    def __init__(self, server: StorageServer, connection: socket.socket, address: tuple[Any, ...], name: str):
        super().__init__(server.ae, "acceptor")
        _take_apart(self.dul.state_machine, self.dul)  # of pynetdicom: ours takes their place
        self._storage_server = server
        self.host = str(_plain(address[0]))
        self.name = f"{name} from {self.host}"
        self._upper = InlineUpperLayer(self, connection, server.ae.maximum_pdu_size, server.patience)
        self._messages = self.dimse = MessageProvider(self, server.memory)
        self._coming_apart = threading.Lock()
        self._is_whole = True
        self.requestor.address_info = AddressInformation.from_tuple(address)
        self.acceptor.address_info = AddressInformation.from_tuple(server.server_address)
        self.acceptor.ae_title = server.ae_title
        self.acceptor.maximum_length = server.ae.maximum_pdu_size
        self.acceptor.implementation_class_uid = server.ae.implementation_class_uid
        self.acceptor.implementation_version_name = server.ae.implementation_version_name
        self.bind(evt.EVT_N_EVENT_REPORT, server.service.report)

    @property
    def certificate(self) -> PeerCertificate | None:
        """Who the peer has proved to be; None without TLS, or where it showed no certificate."""
        return self._upper.certificate

    @property
    def calling_ae(self) -> str:
        """AE title of the peer."""
        return str(self.requestor.ae_title).strip()

    def run_reactor(self) -> None:
        """From the connection to its end; the body of the thread."""
        try:
            if self._shake_hands():
                self._converse()
        finally:
            self._messages.release_memory()
            self._upper.close()
            self._storage_server.forget(self)
            self._come_apart()

    def _come_apart(self) -> None:
        """Free at once what an association that is over holds, an unfinished instance and its buffers among it.

        Its parts name each other: left whole they would stay until the garbage collector looks at everything, which
        it does the more rarely the more the process has loaded.
        """
        with self._coming_apart:
            self._is_whole = False
            _take_apart(self.requestor, self.acceptor, self.acse, self.dimse, self.dul.state_machine, self.dul)
        vars(self).pop("abort", None)  # negotiation has left a bound method there

    def abort(self, block: bool = True) -> None:
        """Send an A-ABORT; there is no other thread to wait for."""
        super().abort(block=False)

    def interrupt(self) -> None:
        """Have the association end after what it is doing; nothing where it is over. For any thread."""
        with self._coming_apart:
            if self._is_whole:
                self._upper.interrupt()

    def _bind_defaults(self) -> None:
        """Answer what nothing else is bound to; without pynetdicom's handlers that write every message to a log."""
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))

    def _shake_hands(self) -> bool:
        """TLS where this listener wants it; False where it came to nothing."""
        try:
            self._upper.secure()
        except OSError as error:
            if not self._upper.is_interrupted:
                reason = f"no TLS connection: {tls.reason(error)}"
                LOGGER.warning("%s: %s", self.name, reason)
                self._storage_server.service.turned_away(self.host, "", reason)
            return False
        return True

    def _converse(self) -> None:
        self._upper.start()
        request = self._upper.receive_pdu(wait=True)
        if isinstance(request, A_ASSOCIATE):
            self._negotiate(request)
        while self.is_established:
            self._serve_next()
        self._storage_server.over(self)
        self._upper.linger()

    def _negotiate(self, request: A_ASSOCIATE) -> None:
        self.requestor.primitive = request
        self.requestor.ae_title = request.calling_ae_title
        rejection = self._storage_server.admit(self, str(request.called_ae_title).strip())
        if rejection is not None:
            self._storage_server.service.negotiated(rejection)
            LOGGER.warning("%s (%s) rejected: %s", self.name, self.calling_ae, rejection.reason)
            if rejection.alarming:
                self._storage_server.service.turned_away(self.host, self.calling_ae, rejection.reason)
            self.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
            return
        more = self._storage_server.service.contexts(self.calling_ae)
        self.acceptor.supported_contexts = [*self._storage_server.contexts, *more]
        try:
            self.acse.negotiate_association()
            self._storage_server.service.negotiated(None)
            LOGGER.info("%s (%s) opened", self.name, self.calling_ae)
            self._tell_what_is_refused()
        except MALFORMED as error:  # such as a presentation context without transfer syntaxes
            LOGGER.warning("%s asked for an association that makes no sense: %s", self.name, brief(error))
            self.abort()

    def _tell_what_is_refused(self) -> None:
        """Why a sender that is here sends nothing: it asked for services, or encodings, that we have not."""
        taken = {context.abstract_syntax for context in self.accepted_contexts}
        refused = [context for context in self.rejected_contexts if context.abstract_syntax not in taken]
        unread = [context for context in refused if context.result == _TRANSFER_SYNTAXES_NOT_SUPPORTED]
        unread_classes = {context.abstract_syntax for context in unread}
        others = {context.abstract_syntax for context in refused} - unread_classes
        level = logging.INFO if taken else logging.WARNING  # who asks for everything may want to send CT
        if others:
            LOGGER.log(level, "%s asked for what is not taken here: %s", self.name, _names(others))
        if unread:
            offered = {syntax for context in unread for syntax in self._offered(context)}
            told = "%s offers only in transfer syntaxes that are not taken here (%s): %s"
            LOGGER.log(level, told, self.name, _names(offered), _names(unread_classes))

    def _offered(self, context: PresentationContext) -> list[UID]:
        """The transfer syntaxes of a proposed context; the answer to it has but one of them."""
        proposed = self.requestor.primitive.presentation_context_definition_list if self.requestor.primitive else []
        of_it = (each.transfer_syntax for each in proposed if each.context_id == context.context_id)
        return next(of_it, context.transfer_syntax)

    def _serve_next(self) -> None:
        """Read one PDU and do what it asks for."""
        if not self._upper.pump():
            LOGGER.warning("%s aborted: %s", self.name, self._upper.impatience)
            self.abort()
            return
        context_id, request = self.dimse.get_msg()
        if request is not None and context_id is not None:
            self._serve_request(request, context_id)
            del request  # and with it the data set
            self._messages.release_memory()
        if self.acse.is_release_requested():
            self._storage_server.over(self)  # first: the peer may rely on it as soon as it has the answer
            self.acse.send_release(is_response=True)
            self.is_released, self.is_established = True, False
            LOGGER.info("%s released", self.name)
        elif self.acse.is_aborted():
            self.is_aborted, self.is_established = True, False
            LOGGER.warning("%s aborted, or its connection was lost", self.name)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """Every C-STORE is answered here, whatever it says; the rest is pynetdicom's."""
        if not isinstance(msg, C_STORE):
            super()._serve_request(msg, context_id)
            return
        context = self._accepted_cx.get(context_id)
        if context is None or msg.MessageID is None:
            LOGGER.warning("%s sent a C-STORE outside its presentation contexts", self.name)
            self.abort()
            return
        answer = self._storage_server.service.store(self, msg, context)
        response = C_STORE()
        response.MessageIDBeingRespondedTo = msg.MessageID
        response.AffectedSOPClassUID = msg.AffectedSOPClassUID
        response.AffectedSOPInstanceUID = msg.AffectedSOPInstanceUID
        response.Status = answer.status
        if answer.comment:
            response.ErrorComment = answer.comment  # type: ignore[assignment]  # untyped, None until set
        self.dimse.send_msg(response, context_id)


class StorageServer(AssociationServer):
    """Accepts connections from `networks`, as many as `admission` allows; with TLS where there is a `context`."""

    request_queue_size = 128

    def __init__(
        self,
        ae: ApplicationEntity,
        address: tuple[str, int],
        contexts: list[PresentationContext],
        service: Service,
        networks: Sequence[Network],
        admission: Admission[InboundAssociation],
        memory: InstanceMemory,
        patience: Patience,
        context: RenewedContext | None = None,
    ) -> None:
        self.service = service
        self.memory = memory
        self.patience = patience
        self._networks = networks
        self._admission = admission
        self._context = context
        self._numbers = count(1)
        super().__init__(ae, address, ae.ae_title, contexts)
        self._listening = cast(socket.socket, self.socket)
        name = "DICOM listener" if context is None else "DICOM TLS listener"
        self._listener = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": None}, name=name, daemon=True
        )

    @property
    def is_secure(self) -> bool:
        """Whether it speaks TLS."""
        return self._context is not None

    @property
    def is_listening(self) -> bool:
        """Whether it still accepts."""
        return self._listener.is_alive()

    def start(self) -> int:
        """Begin to accept; returns the port."""
        self._listener.start()
        return int(self.server_address[1])

    def accept_no_more(self) -> None:
        """Close the port. Every association that was accepted has been started when this returns."""
        self._listening.shutdown(socket.SHUT_RDWR)  # wakes the listener
        if self._listener.ident is not None:  # else it would be waited for in vain: the start went wrong before
            BaseServer.shutdown(self)
        self._listening.close()

    def end_associations(self) -> None:
        """End what is open at all servers of this admission: an instance that is being stored is still answered.

        None of them may accept any more: an association that is only about to start cannot be waited for.
        """
        deadline = time.monotonic() + STOP_TIMEOUT_S
        associations = self._admission.all()
        for assoc in associations:
            assoc.interrupt()
        for assoc in associations:
            assoc.join(max(0.0, deadline - time.monotonic()))

    def admit(self, assoc: InboundAssociation, called_ae: str) -> Rejection | None:
        """Ask the service, then whether there is a place."""
        rejection = self.service.admit(called_ae, assoc.calling_ae, assoc.certificate)
        return rejection or self._admission.admit(assoc)

    def over(self, assoc: InboundAssociation) -> None:
        """An association has ended: it counts no longer, and the service is told once."""
        if self._admission.over(assoc):
            self.service.ended(assoc)

    def forget(self, assoc: InboundAssociation) -> None:
        """A connection is closed."""
        self.over(assoc)
        self._admission.forget(assoc)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; nothing here waits for the peer."""
        try:
            connection, address = self._listening.accept()
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS:
                LOGGER.error("no connection accepted: %s", error.strerror)
                time.sleep(0.1)  # the connection stays in the queue: do not spin until others have ended
            raise
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether the address may connect at all."""
        host = _plain(client_address[0])
        allowed = not self._networks or any(host in network for network in self._networks)
        if not allowed:
            LOGGER.warning("connection from %s refused: not in reception.networks", host)
            self.service.turned_away(str(host), "", "the address is not in reception.networks")
        return allowed

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread of its own."""
        if self._context is not None:  # the handshake is for the connection's own thread
            request = self._context.current().wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        kind = "association" if self._context is None else "TLS association"
        assoc = InboundAssociation(self, request, client_address, f"{kind} {next(self._numbers)}")
        for oldest in self._admission.connected(assoc):
            LOGGER.warning("%s dropped: too many connections without an association", oldest.name)
            oldest.interrupt()
        try:
            assoc.start()
        except RuntimeError:  # no thread to be had
            self.forget(assoc)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in the log, not on stderr, why a connection was closed."""
        LOGGER.exception("connection from %s closed", client_address[0])

    def service_actions(self) -> None:
        """Nothing: associations come apart by themselves; a collection by hand would pause every thread."""


def _take_apart(*parts: object) -> None:
    """Have parts that name each other name nothing any more."""
    for part in parts:
        vars(part).clear()


def _plain(host: str) -> Any:
    """An address; that of an IPv4 peer on an IPv6 socket as IPv4."""
    address = ip_address(host)
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
