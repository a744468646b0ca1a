"""When and how fast a destination may be sent to: a daily window and a rate. Pure: no clock of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo

_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_DAYS = 3  # one day may lose a short window to the change of the clocks
_PASS_S = 5.0  # a rate lets so much go at once as takes so long at that rate, and one object in any case


@dataclass(frozen=True)
class Window:
    """A part of every day, by the clock on the wall, over midnight where it ends before it begins.

    On the day on which clocks are put forward a window begins later where its beginning is skipped, and is not
    there at all where it is skipped as a whole; where they are put back, both passes of an hour count.
    """

    begin: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Window:
        """ "19:00-06:30"; ValueError where it is anything else, or of no length."""
        match = _WINDOW.fullmatch(text)
        if match is None:
            raise ValueError('a window is written as "19:00-06:30"')
        hour, minute, end_hour, end_minute = map(int, match.groups())
        window = cls(time(hour, minute), time(end_hour, end_minute))
        if window.begin == window.end:
            raise ValueError("the window has no length; leave it out to send at any time")
        return window

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M}"

    def is_open(self, now: datetime, zone: tzinfo | None = None) -> bool:
        """Whether `now` lies in it; `zone` None is the zone of the machine."""
        wall = now.astimezone(zone).time()
        if self.begin < self.end:
            return self.begin <= wall < self.end
        return wall >= self.begin or wall < self.end

    def opens_at(self, now: datetime, zone: tzinfo | None = None) -> datetime:
        """`now` where it is open, else when it opens next (UTC)."""
        if self.is_open(now, zone):
            return now
        today = now.astimezone(zone).date()
        for day in (today + timedelta(days=number) for number in range(_DAYS)):
            wall = datetime.combine(day, self.begin)
            opening = (wall.astimezone() if zone is None else wall.replace(tzinfo=zone)).astimezone(UTC)
            if opening > now and self.is_open(opening, zone):
                return opening
        return now + timedelta(days=1)  # not reached with the zones of this world


@dataclass(frozen=True)
class Rate:
    """The most that goes out on average; 0 is no limit. A single object goes as fast as the line is."""

    objects_per_minute: float = 0.0
    kb_per_s: float = 0.0

    def take(self, sizes_bytes: Sequence[int]) -> tuple[int, timedelta]:
        """How many of these objects may go now, in their order, and how long nothing may follow them."""
        spent_s = 0.0
        for taken, size in enumerate(sizes_bytes):
            if taken and spent_s >= _PASS_S:
                return taken, timedelta(seconds=spent_s)
            spent_s += self._cost_s(size)
        return len(sizes_bytes), timedelta(seconds=spent_s)

    def _cost_s(self, size_bytes: int) -> float:
        by_number = 60.0 / self.objects_per_minute if self.objects_per_minute else 0.0
        by_size = size_bytes / (1000.0 * self.kb_per_s) if self.kb_per_s else 0.0
        return max(by_number, by_size)
