"""Rates: a bucket per key, one per user in bounded memory."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.limits import Bucket, UserRates, too_many
from serving.times import OwnTimes


class Time:
    """A clock that stands until it is moved. Rates and steps are sums of powers of two."""

    now = 128.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


def test_a_burst_passes_and_then_the_rate_holds(clock):
    bucket = Bucket(8.0, 2.0, clock)
    assert [bucket.take(1) for _ in range(16)] == [0.0] * 16
    assert bucket.take(1) == 0.125
    clock.now += 0.125
    assert bucket.take(1) == 0.0
    clock.now += 1000.0
    assert bucket.take(16) == 0.0
    assert bucket.take(16) == 2.0


def test_what_is_refused_costs_nothing(clock):
    bucket = Bucket(10.0, 1.0, clock)
    assert bucket.take(5) == 0.0
    assert bucket.take(6) > 0.0
    assert bucket.take(5) == 0.0


def test_a_batch_beyond_the_burst_passes_a_full_bucket_and_is_paid_for_later(clock):
    bucket = Bucket(8.0, 1.0, clock)
    assert bucket.take(24) == 0.0
    assert bucket.take(1) == 2.125
    clock.now += 2.125
    assert bucket.take(1) == 0.0


def test_without_a_rate_everything_passes(clock):
    assert Bucket(None, 1.0, clock).take(10**9) == 0.0
    times = OwnTimes(4)
    rates = UserRates(None, 1.0, times, clock)
    assert all(rates.takes(7) for _ in range(100))
    assert len(times) == 0


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 40)), min_size=1, max_size=60))
def test_in_any_time_no_more_passes_than_rate_and_burst_and_one_batch(sends):
    clock, passed = Time(), 0
    bucket, began = Bucket(10.0, 2.0, clock), clock.now
    for pause, amount in sends:
        clock.now += pause
        if bucket.take(amount) == 0.0:
            passed += amount
        assert passed <= 10.0 * (clock.now - began) + 20 + 40


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3)), max_size=80))
def test_a_user_s_rate_is_that_of_a_bucket_of_their_own(sends):
    clock = Time()
    rates = UserRates(5.0, 2.0, OwnTimes(16), clock)
    buckets = [Bucket(5.0, 2.0, clock) for _ in range(4)]
    for pause, user in sends:
        clock.now += pause
        wait = buckets[user].wait()
        if not 0.0 < wait < 1e-6:  # rounding decides
            assert rates.takes(user) == (wait == 0.0)
            buckets[user].take(1)


def test_users_beyond_the_table_cost_the_one_seen_longest_ago(clock):
    times = OwnTimes(2)
    rates = UserRates(1.0, 1.0, times, clock)
    assert rates.takes(1)
    assert not rates.takes(1)
    assert rates.takes(2)
    assert rates.takes(3)  # 1 leaves
    assert len(times) == 2
    assert not rates.takes(3)
    assert rates.takes(1)


def test_threads_take_no_token_twice():
    bucket, passed = Bucket(0.001, 500_000.0), []

    def take() -> None:
        passed.append(sum(bucket.take(1) == 0.0 for _ in range(1000)))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 500


def test_a_refusal_says_the_rate_and_when_to_come_back(clock):
    bucket = Bucket(2.5, 1.0, clock)
    problem = too_many("records", bucket, 0.2)
    assert (problem.status, problem.headers["Retry-After"]) == (429, "1")
    assert "2.5 records a second; try again in 1 s" in problem.detail
