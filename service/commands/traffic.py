"""Plays the world of `feed` against a Freshet over HTTP alone: what `freshet feed` does.

Users act, some are shown lists and click in them, at steady rates. A server that is away costs the
feed what users would not have waited for, and nothing else: batches that were not taken are sent
again with the same action ids, so each action counts once.
"""

import contextlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import httpx
import typer

from service.client import Client, RequestError
from service.client.records import PostedAction
from service.commands.feed import World, WorldSettings
from service.logs import start_logging

log = logging.getLogger("feed")

TICK_SECONDS = 0.1
BATCH = 20
"""Most actions of one body."""
LIST_LENGTH = 10
TELL_SECONDS = 10.0
RETRY_SECONDS = 1.0
REFUSED = (400, 401, 403, 404, 405, 413, 415, 422)
"""Statuses that asking again does not change: the feed ends with them."""

T = TypeVar("T")


class Traffic:
    """A feed at two rates; counts what it did."""

    def __init__(
        self, world: World, client: Client, actions_per_second: float, lists_per_second: float
    ) -> None:
        self.counts = dict.fromkeys(("actions", "lists", "clicks", "retries", "missed"), 0)
        self._world, self._client = world, client
        self._rates = {"actions": actions_per_second, "lists": lists_per_second}
        self._due = dict.fromkeys(self._rates, 0.0)
        self._run_id, self._numbered = secrets.token_hex(4), 0

    def run(self, stop: threading.Event) -> None:
        """Act until `stop` is set. Raises RequestError when a server refuses for good."""
        last = told = time.monotonic()
        while not stop.wait(TICK_SECONDS):
            now = time.monotonic()
            self._earn(now - last)
            last = now
            while self._due["actions"] >= 1.0 and not stop.is_set():
                self._act(min(BATCH, int(self._due["actions"])), stop)
            while self._due["lists"] >= 1.0 and not stop.is_set():
                self._visit(stop)
            if now - told >= TELL_SECONDS:
                log.info("feed", extra={"fields": dict(self.counts)})
                told = now

    def _earn(self, seconds: float) -> None:
        """What has become due; of a second that passed while nobody answered, nothing is made up
        for: users do not wait."""
        for what, rate in self._rates.items():
            due = self._due[what] + rate * seconds
            most = max(1.0, rate)
            self.counts["missed"] += max(0, int(due - most))
            self._due[what] = min(due, most)

    def _act(self, count: int, stop: threading.Event) -> None:
        self._due["actions"] -= count
        drawn = self._world.draw(count)
        if self._send([self._action(user, item) for user, item in drawn], stop):
            self.counts["actions"] += count

    def _visit(self, stop: threading.Event) -> None:
        """Show a list; the visitor clicks something in it or goes on by themselves."""
        self._due["lists"] -= 1
        user = self._world.visitor()
        answer = self._patiently(lambda: self._client.recommend(user, LIST_LENGTH), stop, once=True)
        if answer is None:
            return
        shown, request = [scored["item"] for scored in answer["items"]], answer["request_id"]
        self.counts["lists"] += 1
        clicked = self._world.click(user, [str(item) for item in shown])
        self.counts["clicks"] += clicked is not None
        action = self._action(user, clicked or self._world.act(user))
        self._send([action if clicked is None else {**action, "request": request}], stop)

    def _action(self, user: str, item: str) -> PostedAction:
        self._numbered += 1
        name = f"{self._run_id}-{self._numbered}"
        return {"user": user, "item": item, "action": "click", "at": time.time(), "id": name}

    def _send(self, actions: list[PostedAction], stop: threading.Event) -> bool:
        return self._patiently(lambda: self._client.act(actions), stop) is not None

    def _patiently(
        self, ask: Callable[[], T], stop: threading.Event, once: bool = False
    ) -> T | None:
        """Ask until there is an answer, or `once`; None without one."""
        while not stop.is_set():
            try:
                return ask()
            except (RequestError, httpx.TransportError) as error:
                if isinstance(error, RequestError) and error.status in REFUSED:
                    raise
                if once:
                    return None
                self.counts["retries"] += 1
                log.warning("the server does not take it, and is asked again: %s", error)
            stop.wait(RETRY_SECONDS)
        return None


def feed(
    url: Annotated[str, typer.Option(help="A server, or the balancer before several.")],
    actions_per_second: Annotated[float, typer.Option(min=0.1, help="Actions posted.")] = 200.0,
    lists_per_second: Annotated[float, typer.Option(min=0.0, help="Lists shown.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Seed of the simulated world.")] = 0,
) -> None:
    """Play a simulated product against a running Freshet, over HTTP alone, until Ctrl-C or SIGTERM.

    A key with scopes read and write comes from FRESHET_API_KEY.
    """
    start_logging()
    world = World(WorldSettings(seed=seed))
    with Client(url, patience_seconds=0.0) as client:  # it counts what is not taken at once
        traffic = Traffic(world, client, actions_per_second, lists_per_second)
        with contextlib.suppress(KeyboardInterrupt):  # its normal end
            traffic.run(threading.Event())
    print(json.dumps(traffic.counts))
