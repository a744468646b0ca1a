"""Tells people: a thread for each channel, which looks, writes down what it will say, and says it.

What is to be said is in the ledger before it is sent, so that a restart neither loses it nor says it anew. Nothing
waits for these threads, and whatever goes wrong in them goes no further than the log.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from dicom_node import notify_send
from dicom_node.alarms import Message, Notice, Rhythm, Status, decide
from dicom_node.audit import Waiting
from dicom_node.config import Config
from dicom_node.config_notify import AnyNotification
from dicom_node.errors import NodeError, TransientError
from dicom_node.ledger import Ledger
from dicom_node.lookout import Lookout
from dicom_node.loop import Loop
from dicom_node.notify_send import TakenInPart
from dicom_node.retry import RetryPolicy

LOGGER = logging.getLogger(__name__)
LOOK_EVERY = timedelta(seconds=30)
RETRY = RetryPolicy(backoff_s=60.0, cap_s=3600.0, give_up_after_s=0.0)
SAVE_MARK = 1000  # events; a mark that moves by less is written with the next message

Send = Callable[[AnyNotification, Message, str], None]


class Notifier:
    """One channel. For one thread."""

    def __init__(
        self,
        config: Config,
        channel: AnyNotification,
        ledger: Ledger,
        clock: Callable[[], datetime],
        audit: Callable[[], Sequence[Waiting]] = lambda: (),
        send: Send = notify_send.send,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._channel = channel
        self._node = config.node.ae_title
        self._ledger = ledger
        self._clock = clock
        self._send = send
        self._chance = chance
        self._lookout = Lookout(config, channel, ledger, audit)
        remind = timedelta(hours=channel.remind_h) if channel.remind_h else None
        self._rhythm = Rhythm(timedelta(hours=channel.interval_h), remind)
        self._notices: dict[str, Notice] = {}

    def begin(self) -> None:
        """Take up what was told before; what happened before the first time is not told. Raises NodeError."""
        kept = self._ledger.notices(self._channel.name)
        for kind in self._channel.kinds:
            notice = kept.get(kind)
            if notice is None:
                notice = Notice(self._channel.name, kind, mark=self._ledger.last_event())
                self._ledger.keep_notice(notice, self._clock())
            self._notices[kind] = notice

    def run_once(self) -> datetime:
        """Look at every kind, and send what is due; when to be called again. Raises NodeError of the database."""
        for kind in self._channel.kinds:
            try:
                self._look(self._notices[kind])
            except OSError as error:
                LOGGER.error(
                    "notifications to %s: %s cannot be looked at: %s", self._channel.name, kind, error.strerror
                )
        for notice in list(self._notices.values()):
            self._deliver(notice)
        return self._clock() + LOOK_EVERY

    def _look(self, notice: Notice) -> None:
        now = self._clock()
        decided = decide(notice, self._lookout.look(notice, now), now, self._rhythm)
        if replace(decided, mark=notice.mark) != notice or decided.mark - notice.mark >= SAVE_MARK:
            self._ledger.keep_notice(decided, now)
            self._notices[notice.kind] = decided
        else:
            self._notices[notice.kind] = replace(notice, mark=decided.mark)

    def _deliver(self, notice: Notice) -> None:
        now = self._clock()
        if notice.message is None:
            return
        wait = (notice.next_attempt_at - now).total_seconds() if notice.next_attempt_at is not None else 0.0
        if 0 < wait <= RETRY.cap_s:  # longer: the clock was put back
            return
        try:
            self._send_once(notice.message)
            told = replace(notice, message=None, attempts=0, next_attempt_at=None, error="")
        except TransientError as error:
            LOGGER.error("notification to %s: %s", self._channel.name, error)
            pause = timedelta(seconds=RETRY.pause_s(notice.attempts + 1, self._chance()))
            again = self._clock() + pause
            told = replace(notice, attempts=notice.attempts + 1, next_attempt_at=again, error=str(error))
        self._notices[notice.kind] = told
        self._ledger.keep_notice(told, self._clock())

    def _send_once(self, message: Message) -> None:
        """What some have is not sent again: while it waits, they get it anew and nothing else of its kind."""
        try:
            self._send(self._channel, message, self._node)
        except TakenInPart as error:
            LOGGER.error("notification to %s: %s", self._channel.name, error)


class NotificationService:
    """The threads of all channels. `audit`: the audit messages that wait."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        clock: Callable[[], datetime],
        audit: Callable[[], Sequence[Waiting]] = lambda: (),
    ) -> None:
        self._clock = clock
        self._notifiers = {
            channel.name: Notifier(config, channel, ledger, clock, audit) for channel in config.notifications
        }
        self._loops = [
            Loop(f"notifications to {name}", self._guarded(notifier), clock)
            for name, notifier in self._notifiers.items()
        ]

    def begin(self) -> None:
        """What happens from now on is told. Raises NodeError."""
        for notifier in self._notifiers.values():
            notifier.begin()

    def start(self) -> None:
        """Begin to look."""
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """Begin nothing new. A channel that does not answer is not waited for: its message is in the ledger."""
        for loop in self._loops:
            loop.interrupt()

    @property
    def threads(self) -> list[threading.Thread]:
        """One per channel. They are looked after by nobody: the node goes on without them."""
        return [loop.thread for loop in self._loops]

    def _guarded(self, notifier: Notifier) -> Callable[[], datetime]:
        def work() -> datetime:
            try:
                return notifier.run_once()
            except NodeError:
                raise  # the loop says so and waits
            except Exception:
                # The border to libraries for mail and web: what they raise must not end the node.
                LOGGER.exception("notifications: an unexpected error; the next look is in an hour")
                return self._clock() + timedelta(hours=1)

        return work


def trial(now: datetime) -> Message:
    """What `dicomnode notify-test` sends."""
    lines = ("notifications reach you by this way",)
    return Message("test", Status.TEST, "test of notifications", lines, "", f"{now:%Y-%m-%d %H:%M:%S} UTC")
