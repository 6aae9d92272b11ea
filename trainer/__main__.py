"""`python -m trainer --data DIR`: train from the stream in DIR, publish versions into DIR."""

import argparse
import gc
import json
import logging
import os
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path

import torch

from service.errors import FreshetError, InputError
from service.logs import add_log_options, log_uncaught, start_logging
from service.secrets import read_secret_files
from service.settings import Settings
from service.streams import open_stream
from service.versions.settings import versions_of
from trainer.build import build
from trainer.loop import Trainer
from trainer.settings import TrainerSettings

_log = logging.getLogger("trainer")

SWITCH_SECONDS = 0.0005


def main(arguments: list[str] | None = None) -> int:
    """Train until SIGTERM or SIGINT, or to the end of the stream; 0 if everything is published."""
    options = _parser().parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        read_secret_files(os.environ)
        start_logging(options.log_level, options.log_format)
        _train(options, stop)
    except FreshetError as error:
        _log.error("%s", error)
        return 1
    return 0


def _train(options: argparse.Namespace, stop: threading.Event) -> None:
    data, settings = options.data, Settings.load(options.settings)
    if not data.is_dir():
        raise InputError(f"data directory {data} does not exist; make it, or mend --data")
    with closing(open_stream(settings, data, unhurried=True)) as stream:
        versions = versions_of(settings, data)
        trainer = build(settings, stream, versions, data / "skipped", options.begin)
        # The thread that makes versions lets go of the interpreter's lock when training asks for
        # it, and not 5 ms later.
        sys.setswitchinterval(SWITCH_SECONDS)
        os.nice(settings.section("trainer", TrainerSettings).nice)
        torch.set_num_threads(1)  # the learner deals batches to threads of its own
        gc.freeze()  # what is here stays: collections need not walk through it again
        if options.metrics_port:
            trainer.metrics.serve(options.metrics_host, options.metrics_port)
        with closing(trainer.publisher):
            end = data / "stream" / "END"
            trainer.run(stop, end.exists if options.until_end else None)
        _report(trainer, data / "trainer.json")


def _report(trainer: Trainer, path: Path) -> None:
    """Leave the final counts behind, for whoever started the trainer."""
    state = trainer.teacher.state
    report = {
        **state.counters,
        "block": state.block,
        "users": len(state.histories),
        "history_events": state.histories.live_events,
        "history_bytes": state.histories.nbytes,
        "items": len(state.items),
        "item_bytes": state.item_bytes,
        "hit_rates": trainer.teacher.evaluation.hit_rates(),
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory of this Freshet")
    parser.add_argument("--settings", type=Path, help="TOML file (default: every default)")
    parser.add_argument("--metrics-port", type=int, default=0, help="serve /metrics here (0: no)")
    parser.add_argument("--metrics-host", default="127.0.0.1", help="address for /metrics")
    parser.add_argument(
        "--until-end", action="store_true", help="stop at the end of the stream (DIR/stream/END)"
    )
    parser.add_argument(
        "--from", dest="begin", metavar="earliest|TIME",
        help="where to go on if the stream no longer holds what comes next",
    )  # fmt: skip
    add_log_options(parser)
    return parser


if __name__ == "__main__":
    log_uncaught()
    sys.exit(main())
