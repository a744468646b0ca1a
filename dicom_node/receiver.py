"""They call: C-ECHO, C-STORE and the N-EVENT-REPORT of Storage Commitment, as service class provider.

A C-STORE is answered with success when the instance is durable in the spool, and not before: senders delete what
was answered so (`intake`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import cast

from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.dimse_primitives import C_STORE, N_EVENT_REPORT
from pynetdicom.presentation import PresentationContext

from dicom_node import audit_events, commitment
from dicom_node.admission import Admission, Rejection
from dicom_node.association_server import Answer, InboundAssociation, StorageServer
from dicom_node.audit_message import Node
from dicom_node.commitment import CommitmentReport
from dicom_node.config import Config
from dicom_node.errors import LowDisk, NodeError, NotParsable
from dicom_node.expected import Expected
from dicom_node.instance_check import Instance
from dicom_node.intake import SUCCESS, Intake, Sender
from dicom_node.malformed import MALFORMED, brief
from dicom_node.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.renewal import RenewedContext
from dicom_node.spool import Spool
from dicom_node.supported import supported_contexts
from dicom_node.tls import PeerCertificate
from dicom_node.traffic import CALLED, CALLING, LOW_DISK, NOT_ADMITTED, Traffic
from dicom_node.upper_layer import InstanceMemory, Patience

LOGGER = logging.getLogger(__name__)
ARTIM_S = 30.0  # PS3.8 9.1.5: how long a connection may stay without an association

# N-EVENT-REPORT status (PS3.7 10.1.1.1.8)
PROCESSING_FAILURE = 0x0110
NO_SUCH_EVENT_TYPE = 0x0113
INVALID_ARGUMENT = 0x0115

OnStored = Callable[[Path], None]
OnEventReport = Callable[[CommitmentReport], None]
OnAssociationEnd = Callable[[frozenset[str]], None]


class Receiver:
    """The node's service class provider.

    The callbacks run on the thread of the association, which does nothing else meanwhile: they must be short, and
    must not raise.

    Args:
        config: `node` and `reception` are used.
        spool: takes the instances, by `intake`, which may be used for those that come in another way too.
        on_stored: called with each file, once it is durable and before the peer is answered.
        on_event_report: takes the commitment reports of a PACS that calls back; None: no such call is accepted.
        on_association_end: called with the SeriesInstanceUIDs that an association has touched, after it is over
            and `active_series` has dropped them.
        seconds: a clock that only goes forward.
        expected: takes what an archive was asked for that is no CT.
    """

    def __init__(
        self,
        config: Config,
        spool: Spool,
        on_stored: OnStored,
        on_event_report: OnEventReport | None = None,
        on_association_end: OnAssociationEnd | None = None,
        seconds: Callable[[], float] = time.monotonic,
        expected: Expected | None = None,
    ) -> None:
        self._config = config
        self._spool = spool
        self.intake = Intake(spool, on_stored, config.reception.other_modalities == "ignore")
        self._expected = expected or Expected()
        self._on_event_report = on_event_report
        self._on_association_end = on_association_end
        self._lock = threading.Lock()
        self._seconds = seconds
        self.traffic = Traffic()
        self._admission: Admission[InboundAssociation] = Admission(
            config.reception.max_associations, config.reception.max_associations_per_peer
        )
        self._tallies: dict[InboundAssociation, audit_events.Tally] = {}
        self._series: dict[InboundAssociation, dict[str, float]] = {}  # and when its last instance came
        self._servers: list[StorageServer] = []

    def start(self) -> int:
        """Listen; returns the port: of the plain listener, or of that with TLS where there is no other.

        Raises:
            NodeError: the address or port cannot be had.
            ConfigError: [tls] names a file that cannot be used.
        """
        self._servers = self._listeners()
        self._spool.remove_leftovers()
        ports = [server.start() for server in self._servers]
        node = self._config.node
        for server, port in zip(self._servers, ports, strict=True):
            LOGGER.info("%s listens on %s port %d%s", node.ae_title, node.bind, port, ", TLS" * server.is_secure)
        return ports[0]

    @property
    def is_listening(self) -> bool:
        """Whether every port is open."""
        return bool(self._servers) and all(server.is_listening for server in self._servers)

    def _listeners(self) -> list[StorageServer]:
        """One per port, which count and measure together."""
        node, reception, security = self._config.node, self._config.reception, self._config.tls
        ports: list[tuple[int, RenewedContext | None]] = [] if security.only else [(node.port, None)]
        if security.port is not None:
            ports.append((security.port, RenewedContext(security)))
        ae = ApplicationEntity(node.ae_title)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.maximum_pdu_size = reception.max_pdu_bytes
        ae.maximum_associations = 2**31  # the server counts those that are established, and no others
        contexts = supported_contexts(reception.other_modalities == "ignore", self._on_event_report is not None)
        memory = InstanceMemory(reception.max_instance_mb << 20, reception.max_buffer_mb << 20)
        servers: list[StorageServer] = []
        for port, context in ports:
            try:
                server = StorageServer(
                    ae,
                    (node.bind, port),
                    contexts,
                    service=self,
                    networks=reception.networks,
                    admission=self._admission,
                    memory=memory,
                    patience=_patience(self._config),
                    context=context,
                )
            except OSError as error:
                for earlier in servers:
                    earlier.server_close()
                raise NodeError(f"cannot listen on {node.bind} port {port}: {error.strerror}") from error
            servers.append(server)
        return servers

    def stop(self) -> None:
        """Accept nothing more; end every association after the instance that it is storing."""
        for server in self._servers:
            server.accept_no_more()
        for server in self._servers:
            server.end_associations()
        self._servers = []

    @property
    def open_associations(self) -> int:
        """How many are open at present."""
        return self._admission.associations

    def active_series(self) -> frozenset[str]:
        """SeriesInstanceUIDs of which an association that is still open has sent an instance a short time ago.

        Short is `reception.idle_timeout_s`: an association that says nothing for so long is ended, and one that is
        kept open beyond, by C-ECHO or with instances of other series, must not hold up a series for ever.
        """
        since = self._seconds() - self._config.reception.idle_timeout_s
        with self._lock:
            return frozenset(uid for sent in self._series.values() for uid, at in sent.items() if at > since)

    def admit(self, called_ae: str, calling_ae: str, certificate: PeerCertificate | None) -> Rejection | None:
        """Whether an association may be opened (PS3.8 table 9-21)."""
        allowed = self._config.reception.calling_ae_titles
        bound = self._config.tls.peers.get(calling_ae)
        if called_ae != self._config.node.ae_title:
            reason = f"called as {called_ae!r}, node.ae_title is {self._config.node.ae_title}"
            return Rejection(1, 1, 7, reason, CALLED, alarming=True)
        if allowed and calling_ae not in allowed:
            return Rejection(1, 1, 3, "calling AE title not in reception.calling_ae_titles", CALLING, alarming=True)
        if bound is not None and (certificate is None or certificate.names.isdisjoint(bound)):
            reason = "not with a certificate that tls.peers has for this AE title"
            return Rejection(1, 1, 3, reason, CALLING, alarming=True)
        try:
            self._spool.require_room()
        except (LowDisk, OSError) as error:
            return Rejection(2, 3, 2, str(error), LOW_DISK)
        return None

    def contexts(self, calling_ae: str) -> list[PresentationContext]:
        """What an archive was asked to send to be read, while it is expected."""
        return self._expected.contexts(calling_ae)

    def negotiated(self, rejection: Rejection | None) -> None:
        """For metrics."""
        if rejection is None:
            self.traffic.opened()
        else:
            self.traffic.rejected(rejection.kind)

    def turned_away(self, host: str, calling_ae: str, reason: str) -> None:
        """Somebody is not who he should be; one without AE title came no further than network or TLS."""
        if not calling_ae:
            self.traffic.rejected(NOT_ADMITTED)
        who = Node(calling_ae or host, calling_ae, host)
        audit_events.report(audit_events.TurnedAway(who, reason))

    def store(self, assoc: InboundAssociation, request: C_STORE, context: PresentationContext) -> Answer:
        """Keep an instance, where success means that it is durable; or hand it to who expects it."""
        sop_class, transfer_syntax = UID(cast(str, context.abstract_syntax)), context.transfer_syntax[0]
        size_bytes = _size(request)
        handed_over = self._expected.offer(assoc.calling_ae, request, sop_class, transfer_syntax)
        instance, answer = handed_over or self._keep(assoc, request, sop_class, transfer_syntax)
        self.traffic.answered(answer.status, size_bytes)
        if instance is not None:
            self._count(assoc, request, instance, answer)
        return answer

    def _keep(
        self, assoc: InboundAssociation, request: C_STORE, sop_class: UID, transfer_syntax: UID
    ) -> tuple[Instance | None, Answer]:
        seen: list[Instance] = []

        def note(instance: Instance) -> None:
            seen.append(instance)
            with self._lock:
                self._series.setdefault(assoc, {})[instance.series_uid] = self._seconds()

        sender = Sender(assoc.name, assoc.calling_ae, assoc.host)
        answer = self.intake.keep(request, sop_class, transfer_syntax, sender, note)
        return (seen[0] if seen else None), answer

    def _count(self, assoc: InboundAssociation, request: C_STORE, instance: Instance, answer: Answer) -> None:
        """For the audit trail; the first instance says whether all of them answer a C-MOVE of ours."""
        with self._lock:
            tally = self._tallies.get(assoc)
            if tally is None:
                sender = Node(assoc.calling_ae, assoc.calling_ae, assoc.host)
                originator = str(request.MoveOriginatorApplicationEntityTitle or "").strip()
                asked = originator == self._config.node.ae_title
                tally = self._tallies[assoc] = audit_events.Tally(sender, asked)
        study = audit_events.of(instance)
        tally.note(study, "" if answer.status == SUCCESS else answer.comment or f"status {answer.status:04X}")

    def report(self, event: evt.Event) -> tuple[int, None]:
        """Hand on a commitment report (PS3.4 J.3.3)."""
        if cast(N_EVENT_REPORT, event.request).EventTypeID not in (1, 2):
            return NO_SUCH_EVENT_TYPE, None
        try:
            report = commitment.parse(event.event_information)
        except (NotParsable, *MALFORMED, OSError) as error:  # OSError: of what breaks off
            LOGGER.warning("%s: commitment report refused: %s", event.assoc.name, brief(error))
            return INVALID_ARGUMENT, None
        if self._on_event_report is None:
            return PROCESSING_FAILURE, None
        self._on_event_report(report)
        return SUCCESS, None

    def ended(self, assoc: InboundAssociation) -> None:
        """Forget what an association has touched, and tell."""
        with self._lock:
            series = self._series.pop(assoc, {})
            tally = self._tallies.pop(assoc, None)
        if tally is not None:
            tally.close()
        if self._on_association_end is not None:
            self._on_association_end(frozenset(series))


def _size(request: C_STORE) -> int:
    """Of the encoded data set, bytes; 0 where there is none."""
    return request.DataSet.getbuffer().nbytes if isinstance(request.DataSet, BytesIO) else 0


def _patience(config: Config) -> Patience:
    reception = config.reception
    return Patience(
        idle_s=reception.idle_timeout_s,
        artim_s=min(ARTIM_S, reception.idle_timeout_s),
        handshake_s=config.tls.handshake_timeout_s,
        association_s=reception.max_association_s,
        bytes_per_s=reception.min_bytes_per_s,
    )
