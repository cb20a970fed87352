"""Progress on stderr: a live bar in a terminal, a line per stage elsewhere, nothing when quiet."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from optcc.cli.display import human_seconds

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from optcc.compile.progress import Progress

_SAYS = {
    "plan": "reading the recipe",
    "resolve": "finding the model and hashing it",
    "capture": "capturing the graph",
    "preflight": "looking for what can't work",
    "lower": "writing weights and graph",
    "check": "comparing with the original",
    "speed": "measuring tokens/s",
    "prove": "running every lowered operator on the reference's inputs",
    "blame": "putting parts of the original back",
    "bisect": "asking modules between passes",
}


class Lines:
    """One line when a stage ends: `  capture      4.1 s`. Without a stream, nothing."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._name, self._began = "", 0.0

    def stage(self, name: str) -> None:
        """Tell of the stage before; an empty name only ends it."""
        now = time.perf_counter()
        if self._name and self._stream is not None:
            self._stream.write(f"  {self._name:<12} {human_seconds(now - self._began):>10}\n")
            self._stream.flush()
        self._name, self._began = name, now

    def step(self, text: str, done: int, total: int) -> None:
        """Says nothing: a log is no place for every pass and window."""


class Live:
    """A bar for the stage that runs; finished stages stay above it."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None
        self._name, self._began = "", 0.0

    def stage(self, name: str) -> None:
        """Leave a line for the stage before and begin another; an empty name only ends it."""
        now = time.perf_counter()
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._bars.console.print(
                f"[green]✓[/] {self._name:<12} [dim]{human_seconds(now - self._began):>10}[/]"
            )
            self._task = None
        self._name, self._began = name, now
        if name:
            self._task = self._bars.add_task(f"{name:<12}", total=None, told=_SAYS.get(name, ""))

    def step(self, text: str, done: int, total: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total, told=f"{done}/{total} {text}")


def quiet_libraries() -> None:
    """Keep libraries from writing advice of their own between ours; call it before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """What a compile reports to; the bar is gone when the block ends.

    Args:
        quiet: say nothing unless stderr is a terminal, for `--json`.
    """
    quiet_libraries()
    stream = sys.stderr
    if not stream.isatty():
        lines = Lines(None if quiet else stream)
        yield lines
        lines.stage("")
        return
    with _bars(stream) as bars:
        live = Live(bars)
        yield live
        live.stage("")


def _bars(stream: TextIO) -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    told = TextColumn(
        "{task.fields[told]}",
        style="dim",
        table_column=Column(no_wrap=True, overflow="ellipsis"),
        markup=False,
    )
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        told,
        console=Console(file=stream, highlight=False, emoji=False),
        transient=True,
        redirect_stdout=False,
    )
