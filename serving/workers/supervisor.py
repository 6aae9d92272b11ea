"""The engine's process of a server with several: starts workers, again where one ends, stops all.

It is the parent, so that whoever started the server watches the process that cannot be replaced:
when it dies the workers see the end of their sockets, refuse what was under way, and leave.
"""

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process

import msgspec
import uvicorn
import uvloop

from service.commands.processes import environment
from service.logs import SALT
from service.settings import Settings
from serving.core import Core
from serving.http import FINISH_SECONDS
from serving.limits import LimitSettings, Spent
from serving.workers import figures
from serving.workers.desk import Desk, Method
from serving.workers.orders import Orders, Told

log = logging.getLogger("serving.workers")

FIRST_SECONDS, LONGEST_SECONDS = 0.1, 10.0
"""How long the place of a worker that ended stays empty: twice as long each time, unless it lived
for as long as the longest."""
COUNT_SECONDS = 1.0
"""How long workers may take to say what they have counted; then what they said last counts."""
KILL_SECONDS = 5.0
"""How long after the last request may take a worker may still be there at the end."""


class Supervisor:
    """Runs the core and its workers, as many as `serving.http_workers` says."""

    def __init__(self, core: Core, told: Told) -> None:
        """The core is closed at the end, and its stream."""
        self._core, self._told, self._settings = core, told, core.settings
        limits = Settings(told.settings).section("limits", LimitSettings)
        self._spent = Spent.file(limits)
        # Users must appear under one hash, whichever worker writes the line.
        self._environment = {SALT: secrets.token_hex(32), **environment()}
        self._methods: dict[str, Method] = {
            "require_ready": core.require_ready,
            "versions": core.versions,
            "activate": core.activate,
            "unpin": core.unpin,
            "exposition": self.exposition,
        }
        self._workers: dict[Process, Desk] = {}
        self._ended = figures.Sum()
        """What workers had counted that are gone."""
        self._draining = asyncio.Event()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        config = uvicorn.Config("", self._told.host, self._told.port, log_config=None)
        self._listener = config.bind_socket()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._run())

    async def exposition(self) -> bytes:
        """The metrics of all processes as text."""
        desks = list(self._workers.values())
        counts = [asyncio.ensure_future(desk.count()) for desk in desks]
        if counts:
            await asyncio.wait(counts, timeout=COUNT_SECONDS)
        self._core.measure()
        whole = figures.Sum()
        whole.add(figures.families(self._core.metrics.registry))
        whole.add(self._ended.families())
        for desk in desks:
            whole.add(desk.counted)
        return whole.text()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        await self._core.start()
        try:
            await asyncio.gather(*(self._keep() for _ in range(self._settings.http_workers)))
        finally:
            self._core.close()
            self._core.stream.close()

    async def _keep(self) -> None:
        """Keep one worker running until the end."""
        wait_seconds = FIRST_SECONDS
        while not self._draining.is_set():
            began = time.monotonic()
            how = await self._lived()
            if self._draining.is_set():
                return
            if time.monotonic() - began > LONGEST_SECONDS:
                wait_seconds = FIRST_SECONDS
            log.error("a worker %s; another starts in %g s", how, wait_seconds)
            self._core.metrics.worker_restarts_total.inc()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), wait_seconds)
            wait_seconds = min(2 * wait_seconds, LONGEST_SECONDS)

    async def _lived(self) -> str:
        """One worker from its start to its end; how that was."""
        try:
            return f"ended with status {await self._work()}"
        except OSError as error:
            return f"could not be started: {error}"

    async def _work(self) -> int:
        """One worker from its start to its end; its exit status, negative for a signal."""
        ours, theirs = socket.socketpair()
        desk = Desk(self._core, self._methods)
        await asyncio.get_running_loop().create_unix_connection(lambda: desk, sock=ours)
        with theirs:
            if self._draining.is_set():  # meanwhile, and the listener is closed
                return 0
            orders = Orders(self._told, theirs.fileno(), self._listener.fileno(), self._spent)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "serving.workers",
                stdin=PIPE, env=self._environment,
                pass_fds=(orders.link, orders.listener, orders.spent),
            )  # fmt: skip
        self._set(process, desk)
        await process.communicate(msgspec.json.encode(orders))
        await desk.gone.wait()
        self._unset(process)
        return process.returncode or 0

    def _set(self, process: Process, desk: Desk) -> None:
        self._workers[process] = desk
        self._core.metrics.workers.set(len(self._workers))
        log.info("worker started", extra={"fields": {"pid": process.pid}})
        if self._draining.is_set():
            _signal(process, signal.SIGTERM)

    def _unset(self, process: Process) -> None:
        desk = self._workers.pop(process)
        self._ended.add(family for family in desk.counted if family.grows)
        self._core.metrics.workers.set(len(self._workers))

    def _drain(self) -> None:
        """Every worker says "not ready" from now on, finishes what runs, and ends."""
        if self._draining.is_set():
            return
        self._draining.set()
        self._core.drain()
        self._listener.close()
        for process in self._workers:
            _signal(process, signal.SIGTERM)
        seconds = self._settings.drain_seconds + FINISH_SECONDS + KILL_SECONDS
        asyncio.get_running_loop().call_later(seconds, self._kill)

    def _kill(self) -> None:
        for process in self._workers:
            log.error("worker %d does not end: it is killed", process.pid)
            _signal(process, signal.SIGKILL)


def _signal(process: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
