"""What travels between worker and engine arrives as it was."""

import dataclasses
from http import HTTPStatus

import numpy as np
import pytest

from serving.problems import Problem
from serving.questions import Explained, Rank, Ranking, Recommend, Version, Wanted
from serving.workers import frames

KEYS = np.array([3, -(2**63), 2**63 - 1, 0], np.int64)
RANK = Rank(-5, ["i1", 7, "é" * 60, ""], KEYS, 1_732_096_900_123, 2, True)
RECOMMEND = Recommend(
    2**63 - 1, 7, False, KEYS, 1_732_096_900_123,
    Wanted(["news"], ["sport"], {"language": "en", "size": 3, "share": 0.5, "new": True}),
    True, "r-1", 4, 0.25,
)  # fmt: skip
RANKING = Ranking(
    Version(41, 1732.125), 12, [2, 0], [1.5, -0.1], [0.1, 1e-17], {"click": [0.25, 0.5]}, 3,
    Explained({"version": 41, "reading": "hit"}, [{"logits": {"click": 0.5}, "events": None}, {}]),
)  # fmt: skip


class End(frames.Frames):
    """One end that keeps what comes."""

    def __init__(self, kinds) -> None:
        super().__init__(kinds)
        self.frames = []

    def received(self, frame) -> None:
        self.frames.append(frame)

    def ended(self) -> None:
        pass


def arrived(kinds, *sent, pieces=10**9):
    """What comes of frames that arrive in pieces of so many bytes."""
    end, data = End(kinds), b"".join(map(frames.framed, sent))
    for start in range(0, len(data), pieces):
        end.data_received(data[start : start + pieces])
    return end.frames


def same(one, other) -> bool:
    """Whether two questions say the same, arrays included."""
    pairs = [(getattr(one, field.name), getattr(other, field.name))
             for field in dataclasses.fields(one)]  # fmt: skip
    return type(one) is type(other) and all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs
    )


@pytest.mark.parametrize("pieces", [1, 7, 10**9])
def test_questions_arrive_as_they_were(pieces):
    sent = [frames.asks(1, 0.5, RANK), frames.asks(2, 0.75, RECOMMEND), frames.Cancels(1),
            frames.Calls(3, "activate", (41,)), frames.Appended("items")]  # fmt: skip
    rank, recommend, *others = arrived(frames.ToEngine, *sent, pieces=pieces)
    assert (rank.id, rank.since, recommend.id) == (1, 0.5, 2)
    assert same(frames.question_of(recommend), RECOMMEND)
    found = frames.question_of(rank)
    assert list(found.items) == [0, 1, 2, 3]
    assert same(dataclasses.replace(found, items=RANK.items), RANK)
    assert others == sent[2:]


def test_keys_that_arrived_can_be_written_to_as_tensors_are():
    [rank] = arrived(frames.ToEngine, frames.asks(1, 0.5, RANK))
    assert frames.question_of(rank).key_C.flags.writeable


@pytest.mark.parametrize("pieces", [3, 10**9])
def test_answers_arrive_as_they_were(pieces):
    refused = Problem("overloaded", HTTPStatus.TOO_MANY_REQUESTS, "7", "n", {"Retry-After": "2"})
    sent = [
        frames.Ranked(1, RANKING),
        frames.refusal(2, refused),
        frames.Returned(3, {"a": [1, None]}),
        frames.Returned(4, b"text"),
        frames.Failed(5, "KeyError(1)"),
        frames.Count(),
    ]
    assert arrived(frames.ToWorker, *sent, pieces=pieces) == sent


def test_an_answer_has_the_names_that_the_candidates_had():
    found = frames.ranking_of(frames.Ranked(1, RANKING), RANK)
    assert found == dataclasses.replace(RANKING, items=["é" * 60, "i1"])
    recommended = dataclasses.replace(RANKING, items=["i7", 3])
    assert frames.ranking_of(frames.Ranked(1, recommended), RECOMMEND) is recommended


def test_a_frame_that_is_too_long_is_a_fault():
    with pytest.raises(ValueError, match="a frame of"):
        End(frames.ToWorker).data_received(frames.LENGTH.pack(frames.LONGEST_BYTES + 1))
