"""What the commands show in a terminal: on standard error, so that results stay alone on output."""

from itertools import zip_longest
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table

from service.commands.simulation import Change
from service.commands.summary import Summary
from service.metrics import Readings


class ReplayView:
    """Bars of what was read, appended and trained. `shown` False: nothing is drawn."""

    def __init__(self, shown: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=not shown,
        )
        self._read = self._progress.add_task("read, %", total=100, note="")
        self._appended = self._progress.add_task("appended", total=None, note="", visible=False)
        self._trained = self._progress.add_task("trained", total=None, note="", visible=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def read(self, share: float) -> None:
        """The share of the file read so far."""
        self._progress.update(self._read, completed=int(100 * share))

    def expect(self, actions: int) -> None:
        """The file is read; so many actions come."""
        self.read(1.0)
        for task in (self._appended, self._trained):
            self._progress.update(task, total=actions, visible=True)

    def advance(self, appended: int, readings: Readings) -> None:
        """So many actions are in the stream, and this is what the trainer says."""
        self._progress.update(self._appended, completed=appended)
        trained = sum(readings.by_label("actions_total", "outcome").values())
        self._progress.update(self._trained, completed=int(trained), note=note_of(readings))


def note_of(readings: Readings) -> str:
    """The trainer's state in a few words."""
    rates = readings.by_label("hit_rate", "model")
    hits = ", ".join(f"{model} {rate:.3f}" for model, rate in rates.items())
    return f"version {readings.get('version'):.0f}" + (f"  HR@10 {hits}" if hits else "")


class DemoView:
    """The live state of a demo. `shown` False: nothing is drawn."""

    def __init__(self, shown: bool) -> None:
        console = Console(stderr=True)
        self._live = Live(console=console, refresh_per_second=4) if shown else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, summary: Summary) -> None:
        """Draw this state in the place of the last one."""
        if self._live:
            self._live.update(demo_panel(summary))


def demo_panel(summary: Summary) -> RenderableType:
    """Figures, hit rates as bars, one user's list before and after an action, where to look."""
    parts: list[RenderableType] = [_figures(summary), "", _hit_rates(summary)]
    if summary.change is not None:
        parts += ["", _change(summary.change)]
    parts += ["", f"Try it yourself: [bold]{summary.docs_url}[/bold]   (Ctrl-C ends the demo)"]
    title = "Freshet" if summary.version else "Freshet is starting"
    return Panel(Group(*parts), title=title, title_align="left", width=88)


def _figures(summary: Summary) -> Table:
    delay = summary.action_to_ranking_p50_seconds
    figures = {
        "trained": f"{summary.actions_trained:,} of {summary.actions_appended:,} actions",
        "speed": f"{summary.actions_per_second:,.0f} actions/s",
        "version": f"{summary.version}, {summary.version_age_seconds:.1f} s old",
        "loss": f"{summary.loss:.3f}",
        "lists shown": f"{summary.visits:,}, clicked: {summary.clicks:,}",
        "action to ranking": "not measured yet"
        if delay is None
        else f"{1000 * delay:.0f} ms (p50)",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in figures.items():
        table.add_row(f"[dim]{name}[/dim]", value)
    return table


def _hit_rates(summary: Summary) -> Table:
    table = Table.grid(padding=(0, 2))
    for model, rate in sorted(summary.hit_rate_at_10.items()):
        bar = ProgressBar(total=1.0, completed=rate, width=50)
        table.add_row(f"[dim]HR@10 {model}[/dim]", bar, f"{rate:.3f}")
    return table


def _change(change: Change) -> Table:
    took = f"{1000 * change.seconds:.0f} ms later" if change.changed else "unchanged"
    table = Table(box=None, title=f"{change.user} clicks {change.action}", title_justify="left")
    table.add_column("top 5 before")
    table.add_column(f"top 5 after, {took}")
    for before, after in zip_longest(change.before, change.after, fillvalue=""):
        table.add_row(before, f"[green]{after}[/green]" if after not in change.before else after)
    return table
