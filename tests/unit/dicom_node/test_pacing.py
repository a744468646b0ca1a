"""Windows by the clock on the wall, over midnight and over the change of the clocks; rates as pauses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.pacing import Rate, Window

BERLIN = ZoneInfo("Europe/Berlin")  # forward on 29 March 2026 at 2:00, back on 25 October at 3:00
NIGHT = Window.parse("19:00-06:30")


def wall(day: str, clock: str, fold: int = 0) -> datetime:
    """A moment in Berlin."""
    return datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=BERLIN, fold=fold)


@pytest.mark.parametrize(
    ("clock", "is_open"), [("18:59", False), ("19:00", True), ("00:00", True), ("06:29", True), ("06:30", False)]
)
def test_over_midnight(clock: str, is_open: bool) -> None:
    now = wall("2026-01-10", clock)
    assert NIGHT.is_open(now, BERLIN) is is_open
    assert NIGHT.opens_at(now, BERLIN) == (now if is_open else wall("2026-01-10", "19:00"))


def test_within_a_day_the_next_opening_may_be_tomorrow() -> None:
    noon = Window.parse("12:00-13:00")
    assert noon.opens_at(wall("2026-01-10", "11:00"), BERLIN) == wall("2026-01-10", "12:00")
    assert noon.opens_at(wall("2026-01-10", "13:00"), BERLIN) == wall("2026-01-11", "12:00")
    assert noon.opens_at(wall("2026-12-31", "23:00"), BERLIN) == wall("2027-01-01", "12:00")


def test_the_wall_clock_counts_when_clocks_change() -> None:
    """19:00 stays 19:00: an hour less or more of UTC lies between two openings."""
    for day, hours in (("2026-03-28", 23), ("2026-10-24", 25)):
        after = wall(day, "19:00").astimezone(UTC) + timedelta(hours=hours)
        next_day = NIGHT.opens_at(wall(day, "19:00") + timedelta(hours=12), BERLIN)
        assert next_day == after
        assert next_day.astimezone(BERLIN).hour == 19


def test_a_window_in_the_hour_that_is_skipped_waits_for_the_next_day() -> None:
    skipped = Window.parse("02:15-02:45")
    now = wall("2026-03-29", "01:00")
    assert skipped.opens_at(now, BERLIN) == wall("2026-03-30", "02:15")
    assert not skipped.is_open(wall("2026-03-29", "03:15"), BERLIN)


def test_a_window_in_the_hour_that_comes_twice_is_open_twice() -> None:
    twice = Window.parse("02:15-02:45")
    for fold in (0, 1):
        assert twice.is_open(wall("2026-10-25", "02:30", fold), BERLIN)


clocks = st.tuples(st.integers(0, 23), st.integers(0, 59)).map(lambda t: f"{t[0]:02d}:{t[1]:02d}")
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)).map(lambda t: t.replace(tzinfo=UTC))


@given(clocks, clocks, moments, st.sampled_from(["Europe/Berlin", "Asia/Seoul", "Australia/Lord_Howe", "UTC"]))
def test_it_is_open_when_it_says_so(begin: str, end: str, now: datetime, zone_name: str) -> None:
    if begin == end:
        with pytest.raises(ValueError, match="no length"):
            Window.parse(f"{begin}-{end}")
        return
    window, zone = Window.parse(f"{begin}-{end}"), ZoneInfo(zone_name)
    opening = window.opens_at(now, zone)
    assert window.is_open(opening, zone)
    assert now <= opening <= now + timedelta(days=2)
    assert (opening == now) is window.is_open(now, zone)


def test_without_a_zone_it_is_that_of_the_machine() -> None:
    now = datetime(2026, 6, 1, 12, tzinfo=UTC)
    local = now.astimezone()
    assert Window(local.time(), (local + timedelta(hours=1)).time()).is_open(now)
    opening = Window((local + timedelta(hours=1)).time(), (local + timedelta(hours=2)).time()).opens_at(now)
    assert opening == now + timedelta(hours=1)


@pytest.mark.parametrize("text", ["19:00", "19-6", "19:00–06:30", "24:00-01:00", "19:60-20:00", " 19:00-20:00"])
def test_anything_else_is_no_window(text: str) -> None:
    with pytest.raises(ValueError, match="written as"):
        Window.parse(text)


def test_no_limit_takes_all_at_once() -> None:
    assert Rate().take([1, 2, 3]) == (3, timedelta(0))
    assert Rate(10, 10).take([]) == (0, timedelta(0))


def test_objects_per_minute() -> None:
    assert Rate(objects_per_minute=6).take([1] * 5) == (1, timedelta(seconds=10))
    assert Rate(objects_per_minute=60).take([1] * 8) == (5, timedelta(seconds=5))
    assert Rate(objects_per_minute=600).take([1] * 8) == (8, timedelta(seconds=0.8))


def test_kb_per_s_and_the_slower_of_both() -> None:
    assert Rate(kb_per_s=100).take([2_000_000, 100]) == (1, timedelta(seconds=20))
    assert Rate(objects_per_minute=60, kb_per_s=100).take([100_000, 300_000, 300_000]) == (
        3,
        timedelta(seconds=7),
    )


@given(st.lists(st.integers(1, 10**8), min_size=1), st.floats(0.1, 1e4), st.floats(0.1, 1e6))
def test_a_rate_is_kept_on_average_and_never_stands_still(sizes: list[int], number: float, kb: float) -> None:
    taken, rest = Rate(number, kb).take(sizes)
    assert 1 <= taken <= len(sizes)
    slack = 1.000001
    assert rest.total_seconds() * slack + 1e-5 >= taken * 60 / number
    assert rest.total_seconds() * slack + 1e-5 >= sum(sizes[:taken]) / 1000 / kb
