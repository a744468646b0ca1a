"""The upper layer of associations that peers open, on one thread each (PS3.8 9).

pynetdicom runs two threads per association, which poll their queues and the socket and sleep a millisecond in
between. A storage provider without asynchronous operations never has anything for the second thread to do: the
peer sends and waits, or it waits for our answer. So here the association's own thread reads a PDU, lets
pynetdicom's state machine act on it, and answers. Nothing polls, nothing sleeps, an instance is copied once
between socket and buffer, and every wait for a peer has an end.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from dicom_node.associate_pdu import readable
from dicom_node.connection import Connection
from dicom_node.malformed import MALFORMED, brief
from dicom_node.tls import PeerCertificate

LOGGER = logging.getLogger(__name__)
PDU_HEADER = struct.Struct(">BxL")  # type, length of what follows (PS3.8 9.3.1)
PDV_HEADER = struct.Struct(">LB")  # length of what follows, presentation context ID (PS3.8 9.3.5.1)
P_DATA_TF_TYPE = 0x04
MIN_PDU_LIMIT = 1 << 20  # an A-ASSOCIATE-RQ may be longer than the data PDUs that we ask for
MAX_COMMAND_BYTES = 1 << 20
RESERVED_BYTES = 4 << 20  # so much of the shared memory is taken at a time: most instances need no more
TOO_LONG = "longer than reception.max_instance_mb"
NO_MEMORY = "reception.max_buffer_mb is in use: send again later"
IDLE, AWAITING_REQUEST, AWAITING_CLOSE = "Sta1", "Sta2", "Sta13"  # of PS3.8 table 9-10
CONNECTION_CLOSED, ARTIM_EXPIRED, INVALID_PDU = "Evt17", "Evt18", "Evt19"
P_DATA_RECEIVED = "Evt10"


@dataclass(frozen=True)
class Patience:
    """How long a peer is waited for, in seconds.

    Attributes:
        idle_s: for a PDU.
        artim_s: until it requests an association, and until it closes the connection (PS3.8 9.1.5).
        handshake_s: for the TLS handshake, where there is one.
        association_s: for the end of an association.
        bytes_per_s: what a message must come with, on average and after `idle_s`; 0: it may be slow.
    """

    idle_s: float
    artim_s: float
    handshake_s: float = 10.0
    association_s: float = 86400.0
    bytes_per_s: float = 0.0


class DataPdu(P_DATA_TF):
    """A P-DATA-TF whose presentation data values are views of the receive buffer, valid until the next read."""

    def __init__(self, body: memoryview) -> None:
        super().__init__()
        self._primitive = P_DATA()
        while body:
            length, context_id = PDV_HEADER.unpack_from(body)
            value = body[PDV_HEADER.size : 4 + length]
            if length < 2 or len(value) != length - 1:
                raise ValueError("a presentation data value does not fit its PDU")
            self._primitive.presentation_data_value_list.append((context_id, cast(bytes, value)))
            body = body[4 + length :]

    def to_primitive(self) -> P_DATA:
        """The P-DATA indication."""
        return self._primitive


class InlineUpperLayer(DULServiceProvider):
    """pynetdicom's upper layer and state machine, driven by the association's thread: `start` starts no other.

    Args:
        assoc: the association, whose `dul` this becomes.
        connection: the accepted socket.
        max_pdu_bytes: longer PDUs are invalid.
        patience: how long the peer may take.

    Attributes:
        certificate: what the peer has proved to be in the TLS handshake.
        impatience: why `pump` has ended.
    """

    def __init__(
        self,
        assoc: Association,
        connection: socket.socket,
        max_pdu_bytes: int,
        patience: Patience,
    ) -> None:
        super().__init__(assoc)
        assoc.dul = self  # before the socket, which puts the first event into our queue
        assoc.network_timeout, assoc.acse_timeout = patience.idle_s, patience.artim_s  # they were another's
        self.socket = self._connection = Connection(assoc, client_socket=connection)
        self._patience = patience
        self._request_deadline = self._end_deadline = 0.0
        self._message_began, self._message_bytes = 0.0, 0
        self.certificate: PeerCertificate | None = None
        self.impatience = ""
        self._max_pdu_bytes = max(max_pdu_bytes, MIN_PDU_LIMIT)
        self._header = bytearray(PDU_HEADER.size)
        self._buffer = bytearray()
        self._interrupted = threading.Event()

    @property
    def is_open(self) -> bool:
        """Whether the peer may still say something that counts."""
        return self.state_machine.current_state not in (IDLE, AWAITING_CLOSE)

    def secure(self) -> None:
        """The TLS handshake, where the connection is made for it.

        Raises:
            OSError: it came to nothing, in time or at all.
        """
        self.certificate = self._connection.shake_hands(self._patience.handshake_s)

    def start(self) -> None:
        """Take the connection indication (Evt5): ARTIM runs from here until the association is requested."""
        self.assoc._dul_ready.set()
        # pynetdicom's own timer goes by the wall clock, which may be set while it runs
        self._request_deadline = time.monotonic() + self._patience.artim_s
        self._end_deadline = time.monotonic() + self._patience.association_s
        self.state_machine.do_action(self.event_queue.get())

    def interrupt(self) -> None:
        """Have `pump` read no further PDU. For any thread."""
        self._interrupted.set()
        self._connection.interrupt()

    @property
    def is_interrupted(self) -> bool:
        """Whether `interrupt` was called."""
        return self._interrupted.is_set()

    def close(self) -> None:
        """Close the connection, if the peer has not."""
        self._connection.close()

    def pump(self) -> bool:
        """Read one PDU and act on it. False: none was read within the peer's time, or before an `interrupt`."""
        self.impatience = "this node stops"
        if self._interrupted.is_set():
            return False
        awaits_request = self.state_machine.current_state == AWAITING_REQUEST
        try:
            event = self._read_pdu()
        except TimeoutError:
            if not awaits_request:
                return False
            event = ARTIM_EXPIRED
        except OSError:
            if self._interrupted.is_set():
                return False
            event = CONNECTION_CLOSED
        except MALFORMED as error:
            LOGGER.warning("%s sent an invalid PDU: %s", self.assoc.name, brief(error))
            event = INVALID_PDU
        self._act(event)
        return True

    def linger(self) -> None:
        """Leave the connection to the peer to close (Sta13), until ARTIM expires; then close it."""
        if self.state_machine.current_state == AWAITING_CLOSE:
            try:
                self._connection.discard(time.monotonic() + self._patience.artim_s)
                event = CONNECTION_CLOSED
            except TimeoutError:
                event = ARTIM_EXPIRED
            except OSError:
                event = CONNECTION_CLOSED
            self._act(event)

    def receive_pdu(self, wait: bool = False, timeout: float | None = None) -> Any:
        """The next primitive for the service user; with `wait`, reads until there is one or no connection."""
        while wait and self.is_open and self.to_user_queue.empty():
            if not self.pump():
                break
        return super().receive_pdu(wait=False)

    def send_pdu(self, primitive: Any) -> None:
        """Send at once. Where the association is no more there is nobody to send to."""
        if not self.is_open:
            LOGGER.debug("%s is closed, %s not sent", self.assoc.name, type(primitive).__name__)
            return
        super().send_pdu(primitive)
        if self._process_recv_primitive():  # puts the primitive's event into the queue
            self._act(self.event_queue.get())

    def _decode_pdu(self, bytestream: bytearray) -> tuple[Any, str]:
        """The PDU, and the event that it is."""
        return super()._decode_pdu(readable(bytestream))

    def _act(self, event: str) -> None:
        """Let the state machine act on an event and on those that follow from it."""
        self.state_machine.do_action(event)
        while not self.event_queue.empty():
            follow_up = self.event_queue.get()
            if self.state_machine.current_state != IDLE:
                self.state_machine.do_action(follow_up)

    def _read_pdu(self) -> str:
        """Read one PDU, keep it for the state machine, return its event.

        Raises:
            OSError: as `Connection.fill`.
            MALFORMED: it is no PDU, or longer than we accept.
        """
        idle_deadline = time.monotonic() + self._patience.idle_s
        self._connection.fill(memoryview(self._header), self._deadline(idle_deadline))
        pdu_type, length = PDU_HEADER.unpack(self._header)
        if not 1 <= pdu_type <= 7:
            raise ValueError(f"type {pdu_type:#04x} is not in the standard")
        if length > self._max_pdu_bytes:
            raise ValueError(f"{length} bytes are more than the {self._max_pdu_bytes} that we accept")
        if length > len(self._buffer):
            self._buffer = bytearray(length)
        if self.assoc.dimse.message is None:
            self._message_began, self._message_bytes = time.monotonic(), 0
        self._message_bytes += length
        body = memoryview(self._buffer)[:length]
        self._connection.fill(body, self._deadline(idle_deadline))
        if pdu_type == P_DATA_TF_TYPE:
            self._recv_pdu.put(DataPdu(body))
            return P_DATA_RECEIVED
        pdu, event = self._decode_pdu(self._header + body)
        pdu.to_primitive()  # the state machine does it again, where a malformed one would end the thread
        self._recv_pdu.put(pdu)
        return event

    def _deadline(self, idle_deadline: float) -> float:
        """Until when to wait for what comes next; `impatience` says why no longer."""
        if self.state_machine.current_state == AWAITING_REQUEST:
            return self._request_deadline
        deadlines = [
            (idle_deadline, "silent for too long"),
            (self._end_deadline, "open for longer than reception.max_association_s"),
        ]
        if self._patience.bytes_per_s and self.assoc.dimse.message is not None:
            allowed_s = self._patience.idle_s + self._message_bytes / self._patience.bytes_per_s
            deadlines.append((self._message_began + allowed_s, "slower than reception.min_bytes_per_s"))
        deadline, self.impatience = min(deadlines)
        return deadline


