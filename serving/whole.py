"""A server in one process: what takes requests in, and what answers them."""

from pathlib import Path

from service.metrics import ServingMetrics
from service.settings import Settings
from service.streams import open_stream
from serving.core import Core
from serving.server import Server


def whole_server(data: Path, settings: Settings) -> tuple[Core, Server]:
    """On the data folder of stream and versions, both of which may be empty. Whoever serves closes
    the stream."""
    stream, metrics = open_stream(settings, data), ServingMetrics()
    core = Core(data, settings, stream, metrics)
    return core, Server(data, settings, core, stream, metrics)
