"""The retry decision, over every input that hypothesis can think of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.errors import PermanentError, TransientError
from dicom_node.retry import FEWEST_ATTEMPTS, Pause, RetryPolicy

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
BUSY = TransientError("busy")
POLICY = RetryPolicy(backoff_s=30, cap_s=3600, give_up_after_s=72 * 3600, jitter=0.25)

policies = st.builds(
    RetryPolicy,
    backoff_s=st.floats(0.001, 1e5),
    cap_s=st.floats(0.001, 1e6),
    give_up_after_s=st.floats(0, 1e7),
    jitter=st.floats(0, 1),
)
chance = st.floats(0, 1, exclude_max=True)
attempts = st.integers(1, 10**9)


def test_pauses_double_up_to_the_cap() -> None:
    pauses = [POLICY.pause_s(n, 0.0) for n in range(1, 10)]
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_jitter_takes_at_most_its_share_away() -> None:
    assert POLICY.pause_s(1, 0.0) == 30
    assert POLICY.pause_s(1, 0.5) == 30 * 0.875
    assert RetryPolicy(30, 3600, 1, jitter=0).pause_s(1, 0.9) == 30


@given(policies, attempts, chance)
def test_a_pause_is_never_longer_than_the_cap_nor_negative(policy: RetryPolicy, n: int, random: float) -> None:
    assert 0 <= policy.pause_s(n, random) <= policy.cap_s


@given(policies, attempts, chance)
def test_pauses_never_shrink_with_more_failures(policy: RetryPolicy, n: int, random: float) -> None:
    assert policy.pause_s(n, random) <= policy.pause_s(n + 1, random)


@given(policies, attempts, chance, st.floats(0, 2e7))
def test_tries_again_before_the_end_and_never_after(
    policy: RetryPolicy, n: int, random: float, waited_s: float
) -> None:
    first_at = NOW - timedelta(seconds=waited_s)
    end = first_at + timedelta(seconds=policy.give_up_after_s)
    again = policy.decide(BUSY, n, NOW, first_at, random)
    if end <= NOW:
        assert (again is None) is (n >= FEWEST_ATTEMPTS)
        assert again is None or again >= NOW
    else:
        assert again is not None
        assert NOW <= again <= end


def test_the_last_attempt_is_made_when_the_time_is_up() -> None:
    first_at = NOW - timedelta(hours=71, minutes=45)
    assert POLICY.decide(BUSY, 80, NOW, first_at, 0.0) == first_at + timedelta(hours=72)


def test_what_waited_while_the_node_was_off_is_tried_more_than_once() -> None:
    first_at = NOW - timedelta(hours=80)
    assert POLICY.decide(BUSY, 1, NOW, first_at, 0.0) == NOW + timedelta(seconds=30)
    assert POLICY.decide(BUSY, 2, NOW, first_at, 0.0) == NOW + timedelta(seconds=60)
    assert POLICY.decide(BUSY, 3, NOW, first_at, 0.0) is None


def test_nothing_is_given_up_in_the_first_hour_after_a_start() -> None:
    """The node may have been off, and the peer starts after it."""
    first_at = NOW - timedelta(hours=80)
    for minutes, again in ((0, True), (59, True), (60, False)):
        started = NOW - timedelta(minutes=minutes)
        assert (POLICY.decide(BUSY, 80, NOW, first_at, 0.0, started) is not None) == again
    ahead = NOW + timedelta(days=400)  # the clock was put back since
    assert POLICY.decide(BUSY, 80, NOW, first_at, 0.0, ahead) == NOW + timedelta(hours=1)


@given(policies, attempts, chance)
def test_a_permanent_error_ends_it(policy: RetryPolicy, n: int, random: float) -> None:
    assert policy.decide(PermanentError("refused"), n, NOW, NOW, random) is None


@pytest.mark.parametrize(
    "wrong",
    [{"backoff_s": 0}, {"cap_s": -1}, {"give_up_after_s": -1}, {"jitter": 1.5}, {"jitter": -0.1}],
)
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="pauses are positive"):
        RetryPolicy(**{"backoff_s": 1, "cap_s": 1, "give_up_after_s": 1, **wrong})


def test_a_pause_ends_with_its_time_and_with_a_clock_that_is_put_back() -> None:
    pause = Pause.of(NOW, 60)
    assert pause.lasts(NOW)
    assert pause.lasts(NOW + timedelta(seconds=59))
    assert not pause.lasts(NOW + timedelta(seconds=60))
    assert not pause.lasts(NOW - timedelta(hours=3))
