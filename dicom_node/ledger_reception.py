"""The ledger's room for what arrives: instances, and the series that they make, follow and reopen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import select

from dicom_node.errors import TransientError
from dicom_node.ledger_records import Filing, InstanceRecord, Verdict
from dicom_node.ledger_rows import instance_record
from dicom_node.ledger_writer import LedgerRoom, Writer
from dicom_node.states import InstanceState, SeriesState
from dicom_node.tables import InstanceRow, SeriesRow

STATE_OF = {
    Verdict.NEW: InstanceState.CURRENT,
    Verdict.RESTORED: InstanceState.CURRENT,
    Verdict.CORRECTED: InstanceState.CURRENT,
    Verdict.RECODED: InstanceState.SUPERSEDED,
    Verdict.CONFLICTING: InstanceState.CONFLICTING,
}
CHANGES = {
    Verdict.NEW: "{n} new instance(s)",
    Verdict.CORRECTED: "{n} instance(s) came again with a corrected header",
    Verdict.CONFLICTING: "{n} instance(s) came again with other pixels",
}


class ReceptionRoom(LedgerRoom):
    """Filing of received instances."""

    def kept_instances(self, sop_instance_uids: Collection[str]) -> dict[str, list[InstanceRecord]]:
        """What is kept of these SOP instances, in every state; UIDs of which nothing is kept are left out."""
        query = (
            select(InstanceRow, SeriesRow.series_uid)
            .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
            .where(InstanceRow.sop_instance_uid.in_(sorted(sop_instance_uids)))
            .order_by(InstanceRow.id)
        )
        kept: dict[str, list[InstanceRecord]] = {}
        with self._read() as session:
            for row, series_uid in session.execute(query):
                kept.setdefault(row.sop_instance_uid, []).append(instance_record(row, series_uid))
        return kept

    def file_instances(self, filings: Sequence[Filing], now: datetime) -> None:
        """Record received files in one transaction; series are made, follow the newest header, and reopen.

        KNOWN and RECODED ones change no series; RECODED ones are kept as SUPERSEDED. A data set is kept once: one
        that comes again gets the state that its verdict gives it. Each of them counts as received last from now on.
        What was purged is kept again when it comes again; only an INCOMPLETE series, which asked for it, reopens.

        Raises:
            TransientError: a verdict was reached against an instance that is not CURRENT any more; judge again.
        """
        with self._write(now) as writer:
            clerk = _Clerk(writer)
            for filing in filings:
                if filing.verdict is Verdict.KNOWN:
                    clerk.know(filing)
                else:
                    clerk.file(filing)
            clerk.close()

    def current_instances(self, series_uid: str) -> list[InstanceRecord]:
        """The instances that count, by SOPInstanceUID, and every CONFLICTING version of one of them."""
        with self._read() as session:
            series = select(SeriesRow.id).where(SeriesRow.series_uid == series_uid).scalar_subquery()
            mine = select(InstanceRow.sop_instance_uid).where(
                InstanceRow.series_id == series, InstanceRow.state == InstanceState.CURRENT
            )
            current = select(InstanceRow).where(
                InstanceRow.series_id == series, InstanceRow.state == InstanceState.CURRENT
            )
            conflicting = select(InstanceRow).where(
                InstanceRow.state == InstanceState.CONFLICTING,
                (InstanceRow.series_id == series) | InstanceRow.sop_instance_uid.in_(mine),
            )
            rows = [*session.scalars(current), *session.scalars(conflicting)]
            rows.sort(key=lambda row: (row.sop_instance_uid, row.id))
            return [instance_record(row, series_uid) for row in rows]


class _Clerk:
    """Files one batch: remembers the series that it touched, and what happened to each."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.rows: dict[str, SeriesRow] = {}
        self.changes: dict[str, list[Verdict]] = {}
        self.restored: dict[str, SeriesRow] = {}

    def know(self, filing: Filing) -> None:
        """What counts came again: of conflicting versions it is the one received last now."""
        versions = self._versions(filing)
        for version in versions:
            if version.dataset_sha256 == filing.dataset_sha256 and version.purged_at is not None:
                self._restore(version)
        if any(version.state == InstanceState.CONFLICTING for version in versions):
            for version in versions:
                if version.state == InstanceState.CURRENT:
                    version.received_at = self._later_than(versions)

    def file(self, filing: Filing) -> None:
        """One instance: its row, its series, and the instance that it was compared with."""
        row = self._series(filing)
        versions = [] if filing.verdict is Verdict.NEW else self._versions(filing)
        received_at = self._later_than(versions)
        if filing.replaces is not None:
            self._compared(filing, received_at)
        kept = next((item for item in versions if item.dataset_sha256 == filing.dataset_sha256), None)
        again = kept is not None and kept.state == STATE_OF[filing.verdict]
        if kept is None:
            self._keep(row, filing, received_at)
        else:
            kept.state, kept.received_at, kept.purged_at = STATE_OF[filing.verdict], received_at, None
        row.sources_purged_at = None  # files of it are here again
        if filing.verdict is Verdict.RESTORED:
            self.restored[row.series_uid] = row
            return
        if filing.verdict is not Verdict.NEW:
            told = f"{filing.sop_instance_uid} came again: {filing.verdict}"
            self.writer.event("instance", told, series_id=row.id)
        if filing.verdict is not Verdict.RECODED and not again:
            self._changed(row, filing)
        if filing.verdict in (Verdict.NEW, Verdict.CORRECTED):
            self.writer.follow(row, filing.identity)

    def _restore(self, version: InstanceRow) -> None:
        """What was purged is here again, byte for byte."""
        version.purged_at = None
        row = self.writer.session.get_one(SeriesRow, version.series_id)
        row.sources_purged_at = None
        self.restored[row.series_uid] = row

    def _keep(self, row: SeriesRow, filing: Filing, received_at: datetime) -> None:
        """The row of a data set that was never received before."""
        self.writer.session.add(
            InstanceRow(
                series_id=row.id,
                sop_instance_uid=filing.sop_instance_uid,
                sop_class_uid=filing.sop_class_uid,
                transfer_syntax_uid=filing.transfer_syntax_uid,
                state=STATE_OF[filing.verdict],
                path=filing.path,
                size_bytes=filing.size_bytes,
                dataset_sha256=filing.dataset_sha256,
                pixel_sha256=filing.pixel_sha256,
                header=dict(filing.header),
                received_at=received_at,
            )
        )

    def _versions(self, filing: Filing) -> Sequence[InstanceRow]:
        """Every version of the SOP instance that is kept."""
        query = select(InstanceRow).where(InstanceRow.sop_instance_uid == filing.sop_instance_uid)
        return self.writer.session.scalars(query).all()

    def _later_than(self, versions: Sequence[InstanceRow]) -> datetime:
        """Now; but after every one of them, should the clock have been put back or stand still."""
        tick = timedelta(microseconds=1)
        return max([self.writer.now, *(version.received_at + tick for version in versions)])

    def close(self) -> None:
        """Reopen what has to be; every series touched waits for quiet anew."""
        self.writer.session.flush()
        for series_uid, verdicts in self.changes.items():
            row = self.rows[series_uid]
            row.last_instance_at = self.writer.now
            if row.state == SeriesState.RECEIVING:
                row.reason = ""  # what it waited for may have come
            # One that a person cancelled while it arrives stays cancelled; a correction may concern what was sent.
            stays = row.state == SeriesState.CANCELLED and set(verdicts) == {Verdict.NEW}
            if row.state == SeriesState.RECEIVING or stays:
                self.writer.touch(row)
            else:
                self.writer.reopen(row, _told(verdicts), changed=True)
        for series_uid in self.restored.keys() - self.changes.keys():
            row = self.restored[series_uid]
            row.last_instance_at = self.writer.now
            if row.state == SeriesState.INCOMPLETE:
                self.writer.reopen(row, "instances that were purged came again", changed=True)
            else:
                self.writer.touch(row)

    def _series(self, filing: Filing) -> SeriesRow:
        """The row of the filing's series, made where there is none."""
        identity = filing.identity
        row = self.rows.get(identity.series_uid)
        if row is None:
            query = select(SeriesRow).where(SeriesRow.series_uid == identity.series_uid)
            row = self.writer.session.scalar(query) or self._new_series(filing)
            self.rows[identity.series_uid] = row
        return row

    def _new_series(self, filing: Filing) -> SeriesRow:
        now = self.writer.now
        row = SeriesRow(
            series_uid=filing.identity.series_uid,
            state=SeriesState.RECEIVING,
            created_at=now,
            last_instance_at=now,
            changed_at=now,
            revision=1,
            version=0,
        )
        self.writer.follow(row, filing.identity)
        self.writer.session.add(row)
        self.writer.session.flush()
        sender = filing.identity.calling_ae or "an unknown sender"
        self.writer.event(
            "series", f"first instance, from {sender}", series_id=row.id, subject_id=row.id, new=row.state
        )
        return row

    def _compared(self, filing: Filing, received_at: datetime) -> None:
        """What the verdict means for the instance that it was reached against."""
        old = self.writer.session.get_one(InstanceRow, filing.replaces)
        if old.state != InstanceState.CURRENT:
            raise TransientError(f"instance {old.sop_instance_uid} is not current any more")
        if filing.verdict in (Verdict.CORRECTED, Verdict.RESTORED):
            old.state = InstanceState.SUPERSEDED
            self.writer.session.flush()  # before the new one becomes current: only one may be
        elif filing.verdict is Verdict.RECODED:
            old.received_at = received_at

    def _changed(self, row: SeriesRow, filing: Filing) -> None:
        """To be reopened: the series of the filing, and the one of the instance that it was compared with."""
        self.changes.setdefault(row.series_uid, []).append(filing.verdict)
        if filing.replaces is None:
            return
        old = self.writer.session.get_one(InstanceRow, filing.replaces)
        home = self.writer.session.get_one(SeriesRow, old.series_id)
        if home is not row:
            if filing.verdict is Verdict.CORRECTED:
                self.writer.lost_to(home, filing.identity)
            self.rows.setdefault(home.series_uid, home)
            self.changes.setdefault(home.series_uid, []).append(filing.verdict)


def _told(verdicts: Sequence[Verdict]) -> str:
    """What came, in words."""
    counted = {verdict: verdicts.count(verdict) for verdict in CHANGES}
    return ", ".join(CHANGES[verdict].format(n=n) for verdict, n in counted.items() if n)
