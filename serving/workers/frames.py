"""What a worker and the engine say to each other: msgpack, each frame after its length.

A frame is a little-endian u32, the bytes that follow, and so many bytes: one of the structs below
as an array that begins with its tag. Both ends are processes of one program on one machine, and
the socket has no name that anybody else could open.
"""

import asyncio
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast

import msgspec
import numpy as np

from serving.problems import Problem
from serving.questions import Question, Rank, Ranking, Recommend
from serving.workers.figures import Family

LENGTH = struct.Struct("<I")
LONGEST_BYTES = 64 * 2**20
"""No frame is longer: bodies are not, and what is longer is a fault."""
AHEAD_BYTES = 4 * 2**20
"""What may wait for a slow reader before its own frames are not taken any more."""

R = TypeVar("R")


class Ranks(msgspec.Struct, frozen=True, array_like=True, tag="rank"):
    """A ranking is asked for. Candidates are named by their places, whatever they are called."""

    id: int
    since: float
    """Monotonic time at which it was asked, which is one clock for all processes."""
    question: Rank


class Recommends(msgspec.Struct, frozen=True, array_like=True, tag="recommend"):
    """A recommendation is asked for."""

    id: int
    since: float
    question: Recommend


class Calls(msgspec.Struct, frozen=True, array_like=True, tag="call"):
    """A method of `Backend` is to be called."""

    id: int
    method: str
    arguments: tuple[int, ...] = ()


class Cancels(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Nobody waits for this answer any more."""

    id: int


class Appended(msgspec.Struct, frozen=True, array_like=True, tag="appended"):
    """A topic has grown."""

    topic: str


class Counted(msgspec.Struct, frozen=True, array_like=True, tag="counted"):
    """What a worker has counted since its start."""

    families: list[Family]


class Ranked(msgspec.Struct, frozen=True, array_like=True, tag="ranked"):
    """The answer to a question."""

    id: int
    ranking: Ranking


class Returned(msgspec.Struct, frozen=True, array_like=True, tag="returned"):
    """What the method returned."""

    id: int
    value: Any


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """A Problem was raised."""

    id: int
    kind: str
    status: int
    detail: str
    field: str | None
    headers: dict[str, str]


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """Another exception was raised: a fault, which the engine's process has logged."""

    id: int
    error: str


class Count(msgspec.Struct, frozen=True, array_like=True, tag="count"):
    """Say what you have counted."""


ToEngine = Ranks | Recommends | Calls | Cancels | Appended | Counted
ToWorker = Ranked | Returned | Refused | Failed | Count


def asks(number: int, since: float, question: Question) -> Ranks | Recommends:
    """The frame of a question."""
    if isinstance(question, Rank):
        return Ranks(number, since, replace(question, items=()))
    return Recommends(number, since, question)


def question_of(frame: Ranks | Recommends) -> Question:
    """The question of a frame; candidates are called 0, 1, 2, ..."""
    if isinstance(frame, Ranks):
        return replace(frame.question, items=range(len(frame.question.key_C)))
    return frame.question


def ranking_of(frame: Ranked, question: Question) -> Ranking:
    """The ranking of a frame, with the candidates' own names."""
    if not isinstance(question, Rank):
        return frame.ranking
    names = question.items
    return replace(frame.ranking, items=[names[cast(int, c)] for c in frame.ranking.items])


def refusal(number: int, problem: Problem) -> Refused:
    """The frame of a Problem."""
    return Refused(
        number, problem.kind, problem.status, str(problem), problem.field, problem.headers
    )


def _packed(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tobytes()
    raise TypeError(f"{type(value)} does not travel")


def _unpacked(_: type, value: object) -> object:
    """The only type that msgspec does not know is an array of keys."""
    return np.frombuffer(cast(bytes, value), np.int64).copy()


_encode = msgspec.msgpack.Encoder(enc_hook=_packed).encode


def framed(frame: ToEngine | ToWorker) -> bytes:
    """The frame as it travels."""
    body = _encode(frame)
    return LENGTH.pack(len(body)) + body


class Frames(asyncio.Protocol, ABC, Generic[R]):
    """One end of the socket. Subclasses take what comes and say what happens at the end."""

    def __init__(self, kinds: object) -> None:
        """kinds: the union of the frames that come."""
        decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(kinds, dec_hook=_unpacked)
        self._decode: Callable[[bytes], R] = decoder.decode
        self._transport: asyncio.Transport | None = None
        self._bytes = bytearray()
        self.crowded = False
        """Whether the other end does not read."""

    @abstractmethod
    def received(self, frame: R) -> None:
        """A frame came."""

    @abstractmethod
    def ended(self) -> None:
        """Nothing comes or goes any more."""

    def send(self, frame: ToEngine | ToWorker) -> None:
        """Send a frame, if there is still somebody to send it to."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(framed(frame))

    def close(self) -> None:
        """End it when what was sent is out."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It begins."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(AHEAD_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end is gone, or this one closed."""
        self._transport = None
        self.ended()

    @property
    def held(self) -> bool:
        """Whether frames that came have to wait."""
        return False

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._bytes += data
        self.take()

    def take(self) -> None:
        """Hand on every frame that is complete, until they have to wait."""
        start = 0
        while not self.held and len(self._bytes) - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._bytes, start)
            if length > LONGEST_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            end = start + LENGTH.size + length
            if len(self._bytes) < end:
                break
            self.received(self._decode(bytes(self._bytes[start + LENGTH.size : end])))
            start = end
        del self._bytes[:start]

    def pause_writing(self) -> None:
        """The other end reads too slowly."""
        self.crowded = True

    def resume_writing(self) -> None:
        """It reads again."""
        self.crowded = False
