"""Eight processes create the same manifests at the same time.

python race.py URL ROUNDS prints, as JSON, which of them succeeded in each round. Run by test_s3.py;
no test itself.
"""

import json
import multiprocessing
import sys
from multiprocessing.connection import Connection
from typing import Any

from service.versions.manifest import manifest_name
from service.versions.storage import open_storage

RACERS = 8


def race(url: str, rounds: int, racer: int, start: Any, out: Connection) -> None:
    """One racer: its wins, sent as a list of rounds."""
    storage, won = open_storage(url, lambda step: None), []
    for number in range(1, rounds + 1):
        start.wait()
        try:
            storage.create(manifest_name(number), b"%d" % racer, f"data/{racer}/{number}")
            won.append(number)
        except FileExistsError:
            pass
    out.send(won)


def main(url: str, rounds: int) -> None:
    """Start them all and gather what they won."""
    context = multiprocessing.get_context("fork")
    start, racers = context.Barrier(RACERS), []
    for racer in range(RACERS):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=race, args=(url, rounds, racer, start, theirs))
        process.start()
        racers.append((process, ours))
    winners: dict[int, list[int]] = {number: [] for number in range(1, rounds + 1)}
    for racer, (process, ours) in enumerate(racers):
        for number in ours.recv():
            winners[number].append(racer)
        process.join()
    print(json.dumps(list(winners.values())))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
