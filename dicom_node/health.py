"""Whether the node does what it is for, as monitoring asks it. Nothing here tells of a patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from dicom_node.errors import NodeError

OK = "ok"


class Watched(Protocol):
    """The rooms of a node that are looked at; each answer is what is wrong, empty where nothing is."""

    def database_fault(self) -> str:
        """Of the ledger's database. May wait for it; NodeError where it does not answer."""

    def disk_fault(self) -> str:
        """Of the room for what is received."""

    def listener_fault(self) -> str:
        """Of the ports for DICOM."""

    def worker_fault(self) -> str:
        """Of the processes that analyse."""

    def dead_threads(self) -> list[str]:
        """Names of threads that ended although nobody stopped them."""


@dataclass(frozen=True)
class Health:
    """What was found: per check "ok", or what is wrong."""

    checks: Mapping[str, str]

    @property
    def reasons(self) -> list[str]:
        """What is wrong, each with the name of its check."""
        return [f"{name}: {found}" for name, found in self.checks.items() if found != OK]

    @property
    def good(self) -> bool:
        """Nothing is wrong."""
        return not self.reasons


def examine(node: Watched) -> Health:
    """Look at everything once. May wait for the database."""

    def threads() -> str:
        dead = node.dead_threads()
        return f"ended: {', '.join(dead)}" if dead else ""

    checks: Mapping[str, Callable[[], str]] = {
        "database": lambda: _database(node),
        "disk": node.disk_fault,
        "listener": node.listener_fault,
        "worker": node.worker_fault,
        "threads": threads,
    }
    return Health({name: check() or OK for name, check in checks.items()})


def _database(node: Watched) -> str:
    try:
        return node.database_fault()
    except NodeError:  # its words may name the server and the user
        return "does not answer; the log says why"
