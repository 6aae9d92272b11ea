"""`freshet keys`: make, list and remove API keys of a key file."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.commands import key_file
from service.commands.options import DEFAULT_DATA, AsJson, Data
from service.commands.replay import seconds_of
from service.errors import InputError
from service.keys import SCOPES, KeyEntry, Scope, new_key, read_keys

File = Annotated[Path | None, typer.Option("--file", help="The key file; else DIR/keys.toml.")]
Rate = Annotated[float | None, typer.Option(min=0.001, help="Instead of that of [limits].")]

commands = typer.Typer(help="Make, list and remove API keys.", no_args_is_help=True)


@commands.command()
def new(
    name: Annotated[str, typer.Option(help="What it is for, like web.")],
    scope: Annotated[
        list[str], typer.Option(help=f"One or more of {', '.join(SCOPES)}; repeat the option.")
    ],
    expires: Annotated[
        str | None, typer.Option(help="Time until it is void, like 12h or 90d; never if absent.")
    ] = None,
    rankings_per_second: Rate = None,
    records_per_second: Rate = None,
    data: Data = DEFAULT_DATA,
    file: File = None,
) -> None:
    """Make a key and print it, this once: only its hash is kept."""
    path = _chosen(data, file)
    made = new_key(name, _scopes(scope), _end(expires), rankings_per_second, records_per_second)
    key_file.add(path, made)
    print(made.token)
    print(
        f"key {made.id} ({name}) is in {path}; the line above is the only copy of its secret. "
        f'Servers with [serving] keys = "{path}" know it within a second.',
        file=sys.stderr,
    )


@commands.command("list")
def list_(data: Data = DEFAULT_DATA, file: File = None, as_json: AsJson = False) -> None:
    """Every key of the file: id, name, scopes, age, end, limits. Never a secret or hash."""
    entries = read_keys(_chosen(data, file))
    if as_json:
        print(json.dumps({"keys": [_plain(key_id, entry) for key_id, entry in entries.items()]}))
    else:
        Console().print(_table(entries))


@commands.command()
def remove(
    key: Annotated[str, typer.Argument(help="Id or name of the key.")],
    data: Data = DEFAULT_DATA,
    file: File = None,
) -> None:
    """Take a key out of the file: servers refuse it within a second."""
    path = _chosen(data, file)
    key_id, entry = key_file.remove(path, key)
    print(f"key {key_id} ({entry.name}) is removed from {path}")


def _chosen(data: Path, file: Path | None) -> Path:
    return data / "keys.toml" if file is None else file


def _scopes(named: list[str]) -> tuple[Scope, ...]:
    if unknown := set(named).difference(SCOPES):
        raise InputError(f"--scope {', '.join(unknown)} is none; there are {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in named)


def _end(expires: str | None) -> datetime | None:
    if expires is None:
        return None
    return (datetime.now(UTC) + timedelta(seconds=seconds_of(expires))).replace(microsecond=0)


def _plain(key_id: str, entry: KeyEntry) -> dict[str, object]:
    described = entry.model_dump(mode="json", exclude={"salt", "hash"})
    return {"id": key_id, **described, "expired": entry.expired(datetime.now(UTC))}


def _table(entries: dict[str, KeyEntry]) -> Table:
    table = Table("id", "name", "scopes", "created", "expires", "rankings/s", "records/s", box=None)
    now = datetime.now(UTC)
    for key_id, entry in entries.items():
        end = "never" if entry.expires is None else f"{entry.expires:%Y-%m-%d %H:%M}"
        rates = (entry.rankings_per_second, entry.records_per_second)
        table.add_row(
            key_id,
            entry.name,
            " ".join(entry.scopes),
            f"{entry.created:%Y-%m-%d}",
            f"{end} (void)" if entry.expired(now) else end,
            *("default" if rate is None else f"{rate:g}" for rate in rates),
        )
    return table
