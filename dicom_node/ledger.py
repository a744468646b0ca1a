"""Every query and every change of state, each change with its event rows in one transaction.

SQLite (WAL) or PostgreSQL by URL. One engine per process; every method is a short transaction of its own and may
be called from any thread. Frozen records go in and out (`ledger_records`); no ORM row leaves.

Every change takes `now`, time zone aware: the ledger has no clock.

The rooms: `ledger_reception` (instances make series), `ledger_decisions` (completion, selection), `ledger_jobs`
(analyses), `ledger_priors` (earlier results of a patient), `ledger_deliveries` (the outbox), `ledger_announcements`
(studies without a result), `ledger_retention` (files that may go), `ledger_retrievals` (what is fetched from
archives), `ledger_status` (people), `ledger_overview` (the status page), `ledger_metrics` (monitoring),
`ledger_notices` (who was told of what). They share `ledger_writer`.
"""

from __future__ import annotations

from dicom_node.ledger_announcements import AnnouncementRoom
from dicom_node.ledger_database import open_engine
from dicom_node.ledger_decisions import DecisionRoom
from dicom_node.ledger_deliveries import DeliveryRoom
from dicom_node.ledger_jobs import JobRoom
from dicom_node.ledger_metrics import MetricsRoom
from dicom_node.ledger_notices import NoticeRoom
from dicom_node.ledger_overview import OverviewRoom
from dicom_node.ledger_priors import CurrentCt, PriorRoom, PriorRules
from dicom_node.ledger_reception import ReceptionRoom
from dicom_node.ledger_records import (
    Ages,
    AnnouncementRecord,
    Backlog,
    Choice,
    Delivery,
    Event,
    Filing,
    InstanceRecord,
    JobRecord,
    Place,
    Purgeable,
    ResultRecord,
    Retrieval,
    SeriesDetails,
    SeriesIdentity,
    SeriesPage,
    SeriesRecord,
    Told,
    Verdict,
    Wanted,
)
from dicom_node.ledger_retention import RetentionRoom
from dicom_node.ledger_retrievals import RetrievalRoom
from dicom_node.ledger_schema import require_current
from dicom_node.ledger_status import StatusRoom

__all__ = [
    "Ages",
    "Backlog",
    "Choice",
    "CurrentCt",
    "Delivery",
    "Event",
    "Filing",
    "InstanceRecord",
    "JobRecord",
    "Ledger",
    "AnnouncementRecord",
    "Place",
    "PriorRules",
    "Purgeable",
    "ResultRecord",
    "Retrieval",
    "SeriesDetails",
    "SeriesIdentity",
    "SeriesPage",
    "SeriesRecord",
    "Told",
    "Verdict",
    "Wanted",
]


class Ledger(
    ReceptionRoom,
    DecisionRoom,
    JobRoom,
    PriorRoom,
    DeliveryRoom,
    AnnouncementRoom,
    RetentionRoom,
    RetrievalRoom,
    StatusRoom,
    OverviewRoom,
    MetricsRoom,
    NoticeRoom,
):
    """The only truth about what was received, what is to be done and what came of it."""

    def __init__(self, url: str, *, migrate: bool = True) -> None:
        """Open `url` (SQLAlchemy); bring its schema up to date, or only look whether it is (`migrate=False`).

        Raises:
            NodeError: the database cannot be opened, or its schema is not the one of this software.
        """
        super().__init__(open_engine(url))
        if not migrate:
            require_current(self._engine)
            return
        from dicom_node import ledger_migration  # with Alembic, which a command beside a running node does without

        ledger_migration.upgrade(self._engine)

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()
