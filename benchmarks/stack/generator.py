"""The load: bodies of actions, rankings, direct appends and probes, each at its own times.

    python -m benchmarks.stack.generator PLAN.json SETTINGS.toml DATA SENT.npz

Open loop: what is due is sent whatever became of what was sent before. A body that was not taken is
sent again with the same ids until it is. A process of its own, so that its costs are known apart.
"""

import asyncio
import itertools
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from random import Random

import msgspec
import uvloop

from benchmarks.stack.client import Site, Unanswered
from benchmarks.stack.plan import Plan, arrivals
from benchmarks.stack.probes import Probe, Scores
from benchmarks.stack.sent import UNANSWERED, Sent
from benchmarks.stack.visitors import Visitors
from service.actions import Action, Id, partition_of
from service.errors import StreamError
from service.settings import Settings
from service.streams import Stream, open_stream
from serving.batches import append_by_user

TICK_SECONDS = 0.05
"""Between two direct appends."""
AGAIN_SECONDS = 0.2
PROBED_ITEMS = 8

_encode = msgspec.json.Encoder().encode


class _Ranked(Scores):
    request_id: str


class _Taken(msgspec.Struct):
    accepted: int
    rejected: list[msgspec.Raw]


_ranked = msgspec.json.Decoder(_Ranked).decode
_taken = msgspec.json.Decoder(_Taken).decode


class Generator:
    """One run of a plan against servers and a stream."""

    def __init__(self, plan: Plan, stream: Stream) -> None:
        self.plan, self.sent = plan, Sent(run=plan.seed)
        self._stream = stream
        self._visitors = Visitors(plan, self.sent)
        self._rng = Random(plan.seed)
        self._sites = [Site(port) for port in plan.ports]
        self._turn = itertools.cycle(range(len(self._sites)))
        self._running: set[asyncio.Task[None]] = set()
        self._over = False

    async def run(self) -> None:
        """Send everything that is due in the plan's time, and wait for the answers.

        On SIGTERM nothing more is due.
        """
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._finish)
        plan, start = self.plan, time.monotonic() + 0.2
        end = start + plan.seconds
        works = (
            (plan.bodies_per_second, self._post),
            (plan.rankings_per_second, self._rank),
            (plan.probes_per_second, self._probe),
        )
        async with asyncio.TaskGroup() as group:
            for number, (rate, work) in enumerate(works):
                due = arrivals(rate, start, end, f"{plan.seed}-{number}")
                group.create_task(self._each(due, work))
            group.create_task(self._feed(start, end))
        await asyncio.gather(*self._running)
        for site in self._sites:
            site.close()
        self.sent.cpu_seconds = time.process_time()

    def _finish(self) -> None:
        self._over = True

    async def _each(
        self, times: Iterable[float], work: Callable[[float], Coroutine[None, None, None]]
    ) -> None:
        for due in times:
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if self._over:
                return
            task = asyncio.create_task(work(due))
            self._running.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        """Keep a task that failed for the end; let go of any other."""
        if task.cancelled() or not task.exception():
            self._running.discard(task)

    async def _post(self, due: float) -> None:
        """Post a body; send it again until it is taken."""
        late = time.monotonic() - due
        actions = self._visitors.actions(self._rng.randint(1, self.plan.body))
        status = await self._taken(actions)
        self.sent.posts.append((due, time.monotonic() - due, status, late))
        while status != 202 and time.monotonic() - due < self.plan.patience_seconds:
            await asyncio.sleep(AGAIN_SECONDS)
            self.sent.again += 1
            status = await self._taken(actions)

    async def _taken(self, actions: Sequence[Action]) -> int:
        """Status of the answer to a body; what it says of the actions is kept."""
        body = b'{"actions":' + _encode(actions) + b"}"
        try:
            status, answer = await self._sites[next(self._turn)].post("/v1/actions", body)
        except Unanswered:
            return UNANSWERED
        if status == 202:
            rejected = len(_taken(answer).rejected)
            self.sent.refused += rejected
            if not rejected:
                self.sent.accept(actions)
        return status

    async def _rank(self, due: float) -> None:
        """Show somebody a list; clicks follow after a while."""
        late, user = time.monotonic() - due, self._visitors.world.visitor()
        body = self._visitors.question(user)
        status, ranked = await self._ranked(next(self._turn), body)
        self.sent.rankings.append((due, time.monotonic() - due, status, late))
        if ranked is not None:
            self._visitors.shown(user, [one.item for one in ranked.items], ranked.request_id)

    async def _ranked(self, server: int, body: bytes) -> tuple[int, _Ranked | None]:
        """Status and answer of one server; which version it was is kept."""
        try:
            status, answer = await self._sites[server].post("/v1/rank", body)
        except Unanswered:
            return UNANSWERED, None
        if status != 200:
            return status, None
        ranked = _ranked(answer)
        self.sent.ranked += 1
        self.sent.see(server, ranked.version)
        return status, ranked

    async def _probe(self, due: float) -> None:
        """Measure how soon one action changes what every server ranks."""
        late, servers = time.monotonic() - due, range(len(self._sites))
        items = [f"item-{n}" for n in self._rng.sample(range(self.plan.items), PROBED_ITEMS)]
        action = self._visitors.probe(items[0])
        probe = Probe(action.user, items, self._probed)
        await probe.unseen(servers)
        sending = time.monotonic()
        if await self._taken([action]) == 202:
            partition, end = await asyncio.to_thread(self._behind, action)
            await probe.changed(servers)
            seconds = late + time.monotonic() - sending
            self.sent.probes.append((sending - late, seconds, partition, end))

    async def _probed(
        self, server: int, user: Id, items: Sequence[str], at: float
    ) -> Scores | None:
        body = _encode({"user": user, "items": items, "at": at})
        return (await self._ranked(server, body))[1]

    def _behind(self, action: Action) -> tuple[int, int]:
        """The partition of an action in the log, and an offset behind it."""
        partition = partition_of(action.user, self._stream.partitions("actions"))
        return partition, self._stream.bounds("actions", partition)[1]

    async def _feed(self, start: float, end: float) -> None:
        """Append the direct share to the stream, at every tick what is due."""
        rate, made = self.plan.actions_per_second * self.plan.direct, 0
        for tick in itertools.count(1):
            due = start + tick * TICK_SECONDS
            if due > end or not rate or self._over:
                return
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            count = int((due - start) * rate) - made
            made += count
            await self._append(self._visitors.actions(count))

    async def _append(self, actions: Sequence[Action]) -> None:
        """Append; again, with the same ids, until the stream takes them."""
        deadline = time.monotonic() + self.plan.patience_seconds
        while time.monotonic() < deadline:
            try:
                await asyncio.to_thread(append_by_user, self._stream, "actions", actions)
            except (StreamError, OSError):
                self.sent.again += 1
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                self.sent.accept(actions)
                return


def main() -> None:
    """Run the plan and leave what was sent."""
    plan, settings, data, result = map(Path, sys.argv[1:])
    with closing(open_stream(Settings.load(settings), data)) as stream:
        generator = Generator(Plan.read(plan), stream)
        uvloop.run(generator.run())
    generator.sent.write(result)


if __name__ == "__main__":
    main()
