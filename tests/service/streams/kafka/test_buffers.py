"""What is read ahead, taken from the front."""

import pytest

from service.errors import OffsetError, StreamError
from service.streams import Lag, Record
from service.streams.kafka.buffers import RECORD_BYTES, Buffer
from service.streams.protocol import lag_of


def records(*offsets: int) -> list[Record]:
    return [Record(offset, 0, b"%d" % offset) for offset in offsets]


def test_records_come_out_in_order_and_no_more_than_asked_for() -> None:
    buffer = Buffer(3)
    buffer.put(records(3, 4, 9), 10, 2)
    buffer.put([], 12, -1)
    buffer.put(records(12), 13, 3)
    assert (buffer.fetch_offset, buffer.epoch) == (13, 3)
    assert buffer.take(2) == records(3, 4)
    assert buffer.next_offset == 5
    assert buffer.take(5) == records(9)
    assert buffer.take(5) == records(12)
    assert buffer.take(5) == []
    assert buffer.empty
    assert (buffer.next_offset, buffer.bytes) == (13, 0)


def test_the_size_is_that_of_what_is_held() -> None:
    buffer = Buffer(0)
    buffer.put(records(0, 1), 2, 0)
    assert buffer.bytes == 2 * (RECORD_BYTES + 1)
    buffer.seek(7)
    assert (buffer.bytes, buffer.next_offset, buffer.fetch_offset, buffer.seeks) == (0, 7, 7, 1)


@pytest.mark.parametrize(("failure", "again"), [(OffsetError("gone"), True),
                                                (StreamError("not allowed"), False)])  # fmt: skip
def test_only_an_offset_that_is_gone_stays_gone(failure: StreamError, again: bool) -> None:
    buffer = Buffer(0)
    buffer.failure = failure
    assert buffer.failure_raised() is failure
    assert (buffer.failure is failure) == again
    buffer.seek(1)
    assert buffer.failure is None


def test_the_lag_is_told_by_the_partition_nearest_to_retention() -> None:
    assert lag_of([]) == Lag(0, 1.0)
    assert lag_of([(0, 100, 100)]) == Lag(0, 1.0)
    assert lag_of([(0, 100, 75), (50, 150, 60)]) == Lag(115, 0.1)
    assert lag_of([(50, 150, 20)]) == Lag(130, 0.0)
