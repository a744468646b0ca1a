"""Brings series from one source: looks what it lists, has sent what is not here, and looks whether it has come.

Whatever happens in between, the next look begins with what is here and what the source lists; a retrieval is over
when nothing of that is lacking, and not when the archive says that it has sent it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from datetime import datetime

from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from dicom_node import query, retrieve
from dicom_node.association_server import Answer
from dicom_node.config import Source
from dicom_node.errors import NodeError, PermanentError, TransientError
from dicom_node.inquiry import listed_instances, policy, present
from dicom_node.intake import Sender
from dicom_node.ledger import Ledger, Retrieval
from dicom_node.retrieve import Retrieved
from dicom_node.states import RetrievalState
from dicom_node.supported import KEPT_SOP_CLASSES, TRANSFER_SYNTAXES
from dicom_node.upper_layer import InstanceMemory

LOGGER = logging.getLogger(__name__)
STORAGE = [build_context(uid, syntax) for uid in KEPT_SOP_CLASSES for syntax in TRANSFER_SYNTAXES]
Keep = Callable[[C_STORE, UID, UID, Sender], Answer]  # request, SOP class, transfer syntax


class Fetcher:
    """Carries out the retrievals from one source.

    Args:
        source: where from.
        calling_ae: our AE title, which is the destination of a C-MOVE too.
        ledger: what is wanted, and what is here.
        clock: the present, time zone aware.
        keep: keeps an instance that a C-GET brings, as durably as one that the receiver answers.
        memory: bounds the instances that a C-GET brings.
        wait_for_filing: returns when everything received up to now is in the ledger, or after a while.
        on_change: called with the series of a retrieval that has come to an end or is postponed.
    """

    def __init__(
        self,
        source: Source,
        calling_ae: str,
        ledger: Ledger,
        clock: Callable[[], datetime],
        keep: Keep,
        memory: InstanceMemory,
        wait_for_filing: Callable[[], None],
        on_change: Callable[[str], None] = lambda _series_uid: None,
    ) -> None:
        self.source = source
        self._calling_ae = calling_ae
        self._ledger = ledger
        self._clock = clock
        self._keep = keep
        self._memory = memory
        self._wait_for_filing = wait_for_filing
        self._on_change = on_change
        self._policy = policy(source)
        self._started = clock()
        self._stopped = False

    def interrupt(self) -> None:
        """Begin no further retrieval."""
        self._stopped = True

    def run_once(self) -> datetime | None:
        """Do all that is due, and say when something will be due next; None when only a new one can change that.

        Raises:
            NodeError: of the ledger; nothing is lost, what was due stays due.
        """
        for retrieval in self._ledger.due_retrievals(self.source.name, self._clock()):
            if self._stopped:
                break
            self._carry_out(retrieval)
            self._on_change(retrieval.series_uid)
        return self._ledger.next_retrieval_at(self.source.name)

    def _carry_out(self, retrieval: Retrieval) -> None:
        try:
            error = self._bring(retrieval)
        except (TransientError, PermanentError) as raised:
            error = raised
        now = self._clock()
        if error is None:
            self._ledger.retrieval_ended(retrieval.id, RetrievalState.DONE, "", now)
            return
        LOGGER.warning("series %s from %s: %s", retrieval.series_uid, self.source.name, error)
        again = self._policy.decide(
            error,
            retrieval.attempts + 1,
            now,
            retrieval.created_at,
            random.random(),  # noqa: S311
            self._started,
        )
        if again is None:
            self._ledger.retrieval_ended(retrieval.id, RetrievalState.FAILED, str(error), now)
        else:
            self._ledger.retrieval_postponed(retrieval.id, again, now, str(error))

    def _bring(self, retrieval: Retrieval) -> NodeError | None:
        """Fetch what is lacking; None once nothing is."""
        listed = self._listed(retrieval)
        if not listed:
            return TransientError(f"{self.source.name} lists no CT instance of this series.")
        lacking = self._lacking(retrieval, listed)
        if not lacking:
            return None
        if len(lacking) > self.source.max_instances:
            return PermanentError(
                f"{len(lacking)} instances are lacking, sources.max_instances of {self.source.name} is "
                f"{self.source.max_instances}."
            )
        # One by one where most is here; the whole series from the second attempt on: not every archive can do both.
        single = len(lacking) < len(listed) and not retrieval.attempts
        try:
            retrieved = self._retrieve(retrieval, lacking if single else [])
        except PermanentError as error:
            return TransientError(str(error)) if single else error
        self._wait_for_filing()
        rest = self._lacking(retrieval, listed)
        if not rest:
            return None
        return retrieve.lacking(self.source, retrieved, len(rest), "instances", self._calling_ae)

    def _listed(self, retrieval: Retrieval) -> list[str]:
        matches = query.find_images(self.source, retrieval.study_uid, retrieval.series_uid, self._calling_ae)
        return sorted(item.sop_instance_uid for item in listed_instances(matches))

    def _lacking(self, retrieval: Retrieval, listed: Sequence[str]) -> list[str]:
        """What of it is not here, and the ledger told so."""
        kept = present(self._ledger, listed)
        lacking = [uid for uid in listed if uid not in kept]
        self._ledger.retrieval_progress(retrieval.id, len(lacking), self._clock())
        return lacking

    def _retrieve(self, retrieval: Retrieval, uids: Sequence[str]) -> Retrieved:
        requests = retrieve.identifiers(retrieval.study_uid, retrieval.series_uid, uids)
        return retrieve.bring(
            self.source,
            requests,
            self._calling_ae,
            STORAGE,
            self._take,
            self._memory,
            self.source.retrieve_timeout_s,
        )

    def _take(self, request: C_STORE, sop_class: UID, transfer_syntax: UID) -> Answer:
        sender = Sender(f"C-GET from {self.source.name}", self.source.ae_title, self.source.host)
        return self._keep(request, sop_class, transfer_syntax, sender)
