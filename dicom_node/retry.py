"""When something that failed is tried again. Pure: neither clock nor random numbers of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from dicom_node.errors import NodeError, PermanentError

# 2**40 first pauses are longer than any cap; beyond it the power only risks an overflow.
_MOST_DOUBLINGS = 40
AFTER_START = timedelta(hours=1)  # where all machines were off, an archive is up later than the node
FEWEST_ATTEMPTS = 3  # also where the time is up: the node itself may have been off, and the peer starts after it


@dataclass(frozen=True)
class Pause:
    """From one moment to another. A clock that is put back to before its beginning ends it."""

    since: datetime
    until: datetime

    @classmethod
    def of(cls, now: datetime, seconds: float) -> Pause:
        """So long from now on."""
        return cls(now, now + timedelta(seconds=seconds))

    def lasts(self, now: datetime) -> bool:
        """Whether it is still to be waited for."""
        return self.since <= now < self.until


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off with a cap, full stop after a while, and jitter so that peers are not called in step.

    Attributes:
        backoff_s: pause after the first failure; each further failure doubles it.
        cap_s: no pause is longer.
        give_up_after_s: time after the first attempt in which a last attempt is still made.
        jitter: share of a pause (0 to 1) that chance may take away; never adds, so that the cap holds.
    """

    backoff_s: float
    cap_s: float
    give_up_after_s: float
    jitter: float = 0.25

    def __post_init__(self) -> None:
        if self.backoff_s <= 0 or self.cap_s <= 0 or self.give_up_after_s < 0 or not 0 <= self.jitter <= 1:
            raise ValueError("pauses are positive and jitter lies between 0 and 1")

    def pause_s(self, attempts: int, random: float) -> float:
        """Seconds to wait after `attempts` failures (1 or more); `random` is drawn from [0, 1)."""
        doublings = min(max(attempts, 1) - 1, _MOST_DOUBLINGS)
        longest = min(self.backoff_s * 2.0**doublings, self.cap_s)
        return longest * (1.0 - self.jitter * random)

    def decide(
        self,
        error: NodeError,
        attempts: int,
        now: datetime,
        first_at: datetime,
        random: float,
        started: datetime | None = None,
    ) -> datetime | None:
        """When to try again, or None to give up.

        Args:
            error: what went wrong last; a `PermanentError` is never tried again.
            attempts: failed attempts so far, this one included.
            now: time of the failure.
            first_at: when the first attempt was due; the last one is made `give_up_after_s` later, or is the third.
            random: from [0, 1).
            started: since when the node runs: nothing is given up soon after that, as the node may have been off.
                None where that does not matter.
        """
        if isinstance(error, PermanentError):
            return None
        give_up_after = timedelta(seconds=self.give_up_after_s)
        counts_from = min(started or first_at, now) + min(AFTER_START, give_up_after) - give_up_after
        end = max(first_at, counts_from) + give_up_after
        again = now + timedelta(seconds=self.pause_s(attempts, random))
        if now >= end:
            return again if attempts < FEWEST_ATTEMPTS else None
        return min(again, end)
