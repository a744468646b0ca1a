"""Where the running node leaves a commitment report for a command that waits for it.

The command announces its transaction in the events of the ledger before it asks; the node, which knows no delivery
of that transaction, leaves the report there too. Reports about anything else are not kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

from dicom_node.commitment import CommitmentReport
from dicom_node.ledger import Ledger

SUBJECT = "send-test"  # of the events
LATEST = 1000  # events that are looked through


class Postbox:
    """Where a running node leaves reports for this command; None where no node has run with this config."""

    def __init__(self, ledger: Ledger | None, clock: Callable[[], datetime]) -> None:
        self._ledger = ledger
        self._clock = clock

    def announce(self, transaction_uid: str) -> None:
        """Before commitment is asked for."""
        if self._ledger is not None:
            self._ledger.note(transaction_uid, self._clock(), subject=SUBJECT)

    def look(self, transaction_uid: str) -> CommitmentReport | None:
        """The report, once it is there."""
        for event in [] if self._ledger is None else self._ledger.recent_events(LATEST):
            report = _read(event.reason) if event.subject == SUBJECT else None
            if report is not None and report.transaction_uid == transaction_uid:
                return report
        return None


def leave(ledger: Ledger, report: CommitmentReport, now: datetime) -> bool:
    """For the node: keep a report that belongs to no delivery where a command waits for it; whether one does."""
    waiting = (event.reason for event in ledger.recent_events(LATEST) if event.subject == SUBJECT)
    if report.transaction_uid not in waiting:
        return False
    told = {"transaction": report.transaction_uid, "committed": report.committed, "failed": report.failed}
    ledger.note(json.dumps(told), now, subject=SUBJECT)
    return True


def _read(reason: str) -> CommitmentReport | None:
    try:
        told = json.loads(reason)
        failed = tuple((str(uid), int(code)) for uid, code in told["failed"])
        return CommitmentReport(told["transaction"], tuple(told["committed"]), failed)
    except (ValueError, KeyError, TypeError):
        return None
