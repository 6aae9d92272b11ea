"""`freshet versions`: look at versions, check them, and decide which one is served.

What needs torch is imported by the command that runs: `freshet --help` should not wait for it.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer
from rich.console import Console

from service.commands.options import DEFAULT_DATA, AsJson, Data, Url
from service.errors import InputError

if TYPE_CHECKING:
    from service.versions import VersionDirectory

WIDE = 160
"""Columns of a table that goes to a file or another program."""

Number = Annotated[int, typer.Argument(help="Number of the version.")]
WithTrainer = Annotated[
    bool, typer.Option("--trainer", help="Training goes on from it as well, at its next start.")
]

commands = typer.Typer(help="Look at versions, check them, go back.", no_args_is_help=True)


class Answer(Protocol):
    """What a command found."""

    def to_json(self) -> str:
        """One JSON object."""

    def show(self, console: Console) -> None:
        """The same for people."""


@commands.command()
def ls(data: Data = DEFAULT_DATA, url: Url = None, as_json: AsJson = False) -> None:
    """Every version: its size, what it holds, and what is served."""
    from service.commands.version_list import Listing

    _tell(Listing.of(_opened(data, url)), as_json)


@commands.command()
def show(
    number: Number, data: Data = DEFAULT_DATA, url: Url = None, as_json: AsJson = False
) -> None:
    """Everything about one version."""
    from service.commands.version_choice import known
    from service.commands.version_page import VersionPage

    directory = _opened(data, url)
    _tell(VersionPage.of(directory, known(directory, number).number), as_json)


@commands.command()
def verify(
    number: Annotated[
        int | None, typer.Argument(help="Number of the version; every one if absent.")
    ] = None,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Read and check every file, and fold every chain. Ends with 1 if anything is wrong."""
    from service.commands.version_check import Verification
    from service.commands.version_choice import known

    directory = _opened(data, url)
    numbers = directory.numbers() if number is None else [known(directory, number).number]
    found = Verification.of(directory, numbers)
    _tell(found, as_json)
    if not found.sound:
        raise typer.Exit(1)


@commands.command()
def rollback(
    number: Number,
    trainer: WithTrainer = False,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Every server answers from this version until `freshet versions unpin`."""
    from service.commands.version_choice import roll_back

    _tell(roll_back(_opened(data, url), number, trainer), as_json)


@commands.command()
def unpin(data: Data = DEFAULT_DATA, url: Url = None, as_json: AsJson = False) -> None:
    """Servers follow the newest version again."""
    from service.commands import version_choice

    _tell(version_choice.unpin(_opened(data, url)), as_json)


@commands.command()
def release(
    number: Number, data: Data = DEFAULT_DATA, url: Url = None, as_json: AsJson = False
) -> None:
    """Let servers have a version that the gate held."""
    from service.commands import version_choice

    _tell(version_choice.release(_opened(data, url), number), as_json)


def _opened(data: Path, url: str | None) -> "VersionDirectory":
    """The directory of versions. Raises InputError if it holds none."""
    from service.versions import VersionDirectory

    directory = VersionDirectory(data / "versions" if url is None else url)
    if not directory.numbers():
        raise InputError(
            f"{directory.url} holds no version; mend --data or --url, or run `freshet train` until "
            "it has published one"
        )
    return directory


def _tell(answer: Answer, as_json: bool) -> None:
    if as_json:
        print(answer.to_json())
    else:
        answer.show(Console(width=None if sys.stdout.isatty() else WIDE))
