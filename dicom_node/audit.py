"""The audit trail (PS3.15 A.5, A.6): who came, what went where, what was asked, who was turned away.

Nobody waits for it: each sink has a bounded queue and a thread. What a queue cannot hold is counted and said: in
the log and, once the sink takes messages again, in the trail itself.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import cast

from dicom_node import tls
from dicom_node.audit_events import EVENTS, Event
from dicom_node.audit_message import RECORDING_STOPPED, Node, Reporter
from dicom_node.clock import utc_now
from dicom_node.config import Config
from dicom_node.errors import ConfigError
from dicom_node.syslog import FOLDER, DailyFile, Datagrams, Sink, Stream, frame

LOGGER = logging.getLogger(__name__)
BATCH = 100
RETRY_S = 5.0
STOP_S = 5.0


@dataclass(frozen=True)
class Waiting:
    """So many messages wait for a sink, of which none was taken since then."""

    sink: str
    count: int
    since: datetime


class Channel:
    """A sink with its queue and its thread.

    Args:
        name: for the log.
        size: so many messages wait at most.
        on_loss: called in the thread with how many were lost, when the sink works again.
        clock: the present, time zone aware.
    """

    def __init__(
        self, name: str, sink: Sink, size: int, on_loss: Callable[[int], None], clock: Callable[[], datetime]
    ) -> None:
        self._name = name
        self._sink = sink
        self._size = size
        self._on_loss = on_loss
        self._clock = clock
        self._since = clock()  # the queue was empty, or something of it was taken
        self._condition = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"audit to {name}", daemon=True)

    def put(self, message: bytes) -> None:
        """Take a message, or lose it. Never waits for the sink."""
        with self._condition:
            if not self._waiting:
                self._since = self._clock()
            if len(self._waiting) < self._size:
                self._waiting.append(message)
                self._condition.notify()
                return
            self._lost += 1
            first = self._lost == 1
        if first:
            LOGGER.error("audit messages to %s are being lost: %d wait already", self._name, self._size)

    def waiting(self) -> Waiting:
        """What the sink has not taken."""
        with self._condition:
            return Waiting(self._name, len(self._waiting) + self._lost, self._since)

    def stop(self) -> None:
        """Give what waits a short time to go."""
        with self._condition:
            self._stopping.set()
            self._condition.notify()
        if self.thread.is_alive():
            self.thread.join(STOP_S)
        with self._condition:
            left = len(self._waiting) + self._lost
        if left:
            LOGGER.error("%d audit messages to %s are lost: the node stops", left, self._name)

    def _run(self) -> None:
        failed = False
        while batch := self._next_batch():
            try:
                self._sink.write(batch)
            except (OSError, ValueError, ConfigError) as error:  # ValueError: a host name that is none
                if not failed:
                    LOGGER.error("audit messages to %s have to wait: %s", self._name, _why(error))
                failed = True
                if self._stopping.is_set():
                    break  # that was the last try
                self._stopping.wait(RETRY_S)
                continue
            if failed:
                LOGGER.warning("audit messages to %s are written again", self._name)
            failed = False
            self._written(len(batch))
        self._sink.close()

    def _next_batch(self) -> Sequence[bytes]:
        """What waits; nothing when the node stops and there is nothing more."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._stopping.is_set())
            return list(islice(self._waiting, BATCH))

    def _written(self, count: int) -> None:
        with self._condition:
            for _ in range(count):
                self._waiting.popleft()
            lost, self._lost = self._lost, 0
            self._since = self._clock()
        if lost:
            LOGGER.error("%d audit messages to %s were lost", lost, self._name)
            self._on_loss(lost)


class AuditTrail(logging.Handler):
    """Records what is reported between `start` and `stop`.

    Args:
        reporter: who we are in the messages.
        sinks: by name.
        queue: so many messages wait for each.
    """

    def __init__(
        self,
        reporter: Reporter,
        sinks: Mapping[str, Sink],
        queue: int = 10_000,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__()
        self._reporter = reporter
        self._clock = clock
        self._channels = [Channel(name, sink, queue, self._loss, clock) for name, sink in sinks.items()]

    @classmethod
    def of(cls, config: Config, clock: Callable[[], datetime] = utc_now) -> AuditTrail:
        """As [audit] says."""
        section = config.audit
        sinks: dict[str, Sink] = {}
        if section.file:
            folder = config.node.state_dir / FOLDER
            sinks[str(folder)] = DailyFile(folder, clock)
        if section.syslog != "none":
            sinks[f"syslog at {section.host}:{section.port}"] = _syslog(config)
        node = Node(str(os.getpid()), config.node.ae_title, socket.gethostname())
        return cls(Reporter(node, config.node.ae_title, section.site_id), sinks, section.queue, clock)

    @property
    def threads(self) -> list[threading.Thread]:
        """For whoever looks after the threads of the node."""
        return [channel.thread for channel in self._channels]

    def waiting(self) -> list[Waiting]:
        """What sinks have not taken."""
        return [waiting for channel in self._channels if (waiting := channel.waiting()).count]

    def start(self) -> None:
        """Record from now on; first of all, that the application starts."""
        for channel in self._channels:
            channel.thread.start()
        self._record(self._reporter.activity(self._clock(), starts=True))
        EVENTS.addHandler(self)

    def stop(self) -> None:
        """Record no more; last of all, that the application stops."""
        if self in EVENTS.handlers:
            EVENTS.removeHandler(self)
            self._record(self._reporter.activity(self._clock(), starts=False))
            for channel in self._channels:
                channel.stop()

    def emit(self, record: logging.LogRecord) -> None:
        """Take an `Event`; see `audit_events.report`."""
        event = cast(Event, record.msg)
        try:
            for message in event.messages(self._reporter, self._clock()):
                self._record(message)
        except Exception:  # whatever it is, the room that reports goes on
            LOGGER.exception("%s could not be written to the audit trail", type(event).__name__)

    def _loss(self, count: int) -> None:
        text = f"{count} audit messages were lost: the queue was full"
        self._record(self._reporter.alert(self._clock(), RECORDING_STOPPED, text))

    def _record(self, message: bytes) -> None:
        framed = frame(message, self._clock(), self._reporter.node.address, os.getpid())
        for channel in self._channels:
            channel.put(framed)


@contextmanager
def recording(config: Config) -> Iterator[None]:
    """Record what a command does beside the node."""
    trail = AuditTrail.of(config)
    trail.start()
    try:
        yield
    finally:
        trail.stop()


def _syslog(config: Config) -> Sink:
    section, client = config.audit, config.audit.client_tls
    if section.syslog == "udp":
        return Datagrams(section.host, section.port)
    if client is None:
        return Stream(section.host, section.port)
    return Stream(section.host, section.port, lambda: tls.client_context(client), client.name)


def _why(error: Exception) -> str:
    return tls.reason(error) if isinstance(error, OSError) else str(error)
