"""One topic on disk: its identity, fixed when it is made, and its partitions."""

import os
import re
import threading
import uuid
from pathlib import Path

import msgspec

from service.errors import StreamError
from service.streams.files import fsync
from service.streams.partition import Partition

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class TopicFile(msgspec.Struct, frozen=True, kw_only=True):
    """What `topic.json` says, for good: a user's partition and where segments end hang on it."""

    format: int = 1
    id: str
    partitions: int
    segment_bytes: int


class Topic:
    """A directory with `topic.json` and one directory per partition, opened when first used."""

    def __init__(self, root: Path, name: str, partitions: int, segment_bytes: int) -> None:
        """Open the topic, or make it with these settings. Raises StreamError if they disagree."""
        if not _NAME.fullmatch(name):
            raise StreamError(
                f"topic name {name!r} is not of 1 to 200 letters, digits, '.', '_', '-' "
                "(no '.' in front)"
            )
        self._directory = directory = root / name
        self._lock = threading.Lock()
        self._opened: dict[int, Partition] = {}
        self.file = _read(directory) or _create(directory, partitions, segment_bytes)
        if self.file.partitions != partitions:
            raise StreamError(
                f"topic {directory} was made with {self.file.partitions} partitions, the setting "
                f"says {partitions}: set partitions = {self.file.partitions}, or use another folder"
            )

    def partition(self, number: int) -> Partition:
        """One partition. Raises StreamError for a number the topic does not have."""
        opened = self._opened.get(number)
        if opened is not None:
            return opened
        if not 0 <= number < self.file.partitions:
            raise StreamError(
                f"topic {self._directory} has partitions 0 to {self.file.partitions - 1}, "
                f"not {number}"
            )
        with self._lock:
            if number not in self._opened:
                directory = self._directory / str(number)
                self._opened[number] = Partition(directory, self.file.segment_bytes)
            return self._opened[number]

    def opened(self) -> list[Partition]:
        """The partitions in use so far."""
        with self._lock:
            return list(self._opened.values())


def _read(directory: Path) -> TopicFile | None:
    path = directory / "topic.json"
    try:
        file = msgspec.json.decode(path.read_bytes(), type=TopicFile)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StreamError(f"{path} is damaged: {error}; restore it") from None
    if file.format != 1:
        raise StreamError(f"{path} has format {file.format}, this release reads 1; update Freshet")
    return file


def _create(directory: Path, partitions: int, segment_bytes: int) -> TopicFile:
    """Write `topic.json` whole and only if there is none; return the one that is there."""
    directory.mkdir(parents=True, exist_ok=True)
    identity = uuid.uuid4().hex
    made = TopicFile(id=identity, partitions=partitions, segment_bytes=segment_bytes)
    draft = directory / f"topic.{identity}.tmp"
    draft.write_bytes(msgspec.json.encode(made) + b"\n")
    fsync(draft)
    try:
        os.link(draft, directory / "topic.json")
    except FileExistsError:
        pass  # another process was first: its file counts
    finally:
        draft.unlink()
    fsync(directory)
    fsync(directory.parent)
    there = _read(directory)
    assert there is not None
    return there
