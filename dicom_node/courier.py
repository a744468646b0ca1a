"""Brings results to one destination: stores them, asks for their commitment, follows up where no answer comes.

All that must survive a restart is in the ledger. What a courier remembers beside it, when to look again, is only
made of pauses: a new courier asks at once about everything that is SENT.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from pydicom.uid import generate_uid

from dicom_node import commitment
from dicom_node.carrier import Carrier
from dicom_node.clock import utc_now
from dicom_node.commitment import CommitmentReport
from dicom_node.config import AnyDestination, Config
from dicom_node.errors import NodeError, NotWanted, PermanentError, TransientError
from dicom_node.ledger import Ledger
from dicom_node.ledger_records import Delivery
from dicom_node.result_file import damage, quarantine
from dicom_node.retry import Pause, RetryPolicy
from dicom_node.scu import StoreResult
from dicom_node.spool import Spool
from dicom_node.states import DeliveryState
from pipeline.types import ObjectReference

log = logging.getLogger(__name__)

STAY_S = 5.0  # how long an association stays open for a commitment report

# Failure reasons of a commitment report (PS3.3 C.14.1.1): asking again may help, sending again will not.
_ASK_AGAIN = {0x0110, 0x0213, 0x0131}  # processing failure, resource limitation, duplicate transaction UID
_HOPELESS = {0x0119, 0x0122}  # class and instance conflict, SOP class not supported


@dataclass(frozen=True)
class Pace:
    """Times that all couriers share: when to try again, and how long a commitment report may take.

    `started`: since when the node runs; None where that does not matter.
    """

    retry: RetryPolicy
    commitment_timeout: timedelta
    stay_s: float = STAY_S
    clock: Callable[[], datetime] = utc_now
    chance: Callable[[], float] = random.random
    started: datetime | None = None

    @classmethod
    def of(cls, config: Config, clock: Callable[[], datetime] = utc_now, stay_s: float = STAY_S) -> Pace:
        """The [delivery] section."""
        section = config.delivery
        return cls(
            RetryPolicy(section.backoff_s, section.backoff_cap_s, section.give_up_after_h * 3600),
            timedelta(seconds=section.commitment_timeout_s),
            stay_s,
            clock,
            started=clock(),
        )

    def decide(
        self, error: NodeError, attempts: int, now: datetime, first_at: datetime, chance: float
    ) -> datetime | None:
        """As `RetryPolicy.decide`."""
        return self.retry.decide(error, attempts, now, first_at, chance, self.started)


@dataclass(frozen=True)
class _Question:
    """What is to be asked next about an object that is SENT, and when.

    Attributes:
        pause: not before it is over.
        because: None: request commitment. Else look with a query, for this reason; empty where config.toml says so.
        failures: how often asking failed; makes the pauses longer.
    """

    pause: Pause
    because: str | None = None
    failures: int = 0


class Courier:
    """Brings what is due to one destination and makes sure that it has arrived."""

    def __init__(
        self, destination: AnyDestination, carrier: Carrier, ledger: Ledger, spool: Spool, pace: Pace
    ) -> None:
        self.destination = destination
        self._carrier = carrier
        self._ledger = ledger
        self._spool = spool
        self._pace = pace
        self._lock = threading.Lock()
        self._questions: dict[int, _Question] = {}  # by delivery id; reports change them in other threads
        self._rest: Pause | None = None  # by the rate of the destination
        self._transaction_uid = ""  # of the report that is being waited for
        self._answered = threading.Event()  # it has come, or the node stops

    def run_once(self) -> datetime | None:
        """Do all that is due, and say when something will be due next; None when only a new result can change that.

        Raises:
            NodeError: of the ledger; nothing is lost, what was due stays due.
        """
        self._send()
        self._verify()
        now = self._pace.clock()
        pauses = [question.pause for question in self._open_questions().values()]
        times = [pause.until if pause.lasts(now) else now for pause in pauses]
        pending = self._ledger.next_delivery_at(self.destination.name)
        if pending is not None:
            rested = self._rest.until if self._rest is not None and self._rest.lasts(now) else pending
            times.append(self._may_send_at(max(pending, rested)))
        return min(times, default=None)

    def interrupt(self) -> None:
        """Do not wait for a commitment report any longer."""
        self._answered.set()

    def take_report(self, report: CommitmentReport, deliveries: Sequence[Delivery]) -> None:
        """Act on a commitment report about these deliveries, whatever thread it comes in. May come twice."""
        now = self._pace.clock()
        failed = dict(report.failed)
        for delivery in deliveries:
            if delivery.sop_instance_uid in report.committed:
                # Also one that was given up or cancelled meanwhile: a report that comes after all is the truth.
                self._committed(delivery, now)
            elif delivery.sop_instance_uid in failed and delivery.state is DeliveryState.SENT:
                self._not_committed(delivery, failed[delivery.sop_instance_uid])
        if report.transaction_uid == self._transaction_uid:
            self._answered.set()

    # --- sending -----------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Store what is due, on one association, where window and rate of the destination allow it."""
        now = self._pace.clock()
        due = self._ledger.due_deliveries(self.destination.name, now)
        if due and self._may_send_at(now) > now:
            reason = f"waits for the window {self.destination.window} of this destination"
            self._ledger.remark_deliveries([delivery.id for delivery in due], reason, now)
            return
        if self._rest is not None and self._rest.lasts(now):
            return
        sound: dict[Path, Delivery] = {}
        for delivery in due:
            path = self._spool.results / delivery.path
            harm = damage(path, delivery.sha256)
            if harm:
                harm = quarantine(path, delivery.sop_instance_uid, harm, self._spool)
                self._fail(delivery, self._pace.clock(), harm)
            else:
                sound[path] = delivery
        if not sound:
            return
        sizes = [path.stat().st_size for path in sound]
        taken, rest = self.destination.rate.take(sizes)
        self._rest = Pause(now, now + rest)
        sound = dict(islice(sound.items(), taken))
        chance = self._pace.chance()  # one for all: objects of a failed association come due together again
        self._carrier.store(
            list(sound),
            lambda result: self._note(sound[result.path], result, chance),
            lambda path: self._ledger.begin_delivery(sound[path].id, self._pace.clock()),
        )

    def _may_send_at(self, when: datetime) -> datetime:
        """`when`, or when the window of the destination opens after it."""
        opening = self.destination.opening
        return when if opening is None else opening.opens_at(when)

    def _note(self, delivery: Delivery, result: StoreResult, chance: float) -> None:
        """Persist what became of one object as soon as it is known."""
        now = self._pace.clock()
        if result.error is None:
            self._ledger.delivery_sent(delivery.id, now, result.warning)
            return
        if isinstance(result.error, NotWanted):  # superseded or cancelled since it was taken: says the ledger
            return
        attempt = delivery.attempts + 1
        again = self._pace.decide(result.error, attempt, now, delivery.first_pending_at, chance)
        if again is None:
            self._fail(delivery, now, _given_up(result.error, attempt))
        else:
            when = f"{again.astimezone():%Y-%m-%d %H:%M:%S}"
            log.warning("%s, attempt %d, again at %s: %s", _called(delivery), attempt, when, result.error)
            self._ledger.delivery_postponed(delivery.id, again, now, str(result.error))

    def _fail(self, delivery: Delivery, now: datetime, reason: str) -> None:
        """A person is needed; the log says so too."""
        self._ledger.delivery_failed(delivery.id, now, reason)
        log.error("%s failed, `dicomnode retry` when it is put right: %s", _called(delivery), reason)

    def _committed(self, delivery: Delivery, now: datetime) -> None:
        self._ledger.delivery_committed(delivery.id, now)
        if delivery.state is not DeliveryState.COMMITTED:  # a report may come twice
            log.info("%s arrived", _called(delivery))

    def _send_again(self, delivery: Delivery, reason: str) -> None:
        """The peer does not have it after all: once at once, then with growing pauses."""
        now = self._pace.clock()
        error = TransientError(reason)
        chance = self._pace.chance()
        again = self._pace.decide(error, delivery.attempts, now, delivery.first_pending_at, chance)
        if again is None:
            self._fail(delivery, now, _given_up(error, delivery.attempts))
            return
        self._ledger.resend(delivery.id, now, reason)
        if delivery.attempts > 1:
            self._ledger.delivery_postponed(delivery.id, again, now, reason)

    # --- making sure -------------------------------------------------------------------------------------------

    def _verify(self) -> None:
        """Ask about everything that is SENT, as soon as its time has come."""
        now = self._pace.clock()
        due = {
            delivery: question
            for delivery, question in self._open_questions().items()
            if not question.pause.lasts(now)
        }
        if self.destination.verify == "none":
            for delivery in due:
                self._committed(delivery, now)
            return
        self._ask({delivery: question for delivery, question in due.items() if question.because is None})
        self._find({delivery: question for delivery, question in due.items() if question.because is not None})

    def _open_questions(self) -> dict[Delivery, _Question]:
        """What is SENT, with the question about each; those about anything else are forgotten."""
        now = self._pace.clock()
        first = _Question(Pause(now, now), "" if self.destination.verify == "find" else None)
        sent = self._ledger.sent_deliveries(self.destination.name, now)
        with self._lock:
            self._questions = {delivery.id: self._questions.get(delivery.id, first) for delivery in sent}
            return {delivery: self._questions[delivery.id] for delivery in sent}

    def _ask(self, open_questions: Mapping[Delivery, _Question]) -> None:
        """Request commitment (N-ACTION) of objects, under a new transaction that is persisted first."""
        if not open_questions:
            return
        now = self._pace.clock()
        transaction_uid = str(generate_uid(prefix=None))
        self._ledger.open_transaction([delivery.id for delivery in open_questions], transaction_uid, now)
        unanswered = _Question(Pause(now, now + self._pace.commitment_timeout), "no commitment report came")
        for delivery, question in open_questions.items():
            self._look_again(delivery, replace(unanswered, failures=question.failures))
        self._answered.clear()
        self._transaction_uid = transaction_uid
        try:
            self._carrier.request_commitment(
                [_reference(delivery) for delivery in open_questions],
                transaction_uid,
                lambda report: self.take_report(
                    report, self._ledger.deliveries_of_transaction(report.transaction_uid)
                ),
                self._answered,
                self._pace.stay_s,
            )
        except TransientError as error:
            for delivery, question in open_questions.items():
                because = str(error) if self._sent_long_ago(delivery) else None
                self._unclear(delivery, replace(question, because=because), error)
        except PermanentError as error:
            self._find(
                {delivery: replace(question, because=str(error)) for delivery, question in open_questions.items()}
            )

    def _find(self, open_questions: Mapping[Delivery, _Question]) -> None:
        """Look for objects with a query (C-FIND, QIDO-RS)."""
        if not open_questions:
            return
        try:
            found = self._carrier.find_instances([_reference(delivery) for delivery in open_questions])
        except TransientError as error:
            for delivery, question in open_questions.items():
                self._unclear(delivery, question, error)
            return
        except PermanentError as error:
            for delivery, question in open_questions.items():
                reasons = dict.fromkeys([question.because or str(error), str(error)])
                self._unverifiable(delivery, " ".join(reasons))
            return
        for delivery, question in open_questions.items():
            if delivery.sop_instance_uid in found:
                self._found(delivery, question)
            else:
                self._absent(delivery, question)

    def _found(self, delivery: Delivery, question: _Question) -> None:
        now = self._pace.clock()
        if question.because:
            text = (
                f"{delivery.kind} at {delivery.destination}: found by {self._carrier.query_name}, which counts as "
                f"committed: {question.because}"
            )
            self._ledger.note(text, now, series_uid=delivery.source_series_uid, subject="delivery")
        self._committed(delivery, now)

    def _absent(self, delivery: Delivery, question: _Question) -> None:
        """Not found: an archive may need a while to list what it has stored."""
        if self._sent_long_ago(delivery):
            self._send_again(delivery, f"{self._carrier.name} stored the object but does not list it.")
        else:
            error = TransientError(f"{self._carrier.name} does not list the object yet.")
            self._unclear(delivery, question, error)

    def _sent_long_ago(self, delivery: Delivery) -> bool:
        now = self._pace.clock()
        return now - (delivery.sent_at or now) >= self._pace.commitment_timeout

    def _not_committed(self, delivery: Delivery, reason: int) -> None:
        """The peer reports that it does not keep an object."""
        text = f"{self._carrier.name} did not commit the object: {commitment.describe(reason)}."
        if reason in _HOPELESS:
            self._fail(delivery, self._pace.clock(), text)
        elif reason in _ASK_AGAIN:
            now = self._pace.clock()
            with self._lock:
                running = self._questions.get(delivery.id)
            failures = max(delivery.attempts, running.failures if running is not None else 0)
            question = _Question(Pause(now, now), failures=failures)
            self._unclear(delivery, question, TransientError(text))
        else:
            self._send_again(delivery, text)

    def _unclear(self, delivery: Delivery, question: _Question, error: TransientError) -> None:
        """No answer this time: the same question after a pause, until that has gone on for too long."""
        now = self._pace.clock()
        failures = question.failures + 1
        since = delivery.sent_at or now
        again = self._pace.decide(error, failures, now, since, self._pace.chance())
        if again is None:
            self._fail(delivery, now, self._unconfirmed(_given_up(error, failures)))
        else:
            self._look_again(delivery, replace(question, pause=Pause(now, again), failures=failures))

    def _unverifiable(self, delivery: Delivery, reason: str) -> None:
        """The archive refuses to be asked."""
        advice = 'If this archive offers neither way, set verify = "none" for it.'
        text = f"{self._unconfirmed(reason)} {advice}"
        self._fail(delivery, self._pace.clock(), text)

    def _unconfirmed(self, reason: str) -> str:
        return f"Stored, but it could not be confirmed that {self._carrier.name} keeps it: {reason}"

    def _look_again(self, delivery: Delivery, question: _Question) -> None:
        with self._lock:
            self._questions[delivery.id] = question


def _reference(delivery: Delivery) -> ObjectReference:
    return ObjectReference(
        delivery.study_uid, delivery.series_uid, delivery.sop_class_uid, delivery.sop_instance_uid
    )


def _called(delivery: Delivery) -> str:
    """An object for the log: what of which series, and where to."""
    series = f"series {delivery.source_series_uid} revision {delivery.revision}"
    return f"{series}: {delivery.kind} to {delivery.destination}"


def _given_up(error: NodeError, attempts: int) -> str:
    return str(error) if isinstance(error, PermanentError) else f"Given up after {attempts} attempts. {error}"
