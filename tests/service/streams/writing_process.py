"""Writers that are meant to be killed: python writing_process.py DIRECTORY.

For every line "NAME SEED" on standard input it forks a writer, prints its process id, and prints
"dead" once the writer was killed. The writer appends batches of random size to DIRECTORY/log.
Every record carries its writer, batch, place in the batch, and the size of the batch; after each
append the batch's number, first offset and size go to DIRECTORY/NAME.acknowledged.
"""

import os
import random
import sys
from pathlib import Path

from service.streams import LocalStream, LocalStreamSettings

PADDING = [b"x" * size for size in (0, 500, 5000)]


def write(directory: Path, name: str, seed: int) -> None:
    dice = random.Random(seed)
    stream = LocalStream(directory / "log", LocalStreamSettings(segment_bytes=2**21, sync_ms=1))
    answers = os.open(directory / f"{name}.acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    batch, server = 0, os.getppid()
    while os.getppid() == server:  # never outlive a test that failed
        count, padding = dice.choice([1, 100, 300]), dice.choice(PADDING)
        start = b'["%s",%d,%d,' % (name.encode(), batch, count)
        payloads = [start + b'%d,"%s"]' % (place, padding) for place in range(count)]
        offset = stream.append("actions", 0, payloads)
        os.write(answers, b"%d %d %d\n" % (batch, offset, count))
        batch += 1


def main(directory: str) -> None:
    for line in sys.stdin:
        name, seed = line.split()
        writer = os.fork()
        if writer == 0:
            write(Path(directory), name, int(seed))
        print(writer, flush=True)
        os.waitpid(writer, 0)
        print("dead", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
