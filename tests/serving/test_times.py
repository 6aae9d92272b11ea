"""When buckets are full again, for one process and for several."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.limits import Bucket, LimitSettings, Spent, UserRates
from serving.times import WAYS, OwnTimes, SharedTimes, shared_file

ROOT = Path(__file__).parents[2]
TAKE = """
import sys
from serving.limits import Bucket, LimitSettings, Spent
spent = Spent.shared(int(sys.argv[1]), LimitSettings())
bucket = Bucket(0.001, 500_000.0, times=spent.keys, key=7)
print(sum(bucket.take(1) == 0.0 for _ in range(400)))
"""
HOLD = """
import sys
from serving.times import SharedTimes
times = SharedTimes(int(sys.argv[1]), 0, 4)
def hold(_):
    print("held", flush=True)
    sys.stdin.read()
times.change(2, hold)
"""


@pytest.fixture
def file():
    descriptor = shared_file(4)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=["own", "shared"])
def times(request, file):
    return OwnTimes(4 * WAYS) if request.param == "own" else SharedTimes(file, 0, 4)


def time_of(times, key):
    found = []
    times.change(key, found.append)
    return found[0]


def test_a_time_is_that_of_its_key(times):
    for key in (0, 5, -3, 2**63 - 1, -(2**63)):
        assert time_of(times, key) == 0.0
        times.change(key, lambda _, key=key: key + 0.5)
    for key in (0, 5, -3, 2**63 - 1, -(2**63)):
        assert time_of(times, key) == key + 0.5
    times.change(5, lambda before: before + 1.0)
    assert time_of(times, 5) == 6.5


def test_none_changes_nothing(times):
    times.change(5, lambda _: 2.0)
    times.change(5, lambda _: None)
    assert time_of(times, 5) == 2.0


def test_of_a_full_set_the_one_that_is_full_first_is_forgotten(file):
    times = SharedTimes(file, 0, 1)
    for key in range(WAYS):
        times.change(key, lambda _, key=key: 100.0 - key)
    times.change(50, lambda _: 7.0)
    kept = [key for key in range(WAYS) if time_of(times, key)]
    assert kept == list(range(WAYS - 1))
    assert time_of(times, 50) == 7.0


def test_a_change_that_fails_changes_nothing_and_locks_nobody_out(times):
    def fail(_):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        times.change(5, fail)
    assert time_of(times, 5) == 0.0


def test_two_tables_of_a_file_are_two(file):
    first, second = SharedTimes(file, 0, 2), SharedTimes(file, 2, 2)
    first.change(5, lambda _: 1.0)
    assert (time_of(first, 5), time_of(second, 5)) == (1.0, 0.0)


def test_processes_take_no_token_twice():
    descriptor = Spent.file(LimitSettings())
    command = [sys.executable, "-c", TAKE, str(descriptor)]
    taking = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, pass_fds=[descriptor])
        for _ in range(3)
    ]
    taken = [int(one.communicate(timeout=60)[0]) for one in taking]
    os.close(descriptor)
    assert sum(taken) == 500


def test_a_process_that_dies_with_a_lock_keeps_nobody_waiting(file):
    command = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[file]
    ) as holder:
        holder.stdout.readline()
        times = SharedTimes(file, 0, 4)
        times.change(3, lambda _: 1.0)  # another set: nobody holds it
        holder.send_signal(signal.SIGKILL)
        began = time.monotonic()
        times.change(2, lambda _: 4.0)
        assert time.monotonic() - began < 10
        assert time_of(times, 2) == 4.0


def test_users_are_apart_from_keys_where_both_are_shared():
    limits = LimitSettings(tracked_users=8)
    descriptor = Spent.file(limits)
    spent = Spent.shared(descriptor, limits)
    bucket = Bucket(1.0, 1.0, times=spent.keys, key=5)
    users = UserRates(1.0, 1.0, spent.users)
    assert bucket.take(1) == 0.0
    assert users.takes(5)
    assert bucket.take(1) > 0.0
    assert not users.takes(5)
    os.close(descriptor)
