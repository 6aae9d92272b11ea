"""`freshet replay`: a file of past actions becomes the stream, and the trainer learns from it."""

import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from service.commands.action_table import ActionTable
from service.commands.folder import DataFolder
from service.commands.processes import Child, ProcessError, free_port
from service.commands.report import Report, Work
from service.commands.settings_file import overlay
from service.commands.view import ReplayView
from service.errors import InputError, StreamError
from service.items import Item, item_key
from service.settings import Settings
from service.streams import Stream, open_stream
from service.streams.kafka.settings import kafka_settings

TOPIC, ITEMS = "actions", "items"
CORES = len(os.sched_getaffinity(0))
BATCH = 10_000
LOOK_SECONDS = 0.5
READ_SECONDS = 30.0
DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SPEED = re.compile(r"(\d+(?:\.\d+)?)x?")


def seconds_of(text: str) -> float:
    """A duration like 90s, 10m, 1h or 2d in seconds."""
    match = DURATION.fullmatch(text)
    if not match:
        raise InputError(f"duration {text!r} cannot be read; write it like 30s, 10m, 1h or 2d")
    return float(match[1]) * UNIT_SECONDS[match[2]]


def speed_of(text: str) -> float:
    """Event seconds per second: 60 for `60x`, infinity for `max`."""
    match = SPEED.fullmatch(text)
    if text != "max" and not (match and float(match[1])):
        raise InputError(f"speed {text!r} cannot be read; write max, or like 60x")
    return float(match[1]) if match else math.inf


def replay_settings(
    base: Path | None, types: list[str], publish_every: str, items: bool = False
) -> dict[str, Any]:
    """The settings of a replay: what the action file implies, and a file of items, under what the
    file `base` says."""
    given = Settings.load(base)
    implied = {
        "stream": {"partitions": 1},
        "actions": {"types": {name: {"positive": True, "weight": 1.0} for name in types}},
        # Nothing else is to be waited for: a file holds no impressions.
        "intake": {"topics": ["actions", "items"] if items else ["actions"]},
        "trainer": {
            "publish_clock": "event",
            "publish_seconds": seconds_of(publish_every),
            "threads": CORES,
        },
        # A file of the past is no flood, and in many one user makes half a block.
        "gate": {"user_share": 1.0},
    }
    sections = overlay(implied, given.to_dict())
    if kafka_settings(given) is not None:
        # A file is one sequence, and its times are those of the past.
        sections = overlay(sections, {"kafka": {"partitions": 1, "timestamps": "producer"}})
    return sections


class Replay:
    """One table of actions on its way through the stream into the trainer, and what is known of
    its items before them."""

    def __init__(
        self, table: ActionTable, folder: DataFolder, view: ReplayView, items: Sequence[Item] = ()
    ) -> None:
        self._table, self._folder, self._view, self._items = table, folder, view, items
        self._looked = 0.0

    def run(self, speed: float) -> Report:
        """Append what the stream does not hold yet, train everything, publish, report.

        1. start the trainer; 2. append in event-time order, with event time as append time;
        3. make it durable; 4. mark the end; 5. wait until the trainer has trained everything,
        published and ended. Killed at any point, the same replay with `resume` goes on.
        """
        started, trained_before = time.monotonic(), self._folder.trained_records
        self._view.expect(len(self._table))
        settings = Settings.load(self._folder.settings)
        with closing(open_stream(settings, self._folder.root)) as stream:
            done = self._held(stream)
            self._describe(stream)
            self._folder.end.parent.mkdir(parents=True, exist_ok=True)
            self._folder.end.unlink(missing_ok=True)
            with self._folder.trainer(free_port(), "--until-end") as trainer:
                for stop in self._due(done, speed):
                    self._append(stream, done, stop)
                    done = stop
                    self._look(trainer, done)
                stream.sync()
                self._folder.end.touch()
                while trainer.running:
                    self._look(trainer, done)
                    time.sleep(LOOK_SECONDS / 2)
        if self._folder.trained_records < done:
            raise ProcessError("the trainer was stopped from outside; go on with --resume")
        resident = int(trainer.readings.get("process_resident_memory_bytes"))
        work = Work(time.monotonic() - started, trained_before, resident)
        return Report.of(self._table, work, self._folder)

    def _held(self, stream: Stream) -> int:
        """How many rows of the table the stream holds. Raises InputError if they are others."""
        if stream.partitions(TOPIC) != 1:
            raise InputError(
                f"topic {TOPIC} has {stream.partitions(TOPIC)} partitions, and a replay fills one: "
                "let it make a topic of its own (another --data, or another kafka.prefix)"
            )
        _, end = stream.bounds(TOPIC, 0)
        last = [_read(stream, end - 1)] if end else []
        if last != self._table.payloads(end - 1, end)[: len(last)] or end > len(self._table):
            raise InputError(
                f"{self._folder.root} holds {end} actions that are not the first of this file; "
                "resume with the same file and options, or choose another --data or kafka.prefix"
            )
        return end

    def _describe(self, stream: Stream) -> None:
        """Append what the stream does not hold yet of the items, as of the first action."""
        _, end = stream.bounds(ITEMS, 0) if self._items else (0, 0)
        left = self._items[end:]
        payloads = [msgspec.json.encode(item) for item in left]
        at_ms = int(self._table.at_T[0] * 1000)
        for start in range(0, len(left), BATCH):
            part = slice(start, start + BATCH)
            keys = [item_key(item.item) for item in left[part]]
            stream.append(ITEMS, 0, payloads[part], at_ms, keys)

    def _append(self, stream: Stream, start: int, stop: int) -> None:
        table = self._table
        stream.append(
            TOPIC,
            0,
            table.payloads(start, stop),
            table.append_ms(start, stop),
            table.keys(start, stop),
        )

    def _due(self, done: int, speed: float) -> Iterator[int]:
        """Where the next batch ends, whenever one is due at `speed` event seconds per second."""
        at_T = self._table.at_T
        began, first = time.monotonic(), float(at_T[min(done, len(at_T) - 1)])
        while done < len(at_T):
            now = first + (time.monotonic() - began) * speed if speed < math.inf else math.inf
            due = min(int(np.searchsorted(at_T, now, side="right")), done + BATCH)
            if due > done:
                done = due
                yield done
            else:
                time.sleep(0.02)

    def _look(self, trainer: Child, appended: int) -> None:
        """Show how far it is, at most twice a second. Raises ProcessError if the trainer failed."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._view.advance(appended, trainer.look())


def _read(stream: Stream, offset: int) -> bytes:
    """The payload of the record at an offset. Raises StreamError where it does not come."""
    deadline = time.monotonic() + READ_SECONDS
    while not (found := stream.read(TOPIC, 0, offset, 1)):
        if time.monotonic() > deadline:
            raise StreamError(f"record {offset} of {TOPIC}/0 was not read in {READ_SECONDS:.0f} s")
        time.sleep(0.01)
    return found[0].payload
