"""`python -m service.histories`: keep the histories in Redis up to date with the stream.

One such process is enough; a second one does no harm. It needs no trainer and no server.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path

from service.errors import FreshetError
from service.histories.redis.rules import Rules
from service.histories.redis.store import HistoryStore
from service.histories.redis.writer import HistoryWriter
from service.logs import add_log_options, log_uncaught, start_logging
from service.metrics import HistoryMetrics
from service.redis.connection import connect
from service.secrets import read_secret_files
from service.settings import Settings
from service.streams import open_stream
from service.versions.settings import versions_of

_log = logging.getLogger("histories")


def main(arguments: list[str] | None = None) -> int:
    """Write until SIGTERM or SIGINT. Returns 0 after a clean stop, 1 for input that is wrong."""
    options = _parser().parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        read_secret_files(os.environ)
        start_logging(options.log_level, options.log_format)
        log_uncaught()
        _write(options, stop)
    except FreshetError as error:
        _log.error("%s", error)
        return 1
    return 0


def _write(options: argparse.Namespace, stop: threading.Event) -> None:
    settings, metrics = Settings.load(options.settings), HistoryMetrics()
    rules = Rules.of(settings)
    if options.metrics_port:
        metrics.serve(options.metrics_host, options.metrics_port)
    with (
        closing(open_stream(settings, options.data)) as stream,
        closing(connect(rules.redis)) as client,
    ):
        store = HistoryStore(client, rules.redis.prefix, rules.histories)
        HistoryWriter(stream, versions_of(settings, options.data), store, rules, metrics).run(stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.histories", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of stream and versions")
    parser.add_argument("--settings", type=Path, help="TOML file with a section [redis]")
    parser.add_argument("--metrics-port", type=int, default=0, help="serve /metrics here (0: no)")
    parser.add_argument("--metrics-host", default="127.0.0.1", help="address for /metrics")
    add_log_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
