"""Who may come in: the connections of all listeners together, and how many of them may be associations."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, Protocol, TypeVar

from dicom_node.traffic import NO_PLACE

MAX_IDLE_CONNECTIONS = 64  # without an association, before it or after; the oldest is dropped for the next


@dataclass(frozen=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 table 9-21), and the reason in words for our log.

    Attributes:
        kind: the reason as metrics have it, one of `traffic.REJECTIONS`.
        alarming: somebody is not who he should be; otherwise there is no place for now.
    """

    result: int
    source: int
    diagnostic: int
    reason: str
    kind: str
    alarming: bool = False


class Phase(Enum):
    """How far a connection is."""

    SILENT = auto()  # connected, no association asked for yet
    ADMITTED = auto()
    OVER = auto()  # released, rejected or aborted; the connection is left to the peer to close


class FromHost(Hashable, Protocol):
    """A connection."""

    @property
    def host(self) -> str:
        """Address of the peer."""


Connected = TypeVar("Connected", bound=FromHost)


class Admission(Generic[Connected]):
    """Counts connections and associations, in all and per address. For the threads of all of them.

    Args:
        max_associations: so many at a time.
        max_per_peer: so many of them from one address.
    """

    def __init__(self, max_associations: int, max_per_peer: int) -> None:
        self._max_associations = max_associations
        self._max_per_peer = max_per_peer
        self._lock = threading.Lock()
        self._phases: dict[Connected, Phase] = {}  # in the order in which they connected

    def connected(self, connection: Connected) -> list[Connected]:
        """A new one. Returns those that have to go for it: the oldest without an association."""
        with self._lock:
            idle = [other for other, phase in self._phases.items() if phase is not Phase.ADMITTED]
            self._phases[connection] = Phase.SILENT
        return idle[: max(0, len(idle) + 1 - MAX_IDLE_CONNECTIONS)]

    def admit(self, connection: Connected) -> Rejection | None:
        """Give it a place as an association: two that come at once cannot both take the last one."""
        with self._lock:
            admitted = [other.host for other, phase in self._phases.items() if phase is Phase.ADMITTED]
            if len(admitted) >= self._max_associations:
                return Rejection(2, 3, 2, f"{self._max_associations} associations are open already", NO_PLACE)
            if admitted.count(connection.host) >= self._max_per_peer:
                reason = f"{self._max_per_peer} associations from this address are open already"
                return Rejection(2, 3, 2, reason, NO_PLACE)
            self._phases[connection] = Phase.ADMITTED
        return None

    def over(self, connection: Connected) -> bool:
        """An association has ended and counts no longer. False where it was none, or had ended before."""
        with self._lock:
            was_admitted = self._phases.get(connection) is Phase.ADMITTED
            self._phases[connection] = Phase.OVER
        return was_admitted

    def forget(self, connection: Connected) -> None:
        """It is closed."""
        with self._lock:
            self._phases.pop(connection, None)

    @property
    def associations(self) -> int:
        """How many are open."""
        with self._lock:
            return sum(phase is Phase.ADMITTED for phase in self._phases.values())

    def all(self) -> list[Connected]:
        """Every connection, however far it is."""
        with self._lock:
            return list(self._phases)
