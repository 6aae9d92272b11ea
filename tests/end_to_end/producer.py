"""A process that appends a story to a stream little by little: `producer.py DATA STORY`."""

import sys
import time
from contextlib import closing
from pathlib import Path

import msgspec

from service.streams import LocalStream

AT_ONCE, PAUSE_SECONDS = 40, 0.02


def main(data: Path, story: Path) -> None:
    payloads = msgspec.msgpack.decode(story.read_bytes(), type=dict[str, list[tuple[int, bytes]]])
    with closing(LocalStream(data / "stream")) as stream:
        for first in range(0, max(map(len, payloads.values())), AT_ONCE):
            for topic, told in payloads.items():
                part = told[first : first + AT_ONCE]
                stream.append(topic, 0, [p for _, p in part], [at_ms for at_ms, _ in part])
            time.sleep(PAUSE_SECONDS)
    (data / "stream" / "END").touch()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
