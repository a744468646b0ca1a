"""Instances that an archive was asked to send (C-MOVE) and that are read, not kept: they go to whoever asked.

While somebody expects certain instances from an archive, the receiver accepts their SOP classes from it and offers
here what comes. Nothing else is changed: CT is filed as ever, and what nobody asked for is as unwelcome as
before. All of it is in memory: after a crash nobody expects anything, and whoever asked asks again.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext

from dicom_node.association_server import Answer
from dicom_node.errors import NotParsable
from dicom_node.instance_check import Instance, Mismatch, check, identify
from dicom_node.intake import DATA_SET_DOES_NOT_MATCH, failure
from dicom_node.retrieve import OnInstance
from dicom_node.supported import KEPT_SOP_CLASSES
from dicom_node.upper_layer import Discarded


class Arrivals:
    """What comes of one request; made by `Expected.instances`."""

    def __init__(
        self,
        senders: Collection[str],
        instance_uids: Collection[str],
        contexts: Sequence[PresentationContext],
        take: OnInstance,
        changed: threading.Condition,
    ) -> None:
        self.senders, self.instance_uids, self.contexts, self.take = senders, instance_uids, contexts, take
        self._changed = changed
        self._uids: set[str] = set()
        self._over = False

    def note(self, sop_instance_uid: str) -> None:
        """It was taken, or refused for good."""
        with self._changed:
            self._uids.add(sop_instance_uid)
            self._changed.notify_all()

    def give_up(self) -> None:
        """Wait no longer. The condition is held by the caller."""
        self._over = True
        self._changed.notify_all()

    def wait_for(self, count: int, limit_s: float) -> int:
        """Wait until so many instances have come, at most `limit_s` for each; how many have.

        Some archives answer a C-MOVE before they send.
        """
        with self._changed:
            while (there := len(self._uids)) < count and not self._over:
                if not self._changed.wait_for(lambda: self._over or len(self._uids) > there, limit_s):
                    break
            return there


class Expected:
    """Between those who ask and the receiver; for any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: list[Arrivals] = []
        self._stopped = False

    @contextmanager
    def instances(
        self,
        senders: Collection[str],
        instance_uids: Collection[str],
        contexts: Sequence[PresentationContext],
        take: OnInstance,
    ) -> Iterator[Arrivals]:
        """Expect them until the block ends.

        Args:
            senders: calling AE titles that they may come from.
            instance_uids: SOPInstanceUIDs that the archive lists: nothing else is taken.
            contexts: what these may propose meanwhile.
            take: called on the thread of the association, as in `retrieve.get`.
        """
        arrivals = Arrivals(senders, instance_uids, contexts, take, self._changed)
        with self._changed:
            self._open.append(arrivals)
            if self._stopped:
                arrivals.give_up()
        try:
            yield arrivals
        finally:
            with self._changed:
                self._open.remove(arrivals)

    def stop(self) -> None:
        """Nobody waits any more: the receiver is closed."""
        with self._changed:
            self._stopped = True
            for arrivals in self._open:
                arrivals.give_up()

    def contexts(self, calling_ae: str) -> list[PresentationContext]:
        """What this AE may propose at present, beside what everybody may."""
        with self._changed:
            return [context for one in self._open if calling_ae in one.senders for context in one.contexts]

    def offer(
        self, calling_ae: str, request: C_STORE, sop_class: UID, transfer_syntax: UID
    ) -> tuple[Instance, Answer] | None:
        """Hand an instance to whoever expects it; None where nobody does. Raises nothing."""
        with self._changed:
            asked = [one for one in self._open if calling_ae in one.senders]
        if (
            not asked
            or sop_class in KEPT_SOP_CLASSES
            or not request.DataSet
            or isinstance(request.DataSet, Discarded)
        ):
            return None
        try:
            instance = identify(request.DataSet, transfer_syntax)
        except NotParsable:
            return None
        arrivals = next((one for one in asked if instance.sop_instance_uid in one.instance_uids), None)
        if arrivals is None:
            return None
        answer = _hand_over(instance, arrivals, request, sop_class, transfer_syntax)
        arrivals.note(instance.sop_instance_uid)
        return instance, answer


def _hand_over(
    instance: Instance, arrivals: Arrivals, request: C_STORE, sop_class: UID, transfer_syntax: UID
) -> Answer:
    try:
        check(instance, str(sop_class), str(request.AffectedSOPInstanceUID))
    except Mismatch as error:
        return failure(DATA_SET_DOES_NOT_MATCH, str(error))
    return arrivals.take(request, sop_class, transfer_syntax)
