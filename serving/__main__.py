"""`python -m serving`: one server on an embedded data folder; `serving.http_workers` says in how
many processes."""

import argparse
import gc
import logging
import os
import sys
from pathlib import Path

import torch

from service.errors import FreshetError
from service.logs import add_log_options, log_uncaught, start_logging
from service.secrets import read_secret_files
from service.settings import Settings
from serving.guard import require_keys
from serving.http import Http
from serving.whole import whole_server
from serving.workers.orders import Told
from serving.workers.supervisor import Supervisor

log = logging.getLogger("serving")

SWITCH_SECONDS = 0.0005
"""Longest wait for the interpreter's lock while another thread computes."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0 after a clean stop, 2 for input that is wrong."""
    options = _parser().parse_args(arguments)
    # One OpenMP thread: requests queue behind the engine anyway, and a second one spins on the
    # cores of the trainer beside it.
    torch.set_num_threads(1)
    # A ranking takes the interpreter's lock hundreds of times, once per operation: with the default
    # of 5 ms it takes seven times as long while another thread decodes a new version, with this
    # twice.
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        read_secret_files(os.environ)
        start_logging(options.log_level, options.log_format)
        settings = Settings.load(options.settings)
        core, server = whole_server(options.data, settings)
        require_keys(
            options.host, server.guard.keyed, options.allow_open or server.settings.allow_open
        )
    except FreshetError as error:
        log.error("%s", error)
        return 2
    # What is loaded now lives as long as the process: the collector need not walk it.
    gc.freeze()
    if server.settings.http_workers > 1:
        told = Told(
            str(options.data), settings.to_dict(), options.host, options.port,
            options.log_level, options.log_format,
        )  # fmt: skip
        Supervisor(core, told).run()
    else:
        Http(server, options.host, options.port).run()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of stream and versions")
    parser.add_argument("--settings", type=Path, help="TOML file; defaults without it")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--allow-open", action="store_true", help="listen beyond this machine without keys"
    )
    add_log_options(parser)
    return parser


if __name__ == "__main__":
    log_uncaught()
    sys.exit(main())
