"""`python -m serving.workers`: one HTTP worker, started by the engine's process alone."""

import gc
import socket
import sys
from pathlib import Path

import msgspec

from service.logs import log_uncaught, start_logging
from service.metrics import ServingMetrics
from service.settings import Settings
from service.streams import open_stream
from serving.http import Http
from serving.limits import LimitSettings, Spent
from serving.server import Server
from serving.workers import figures
from serving.workers.figures import Family
from serving.workers.orders import Orders
from serving.workers.remote import RemoteCore


def main() -> int:
    """Take requests in until SIGTERM, SIGINT or the end of the engine. Returns 0, or 1 for that."""
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=Orders)
    told = orders.told
    start_logging(told.log_level, told.log_format)
    data, settings, metrics = Path(told.data), Settings(told.settings), ServingMetrics()

    def counted() -> list[Family]:
        server.measure()
        return figures.of_worker(metrics.registry)

    core = RemoteCore(socket.socket(fileno=orders.link), counted, lambda: http.stop())
    spent = Spent.shared(orders.spent, settings.section("limits", LimitSettings))
    server = Server(data, settings, core, open_stream(settings, data), metrics, spent)
    http = Http(server, told.host, told.port)
    gc.freeze()
    http.run(sockets=[socket.socket(fileno=orders.listener)])
    return int(core.lost)


if __name__ == "__main__":
    log_uncaught()
    sys.exit(main())
