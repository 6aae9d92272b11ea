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
