"""Destinations are told of studies that end without a result, where config.toml asks for it: one thread each.

What is told is in the ledger. The object is made anew for each attempt, with the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from pydicom import dcmread, dcmwrite

from dicom_node.carrier import Carrier, carrier
from dicom_node.config import Config
from dicom_node.courier import Pace
from dicom_node.destinations import ObjectOutlet
from dicom_node.errors import NotWanted, PermanentError, TransientError
from dicom_node.ledger import AnnouncementRecord, Ledger, Told
from dicom_node.loop import Loop, not_running, stop_all
from dicom_node.malformed import MALFORMED
from dicom_node.scu import StoreResult
from dicom_node.spool import Spool
from dicom_node.states import DeliveryState
from pipeline import notice
from pipeline.errors import ResultError
from pipeline.notice import Form, Notice
from pipeline.types import ObjectReference

log = logging.getLogger(__name__)
LOOK_EVERY = timedelta(minutes=1)  # for studies that have become quiet


class Announcer:
    """Tells one destination.

    Args:
        outlet: the destination.
        reached: the way to it.
        config: `completion` and `delivery` are used.
        ledger: which studies ended without a result.
        spool: where an image of the study is found.
        clock: the present, time zone aware.
    """

    def __init__(
        self,
        outlet: ObjectOutlet,
        reached: Carrier,
        config: Config,
        ledger: Ledger,
        spool: Spool,
        clock: Callable[[], datetime],
    ) -> None:
        self.outlet = outlet
        self._carrier, self._ledger, self._spool, self._clock = reached, ledger, spool, clock
        self._pace = Pace.of(config, clock)
        rules = config.completion
        self._quiet = timedelta(seconds=max(rules.study_quiet_s, rules.series_quiet_s))
        self._min_slices = rules.min_slices

    def run_once(self) -> datetime:
        """Write down and send what is to be told; when to look again.

        Raises:
            NodeError: of the ledger; nothing is lost.
        """
        now, outlet = self._clock(), self.outlet
        told = Told(outlet.name, outlet.profile, outlet.not_analysed)
        self._ledger.open_announcements(told, self._quiet, self._min_slices, now)
        opens = outlet.opening.opens_at(now) if outlet.opening else now
        if opens > now:
            return min(opens, now + LOOK_EVERY)
        for record in self._ledger.due_announcements(outlet.name, now):
            self._send(record)
        again = self._ledger.next_announcement_at(outlet.name) or now + LOOK_EVERY
        return min(again, now + LOOK_EVERY)

    def _send(self, record: AnnouncementRecord) -> None:
        """One attempt."""
        try:
            with TemporaryDirectory(dir=self._spool.results, prefix=".notice-") as folder:
                path, reference = self._write(record, Path(folder))
                self._carrier.store(
                    [path],
                    lambda result: self._note(record, result),
                    lambda _: self._ledger.begin_announcement(
                        record.id, reference, self._min_slices, self._clock()
                    ),
                )
        except (PermanentError, ResultError, FileNotFoundError, *MALFORMED) as error:
            self._note(record, StoreResult(Path(), "", PermanentError(f"no notice can be made: {error}")))
        except OSError as error:  # a full disk, too many open files: it may pass
            self._note(record, StoreResult(Path(), "", TransientError(f"no notice can be written: {error}")))

    def _write(self, record: AnnouncementRecord, folder: Path) -> tuple[Path, ObjectReference]:
        """The object as a file, in the study of an image that is still here.

        Raises:
            PermanentError: there is none any more.
        """
        kept = self._ledger.current_instances(record.image_series_uid)
        image = next((item for item in kept if not item.purged), None)
        if image is None:
            raise PermanentError("no image of the study is here any more")
        header = dcmread(self._spool.archive / image.path, stop_before_pixels=True)
        form = cast(Form, record.form)
        ds = notice.build(header, Notice(form, record.reasons, record.created_at.astimezone()))
        dcmwrite(folder / "notice.dcm", ds, enforce_file_format=True)
        return folder / "notice.dcm", ObjectReference(
            str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPClassUID), str(ds.SOPInstanceUID)
        )

    def _note(self, record: AnnouncementRecord, result: StoreResult) -> None:
        """Persist what became of it."""
        now = self._clock()
        if isinstance(result.error, NotWanted):
            return
        if result.error is None:
            self._ledger.announcement_ended(record.id, DeliveryState.SENT, result.warning, now)
            return
        log.warning("a notice could not be sent: %s", result.error)
        chance = self._pace.chance()
        again = self._pace.decide(result.error, record.attempts + 1, now, record.created_at, chance)
        if again is None:
            self._ledger.announcement_ended(record.id, DeliveryState.FAILED, str(result.error), now)
        else:
            self._ledger.announcement_postponed(record.id, again, str(result.error), now)


class AnnouncementService:
    """An announcer and a thread for each destination with `not_analysed`."""

    def __init__(self, config: Config, ledger: Ledger, spool: Spool, clock: Callable[[], datetime]) -> None:
        self._ledger, self._clock = ledger, clock
        announcers = [
            Announcer(outlet, carrier(outlet, config.node.ae_title), config, ledger, spool, clock)
            for outlet in config.destinations
            if isinstance(outlet, ObjectOutlet) and outlet.not_analysed != "nothing"
        ]
        self._told = [each.outlet.name for each in announcers]
        self._loops = [Loop(f"announcements to {each.outlet.name}", each.run_once, clock) for each in announcers]

    def start(self) -> None:
        """Begin. Raises NodeError of the ledger."""
        self._ledger.abandon_announcements(self._told, self._clock())
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """Begin nothing new, and wait a while for what is on its way."""
        stop_all(self._loops)

    def dead_threads(self) -> list[str]:
        """Names of threads that ended although nobody stopped them."""
        return not_running(self._loops)
