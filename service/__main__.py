"""The `freshet` command; also `python -m service`."""

import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from service.commands.action_rows import Columns
from service.commands.action_table import read_actions
from service.commands.demo import Patience, demo_folder, run_demo
from service.commands.erase import erase
from service.commands.folder import DataFolder
from service.commands.item_table import ItemColumns, read_items
from service.commands.keys import commands as keys
from service.commands.options import (
    DEFAULT_DATA,
    AsJson,
    Data,
    MetricsHost,
    MetricsPort,
    metrics_at,
)
from service.commands.processes import INTERRUPTED, become, interruptible
from service.commands.replay import Replay, replay_settings, speed_of
from service.commands.settings_file import write_settings
from service.commands.stats import StoreStats
from service.commands.traffic import feed
from service.commands.versions import commands as versions
from service.commands.versions import rollback
from service.commands.view import DemoView, ReplayView
from service.errors import FreshetError, InputError
from service.secrets import read_secret_files


class Commands(TyperGroup):
    """The commands; their errors become one line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            read_secret_files(os.environ)
            return super().invoke(ctx)
        except (FreshetError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="freshet",
    cls=Commands,
    help="Learn from a stream of actions; rank from what was learned seconds ago.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

store = typer.Typer(help="Look at the embedding store.", no_args_is_help=True)
app.add_typer(store, name="store")
app.add_typer(versions, name="versions")
app.add_typer(keys, name="keys")

SettingsFile = Annotated[
    Path | None, typer.Option("--settings", help="TOML file of settings; see docs/settings.md.")
]
DEFAULT_PORT = 8080


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="No terminal: print one JSON summary and end.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Keep everything here; a temporary folder if absent."),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", help="Port of the server; a free one if it is taken.")
    ] = DEFAULT_PORT,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the simulated world.")] = 0,
) -> None:
    """Run trainer and server on a simulated product whose tastes turn. Ctrl-C ends it."""
    with demo_folder(data) as folder, DemoView(shown=not once) as view:
        try:
            summary = run_demo(folder, view, seed, port, once, Patience())
        except KeyboardInterrupt:
            if once:
                raise
            return  # the normal end of a live demo
    print(summary.to_json())


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="CSV or JSON lines (also .gz), or Parquet.")],
    data: Data = DEFAULT_DATA,
    user_column: str = "user_id",
    item_column: str = "item_id",
    time_column: str = "timestamp",
    action_column: Annotated[
        str | None,
        typer.Option(help='Column of action types; "action" if there is one, else all are click.'),
    ] = None,
    time_unit: Annotated[str, typer.Option(help="Unit of the times: s or ms.")] = "s",
    limit: Annotated[int | None, typer.Option(min=1, help="Read only so many rows.")] = None,
    speed: Annotated[str, typer.Option(help="max, or like 60x: event time to real time.")] = "max",
    publish_every: Annotated[
        str, typer.Option(help="Event time between versions, like 30s, 10m, 1h or 2d.")
    ] = "1h",
    items: Annotated[
        Path | None,
        typer.Option(help="CSV or JSON lines (also .gz) of items: id, categories like a|b."),
    ] = None,
    categories_column: Annotated[str, typer.Option(help="Of the item file.")] = "categories",
    settings: SettingsFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it was cut off.")] = False,
    as_json: AsJson = False,
) -> None:
    """Learn from a file of past actions, in event-time order."""
    folder, rate = DataFolder(data), speed_of(speed)
    if items is not None and rate < math.inf:
        raise InputError("a replay with --items goes at full speed; leave out --speed")
    if not resume:
        folder.require_no_stream("go on with --resume, or choose another --data")
    elif not folder.settings.exists():
        raise InputError(f"{data} holds nothing to resume; replay without --resume")
    columns = Columns(user_column, item_column, time_column, action_column, time_unit)
    with ReplayView(shown=not as_json and sys.stderr.isatty()) as view:
        table = read_actions(file, columns, limit, view.read)
        if not resume:
            sections = replay_settings(settings, table.types, publish_every, items is not None)
            write_settings(folder.settings, sections)
        known = None
        if items is not None:
            names = ItemColumns(item_column, categories_column)
            known = read_items(items, names, float(table.at_T[0]))
            for reason, count in known.rejected.items():
                typer.echo(f"{items}: {count} rows left out: {reason}", err=True)
        report = Replay(table, folder, view, known.items if known else ()).run(rate)
    if as_json:
        print(report.to_json())
    else:
        report.show(Console())


@app.command()
def train(
    data: Data = DEFAULT_DATA,
    settings: SettingsFile = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    begin: Annotated[
        str | None,
        typer.Option(
            "--from", help="earliest, or a time: where to go on if the stream lost records."
        ),
    ] = None,
) -> None:
    """Run the trainer: `python -m trainer` with the environment that keeps it fast."""
    data.mkdir(parents=True, exist_ok=True)
    more = metrics_at(metrics_host, metrics_port)
    more += [] if begin is None else ["--from", begin]
    become("trainer", [*DataFolder(data).arguments(settings), *more])


@app.command()
def serve(
    data: Data = DEFAULT_DATA,
    settings: SettingsFile = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = DEFAULT_PORT,
    allow_open: Annotated[
        bool, typer.Option("--allow-open", help="Listen beyond this machine without keys.")
    ] = False,
) -> None:
    """Run the server: `python -m serving` with the environment that keeps it fast."""
    address = ["--host", host, "--port", str(port), *(["--allow-open"] if allow_open else [])]
    become("serving", [*DataFolder(data).arguments(settings), *address])


@app.command()
def histories(
    data: Data = DEFAULT_DATA,
    settings: SettingsFile = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
) -> None:
    """Keep the histories in Redis up to date with the stream: `python -m service.histories`."""
    more = metrics_at(metrics_host, metrics_port)
    become("service.histories", [*DataFolder(data).arguments(settings), *more])


app.command()(rollback)
app.command()(erase)
app.command()(feed)


@store.command()
def stats(data: Data = DEFAULT_DATA, as_json: AsJson = False) -> None:
    """Memory of rows, index, counters and histories when the newest version was cut."""
    found = StoreStats.of(DataFolder(data))
    if as_json:
        print(found.to_json())
    else:
        found.show(Console())


def main() -> None:
    """Run the command in `sys.argv`. Ends with 0, 1 for an error, 2 for wrong usage, or 130."""
    with interruptible():
        app()


if __name__ == "__main__":
    main()