class InstanceMemory:
    """Memory for the data sets that all associations of a server are receiving.

    Args:
        instance_bytes: no single data set may be longer.
        total_bytes: all together may not be.
    """

    def __init__(self, instance_bytes: int, total_bytes: int) -> None:
        self.instance_bytes = instance_bytes
        self._free = total_bytes
        self._lock = threading.Lock()

    def take(self, wanted: int) -> bool:
        """Reserve so many bytes. False: there are not as many left."""
        with self._lock:
            if wanted > self._free:
                return False
            self._free -= wanted
            return True

    def give_back(self, taken: int) -> None:
        """The reverse of `take`."""
        with self._lock:
            self._free += taken


class Discarded(BytesIO):
    """In place of a data set that is not kept, for `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def write(self, data: Any) -> int:
        """Keep nothing."""
        return len(data)


class MessageProvider(DIMSEServiceProvider):
    """Puts messages together within limits. Every request waits its turn on the association's thread."""

    def __init__(self, assoc: Association, memory: InstanceMemory) -> None:
        super().__init__(assoc)
        self._memory = memory
        self._reserved = 0

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Add the fragments of one P-DATA; a message that is complete goes into `msg_queue`."""
        message = self.message = self.message or DIMSEMessage()
        try:
            complete = message.decode_msg(primitive)
            if message.encoded_command_set.tell() > MAX_COMMAND_BYTES:
                raise ValueError("the command set is too long")
            if message.data_set is not None and message.data_set.tell() > self._reserved:
                self._reserve(message)
            if complete:
                self.message = None
                self.msg_queue.put(cast(Any, (message.context_id, message.message_to_primitive())))
        except MALFORMED as error:
            LOGGER.warning("%s sent an invalid message: %s", self.assoc.name, brief(error))
            self.message = None
            self.dul.event_queue.put(INVALID_PDU)

    def release_memory(self) -> None:
        """Nothing is being received: what the last message took is given back."""
        if self._reserved:
            self._memory.give_back(self._reserved)
            self._reserved = 0

    def _reserve(self, message: DIMSEMessage) -> None:
        """Take memory for what a message has grown by; keep nothing of one that is too long or finds none left."""
        length = cast(BytesIO, message.data_set).tell()
        too_long = length > self._memory.instance_bytes
        wanted = min(length + RESERVED_BYTES, self._memory.instance_bytes) - self._reserved
        if not too_long and self._memory.take(wanted):
            self._reserved += wanted
            return
        self.release_memory()
        message.data_set = Discarded(TOO_LONG if too_long else NO_MEMORY)
