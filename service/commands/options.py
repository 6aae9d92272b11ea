"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_DATA = Path("data")

Data = Annotated[Path, typer.Option("--data", help="Folder of stream, versions and logs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Url = Annotated[
    str | None,
    typer.Option("--url", help="Directory of versions, a path or fsspec url; else DIR/versions."),
]
MetricsPort = Annotated[int | None, typer.Option(help="Serve /metrics here.")]
MetricsHost = Annotated[str, typer.Option(help="Address for /metrics.")]


def metrics_at(host: str, port: int | None) -> list[str]:
    """The options of a process that is to serve its metrics there; none without a port."""
    return [] if port is None else ["--metrics-host", host, "--metrics-port", str(port)]
