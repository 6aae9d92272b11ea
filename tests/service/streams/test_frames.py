import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import StreamError
from service.streams import frames
from service.streams.protocol import Record

payload_lists = st.lists(st.binary(max_size=300), min_size=1, max_size=40)
times = st.integers(-(2**62), 2**62)


def written(payloads: list[bytes], append_ms: int | list[int], offset: int = 0) -> bytes:
    """The bytes that an append of `payloads` at `offset` leaves in the log."""
    log = b""
    for body in frames.bodies(payloads, append_ms):
        log += body.header(offset) + body.data
        offset += body.number
    return log


def read_back(log: bytes) -> list[Record]:
    records: list[Record] = []
    at = 0
    while at < len(log):
        frame = frames.find(log, at)
        assert frame is not None
        assert frame.intact
        records += frame.records(0, frame.number)
        at += frame.size_bytes
    return records


@given(payload_lists, st.data(), st.integers(0, 2**62))
@settings(derandomize=True, max_examples=100, deadline=None)
def test_records_come_back_with_payload_time_and_offset(
    payloads: list[bytes], data: st.DataObject, offset: int
) -> None:
    count = len(payloads)
    own_times = data.draw(st.lists(times, min_size=count, max_size=count))
    found = read_back(written(payloads, own_times, offset))
    assert found == [Record(offset + i, own_times[i], payloads[i]) for i in range(count)]


@given(payload_lists, st.integers(0, 45), st.integers(0, 45))
@settings(derandomize=True, max_examples=50, deadline=None)
def test_a_part_of_a_frame_is_that_part(payloads: list[bytes], skip: int, limit: int) -> None:
    frame = frames.find(written(payloads, 5), 0)
    assert frame is not None
    assert [r.payload for r in frame.records(skip, limit)] == payloads[skip : skip + limit]


def test_every_flipped_bit_is_noticed() -> None:
    log = written([b"first", b"", b"third"], [1, 2, 3])
    for bit in range(8 * len(log)):
        damaged = bytearray(log)
        damaged[bit // 8] ^= 1 << bit % 8
        frame = frames.find(bytes(damaged), 0)
        assert frame is None or not frame.intact


def test_a_cut_frame_is_noticed() -> None:
    log = written([b"first", b"second"], 1)
    for length in range(len(log)):
        frame = frames.find(log[:length], 0)
        assert frame is None or not frame.intact


def test_one_time_for_all_is_stored_once() -> None:
    assert len(written([b"x"] * 100, [7] * 100)) == len(written([b"x"] * 100, 7))
    assert len(written([b"x"] * 100, [7] * 99 + [8])) == len(written([b"x"] * 100, 7)) + 800


@pytest.mark.parametrize("size", [0, 1, 100, 5000, frames.FRAME_BYTES])
def test_large_appends_become_frames_of_bounded_size(size: int) -> None:
    made = frames.bodies([b"x" * size] * 100, 1)
    assert sum(body.number for body in made) == 100
    assert all(len(body.data) <= frames.FRAME_BYTES or body.number == 1 for body in made)
    assert read_back(written([b"x" * size] * 100, 1)) == [
        Record(i, 1, b"x" * size) for i in range(100)
    ]


def test_a_payload_beyond_the_limit_is_refused_with_its_size() -> None:
    with pytest.raises(StreamError, match=str(frames.MAX_PAYLOAD_BYTES + 1)):
        frames.bodies([b"", bytes(frames.MAX_PAYLOAD_BYTES + 1)], 1)
