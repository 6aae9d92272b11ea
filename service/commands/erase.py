"""`freshet erase`: remove what is kept of a person, and say when that is complete.

What needs torch is imported when the command runs: `freshet --help` should not wait for it.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.commands.folder import DataFolder
from service.commands.options import DEFAULT_DATA, AsJson, Data

NOT_COMPLETE = 3
"""Exit status when the decision stands, but not everyone has obeyed it within `--wait`."""


def erase(
    user: Annotated[str, typer.Option("--user", help="Id of the person.")],
    data: Data = DEFAULT_DATA,
    server: Annotated[
        list[str] | None, typer.Option("--server", help="Url of a server; repeat for each.")
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for trainer and servers.")
    ] = 30.0,
    settings: Annotated[
        Path | None, typer.Option("--settings", help="TOML file; else DIR/settings.toml.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remove a person from histories, versions and servers, for good. Exit status 3: not yet."""
    from service.commands.erasure import Erasure

    erasure = Erasure.decided(DataFolder(data), user, server or [], settings)
    print(f"decision {erasure.generation} stands; waiting for it to be obeyed", file=sys.stderr)
    report = erasure.awaited(wait)
    if as_json:
        print(report.to_json())
    else:
        report.show(Console())
    if not report.complete:
        raise typer.Exit(NOT_COMPLETE)
