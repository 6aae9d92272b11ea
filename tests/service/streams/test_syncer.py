import threading

import pytest

from service.errors import StreamError
from service.streams.syncer import Syncer


def test_notices_within_the_window_share_a_sync() -> None:
    done = threading.Semaphore(0)
    syncer = Syncer(done.release, window_seconds=0.05)
    for _ in range(100):
        syncer.notice()
    assert done.acquire(timeout=30)
    syncer.close()
    assert not done.acquire(blocking=False)


def test_a_notice_during_a_sync_is_covered_by_the_next() -> None:
    started, go_on, synced = threading.Event(), threading.Event(), threading.Semaphore(0)

    def sync() -> None:
        started.set()
        assert go_on.wait(30)
        synced.release()

    syncer = Syncer(sync, window_seconds=0)
    syncer.notice()
    assert started.wait(30)
    syncer.notice()
    go_on.set()
    assert synced.acquire(timeout=30)
    assert synced.acquire(timeout=30)
    syncer.close()


def test_closing_does_not_wait_for_the_window() -> None:
    for _ in range(200):  # a close and the thread's start or end race with each other
        syncer = Syncer(lambda: None, window_seconds=3600)
        syncer.notice()
        syncer.close()


def test_a_failed_sync_is_not_forgotten() -> None:
    tried = threading.Event()

    def fail() -> None:
        tried.set()
        raise OSError("input/output error")

    syncer = Syncer(fail, window_seconds=0)
    syncer.check()
    syncer.notice()
    assert tried.wait(30)
    syncer.close()
    for again in (syncer.check, syncer.flush):
        with pytest.raises(StreamError, match="input/output error"):
            again()
