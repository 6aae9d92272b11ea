"""A writer that is meant to be killed: python writing_process.py LOG ACKNOWLEDGED NAME SEED.

Appends batches of random size until it dies. Every record carries its writer, batch, and place in
the batch; after each append the batch number and its first offset go to the file ACKNOWLEDGED.
"""

import os
import random
import sys
from pathlib import Path

import msgspec

from service.streams import LocalStream, LocalStreamSettings


def main(log: str, acknowledged: str, name: str, seed: str) -> None:
    dice = random.Random(int(seed))
    stream = LocalStream(Path(log), LocalStreamSettings(segment_bytes=500_000, sync_ms=1))
    answers = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    batch = 0
    while True:
        count = dice.choice([1, 2, 50, 400])
        payloads = [
            msgspec.json.encode([name, batch, place, count, "x" * dice.choice([0, 60, 2000])])
            for place in range(count)
        ]
        offset = stream.append("actions", 0, payloads)
        os.write(answers, b"%d %d %d\n" % (batch, offset, count))
        batch += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
