"""Plays the world of `feed` against a running Freshet: most actions go straight into the stream,
some users are shown lists by the server and act on what they saw."""

import threading
import time
from collections import deque
from dataclasses import dataclass

import httpx
import msgspec

from service.actions import Action, stream_key
from service.client import Client, RequestError
from service.client.answers import RankAnswer
from service.client.records import PostedAction
from service.commands.feed import World
from service.streams.protocol import Stream

TICK_SECONDS = 0.1
LIST_LENGTH = 10
SHOWN = 5
POLL_SECONDS = 0.002
PATIENCE_SECONDS = 2.0


@dataclass(frozen=True)
class Change:
    """One user's first five before and after one action, and how long the change took."""

    user: str
    before: list[str]
    action: str
    after: list[str]
    seconds: float

    @property
    def changed(self) -> bool:
        """Whether the list became another one."""
        return self.before != self.after


class Simulation:
    """A feed of `rate` actions a second on a thread of its own, and the visits it makes."""

    def __init__(self, world: World, stream: Stream, client: Client, rate: int) -> None:
        self.appended = 0
        self.visits = 0
        self.clicks = 0
        self.delays_seconds: deque[float] = deque(maxlen=500)
        self.serving = threading.Event()
        """Set it once the server answers: visits begin."""
        self._world, self._stream, self._client, self._rate = world, stream, client, rate
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Begin to act."""
        self._thread.start()

    def check(self) -> None:
        """Raise what ended the feed, if something did."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End the feed and wait for it."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def show_change(self) -> Change:
        """Show a visitor a list, let them act on something quite different, show the next list.

        The time runs from sending the action to the first answer whose items differ; without one
        it is what was waited.
        """
        with self._lock:
            user = self._world.visitor()
            item = self._world.surprise(user)
            self._world.moved(user, item)
            before = self._first(user)
            sent = time.monotonic()
            self._send(user, item)
            after = self._first(user)
            while after == before and time.monotonic() - sent < PATIENCE_SECONDS:
                time.sleep(POLL_SECONDS)
                after = self._first(user)
            return Change(user, before, item, after, round(time.monotonic() - sent, 4))

    def _run(self) -> None:
        started = time.monotonic()
        try:
            while not self._stop.wait(TICK_SECONDS):
                due = int((time.monotonic() - started) * self._rate) - self.appended
                with self._lock:
                    self._append(due)
                    if self.serving.is_set():
                        self._visit()
        except BaseException as failure:
            self._failure = failure

    def _append(self, count: int) -> None:
        now = time.time()
        drawn = self._world.draw(count)
        self._stream.append_keyed(
            "actions",
            [
                msgspec.json.encode(Action(user=user, item=item, action="click", at=now))
                for user, item in drawn
            ],
            [stream_key(user) for user, _ in drawn],
        )
        self.appended += count

    def _visit(self) -> None:
        """Show a list; the visitor clicks something in it or goes on by themselves."""
        try:
            user = self._world.visitor()
            answer = self._client.recommend(user, LIST_LENGTH, exclude_seen=False)
            shown, request = _items(answer), answer["request_id"]
            self._client.impressions([{"user": user, "items": shown, "request": request}])
            clicked = self._world.click(user, shown)
            self._act_and_measure(user, clicked, shown, request)
            self.visits += 1
            self.clicks += clicked is not None
        except (RequestError, httpx.TransportError):
            self._stop.wait(TICK_SECONDS)  # busy or restarting: the next visit finds out

    def _act_and_measure(
        self, user: str, clicked: str | None, shown: list[str], request: str
    ) -> None:
        """Send the action, then ask until the scores of the shown list are others.

        Only a change under one and the same version is the history's doing, so only that counts.
        """
        at = time.time()
        before = self._client.rank(user, shown, at=at)
        sent = time.monotonic()
        self._send(user, clicked or self._world.act(user), request if clicked else None)
        after = before
        while time.monotonic() - sent < PATIENCE_SECONDS and not self._stop.is_set():
            after = self._client.rank(user, shown, at=at)
            if after["items"] != before["items"]:
                break
            time.sleep(POLL_SECONDS)
        if after["version"] == before["version"]:
            self.delays_seconds.append(time.monotonic() - sent)

    def _send(self, user: str, item: str, request: str | None = None) -> None:
        action: PostedAction = {"user": user, "item": item, "action": "click", "at": time.time()}
        self._client.act([action if request is None else {**action, "request": request}])

    def _first(self, user: str) -> list[str]:
        return _items(self._client.recommend(user, SHOWN))


def _items(answer: RankAnswer) -> list[str]:
    return [str(scored["item"]) for scored in answer["items"]]
