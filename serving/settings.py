"""The `[serving]` section of the settings file."""

from typing import Literal

from pydantic import Field

from service.model.settings import Dense
from service.settings import Section


class ServingSettings(Section):
    """How one server takes requests in and follows versions and actions."""

    http_workers: int = Field(0, ge=0, le=64)
    """Processes that take requests in beside the one that answers them; 0 or 1: one process does
    both."""
    body_limit_bytes: int = Field(4 * 2**20, ge=1024)
    """Longest request body; a longer one is answered with 413."""
    queue_limit: int = Field(256, ge=1)
    """Requests that may wait for the engine; one more is answered with 429."""
    deadline_seconds: float = Field(2.0, gt=0)
    """Longest wait of a request for the engine: one that would wait longer is answered with 429."""
    reading_bytes: int = Field(512 * 2**20, ge=0)
    """Memory for histories that the model has read, so that the next request of their users need
    not read them again; 256 events take 0.26 MiB at width 64 and 2 layers."""
    dense: Dense = "auto"
    """Precision of the layers' matrix products: fp32, bf16, int8, or auto, the one that measures
    fastest on this machine when the first version is loaded, of those that are exact enough."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model computes; on a GPU from a copy of the items' rows there."""
    poll_seconds: float = Field(0.2, gt=0)
    """How often the version directory is looked at."""
    history_poll_seconds: float = Field(0.01, gt=0)
    """How often the stream is looked at for actions that other processes appended."""
    history_records: int = Field(2048, ge=1)
    """Most stream records applied to the histories between two requests."""
    item_filters: tuple[str, ...] = ()
    """Features of items that recommendations can be filtered by; 16 bytes an item each."""
    threads: int = Field(2, ge=1)
    """Threads that one request's work is dealt to: candidates of a ranking (in float32), and rows
    of a search of all items."""
    pages_bytes: int = Field(16 * 2**20, ge=0)
    """Memory for what the pages of recommendations held, so that none repeats an item: a page of 10
    takes 0.8 KB."""
    pages_seconds: float = Field(600.0, gt=0)
    """How long that is kept after the last page of a request."""
    exploration: float = Field(0.0, ge=0, le=1)
    """How far scores are drawn from what they might be, in standard deviations, where a request
    does not say; 0: not at all."""
    log_impressions: bool = True
    """Whether what was returned is logged as shown, in topic `impressions`."""
    impressions_queue: int = Field(4096, ge=1)
    """Impressions that may wait to be logged; one more is dropped and counted."""
    keys: str | None = None
    """The key file, from the data folder on; without one everybody may do everything."""
    allow_open: bool = False
    """Whether a server without keys may listen where other machines reach it."""
    open_metrics: bool = True
    """Whether `/metrics` answers without a key; else it needs scope read."""
    connections: int = Field(512, ge=1)
    """Connections that are served; requests on further ones are answered with 503."""
    keep_alive_seconds: int = Field(75, ge=1)
    """How long an idle connection is kept: longer than a balancer keeps its own (mostly 60 s)."""
    head_bytes: int = Field(32_768, ge=1024)
    """Longest head of a request (path and headers); a longer one is answered with 431."""
    head_seconds: float = Field(10.0, gt=0)
    """Longest time that a head may take to arrive; then the answer is 408."""
    body_seconds: float = Field(10.0, gt=0)
    """Longest time that a request body may take to arrive; then the answer is 408."""
    drain_seconds: float = Field(0.5, ge=0)
    """Time between "not ready" and the last request taken, so that balancers notice."""
