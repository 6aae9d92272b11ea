"""The queue before the log never blocks an answer; what it drops is counted."""

import threading
import time

from service.actions import Impression
from service.metrics import ServingMetrics
from service.streams.local import LocalStream
from serving.impressions import ImpressionLog


class SlowStream(LocalStream):
    """A log on a disk that does not answer until it is let go."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.let_go = threading.Event()

    def append(self, *arguments, **named) -> int:
        self.let_go.wait()
        return super().append(*arguments, **named)


def shown(number: int) -> Impression:
    return Impression(request=f"r{number}", user=number, at=1.0, items=["i1"])


def test_a_log_that_hangs_costs_impressions_and_never_an_answer(tmp_path):
    stream, metrics = SlowStream(tmp_path), ServingMetrics()
    waiting = ImpressionLog(stream, 8, metrics.impressions_dropped_total)
    waiting.start()
    started = time.monotonic()
    for number in range(100):
        waiting.offer(shown(number))
    assert time.monotonic() - started < 5
    dropped = metrics.impressions_dropped_total._value.get()
    assert 100 - 2 * 8 - 1 <= dropped <= 92
    stream.let_go.set()
    waiting.close()
    assert stream.bounds("impressions", 0)[1] == 100 - dropped
    stream.close()


def test_a_log_that_refuses_is_counted_as_dropped(tmp_path):
    stream, metrics = LocalStream(tmp_path), ServingMetrics()
    waiting = ImpressionLog(stream, 8, metrics.impressions_dropped_total)
    stream.close()
    waiting.offer(shown(1))
    waiting.start()
    waiting.close()
    assert metrics.impressions_dropped_total._value.get() == 1
