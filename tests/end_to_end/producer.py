"""A process that appends a story to a stream little by little, and then says that it was all."""

import argparse
import time
from contextlib import closing
from pathlib import Path

import msgspec

from service.settings import Settings
from service.streams import open_stream

AT_ONCE, PAUSE_SECONDS = 40, 0.02


def main() -> None:
    """`producer.py --data DIR --story FILE --settings FILE`."""
    parser = argparse.ArgumentParser()
    for name in ("--data", "--story", "--settings"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    story, data = options.story.read_bytes(), options.data
    payloads = msgspec.msgpack.decode(story, type=dict[str, list[tuple[int, bytes]]])
    with closing(open_stream(Settings.load(options.settings), data)) as stream:
        for first in range(0, max(map(len, payloads.values())), AT_ONCE):
            for topic, told in payloads.items():
                part = told[first : first + AT_ONCE]
                stream.append(topic, 0, [p for _, p in part], [at_ms for at_ms, _ in part])
            time.sleep(PAUSE_SECONDS)
    (data / "stream").mkdir(exist_ok=True)
    (data / "stream" / "END").touch()


if __name__ == "__main__":
    main()
