"""When somebody is told: once, with all there is, again when it grows, and when it is over."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dicom_node.alarms import Found, Message, Notice, Rhythm, decide
from tests.fixtures.samples import at

HOUR = 3600.0
RHYTHM = Rhythm(timedelta(hours=1), timedelta(hours=24))
NOTHING = Found(0, 0, (), 7)


def found(count: int = 0, new: int = 0, mark: int = 7) -> Found:
    return Found(count, new, (f"{count} series are in state FAILED",), mark)


def sent(notice: Notice) -> Notice:
    return replace(notice, message=None)


def status(notice: Notice) -> str | None:
    return None if notice.message is None else str(notice.message.status)


def test_a_night_of_failures_is_one_message_an_hour_and_one_in_the_end() -> None:
    notice, told = Notice("admin", "failures"), []
    for minute in range(8 * 60):  # another one fails every minute, all night
        notice = decide(notice, found(count=minute + 1, new=1, mark=minute), at(60 * minute), RHYTHM)
        if notice.message is not None:
            told.append((status(notice), notice.message.summary))
            notice = sent(notice)
    assert len(told) == 8
    assert told[0] == ("raised", "something failed")
    assert told[1] == ("more", "more: something failed (61)")
    notice = decide(notice, NOTHING, at(9 * HOUR), RHYTHM)
    assert status(notice) == "resolved"
    notice = sent(notice)
    assert decide(notice, NOTHING, at(10 * HOUR), RHYTHM).message is None


def test_what_stays_is_said_again_once_a_day() -> None:
    notice = sent(decide(Notice("admin", "disk"), found(1), at(0), RHYTHM))
    for hour in range(1, 24):
        assert decide(notice, found(1), at(hour * HOUR), RHYTHM).message is None
    assert status(decide(notice, found(1), at(24 * HOUR), RHYTHM)) == "reminder"
    assert decide(notice, found(1), at(240 * HOUR), Rhythm(RHYTHM.interval, None)).message is None


def test_what_flickers_is_no_stream_of_messages() -> None:
    notice, told = Notice("admin", "disk"), 0
    for minute in range(120):
        notice = decide(notice, found(minute % 2), at(60 * minute), RHYTHM)
        if notice.message is not None:
            told += 1
            notice = sent(notice)
    assert told == 4  # raised and resolved, in each hour


def test_what_was_over_before_it_could_be_sent_is_not_sent() -> None:
    waiting = decide(Notice("admin", "backlog"), found(3), at(0), RHYTHM)
    over = decide(waiting, NOTHING, at(60), RHYTHM)
    assert (over.message, over.active) == (None, False)


def test_while_a_message_waits_no_other_is_written_but_the_end_takes_the_place_of_what_is_more() -> None:
    first = sent(decide(Notice("admin", "failures"), found(1, 1), at(0), RHYTHM))
    more = decide(first, found(5, 4), at(2 * HOUR), RHYTHM)
    assert decide(more, found(9, 4), at(8 * HOUR), RHYTHM).message == more.message
    assert status(decide(more, NOTHING, at(9 * HOUR), RHYTHM)) == "resolved"


@pytest.mark.parametrize("kind", ["crash", "clinical"])
def test_what_happens_has_no_end_and_is_collected(kind: str) -> None:
    notice = decide(Notice("admin", kind), found(new=1, mark=10), at(0), RHYTHM)
    assert status(notice) == "raised"
    held = decide(sent(notice), found(new=2, mark=20), at(60), RHYTHM)
    assert (held.message, held.mark) == (None, 10)  # counted again with the next message
    later = decide(held, found(new=3, mark=30), at(HOUR), RHYTHM)
    assert later.message is not None
    assert "(3)" in later.message.summary
    assert (later.mark, later.active) == (30, False)
    assert decide(sent(later), found(), at(9 * HOUR), RHYTHM).message is None


def test_the_mark_moves_where_nothing_was() -> None:
    assert decide(Notice("admin", "failures", mark=1), Found(0, 0, (), 99), at(0), RHYTHM).mark == 99


def test_the_mark_moves_past_what_nobody_will_be_told_of() -> None:
    """A retrieval that failed, a failed series that was retried at once: nothing is wrong now.

    All events since then would be read at each look, for ever.
    """
    passed = decide(Notice("admin", "failures", mark=1), found(count=0, new=1, mark=99), at(0), RHYTHM)
    assert (passed.message, passed.mark) == (None, 99)
    first = sent(decide(Notice("admin", "failures"), found(1, 1, mark=5), at(0), RHYTHM))
    held = decide(first, found(2, 1, mark=99), at(60), RHYTHM)
    assert (held.message, held.mark) == (None, 5)  # it is told in an hour


def test_a_clock_that_is_put_back_silences_nobody_for_long() -> None:
    notice = sent(decide(Notice("admin", "failures"), found(1, 1), at(1000 * HOUR), RHYTHM))
    assert status(decide(notice, found(2, 1), at(0), RHYTHM)) == "more"


def test_a_message_survives_its_way_through_the_database() -> None:
    message = decide(Notice("admin", "failures"), found(1, 1), at(0), RHYTHM).message
    assert message is not None
    assert Message.of(message.json) == message
    assert "What to do" in message.text
