"""The console that tables are drawn on; how numbers look is `optcc.numbers`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from optcc.numbers import bytes_delta as bytes_delta
from optcc.numbers import human_rate as human_rate
from optcc.numbers import human_seconds as human_seconds
from optcc.numbers import interval as interval
from optcc.numbers import number as number
from optcc.numbers import percent as percent
from optcc.numbers import spread as spread
from optcc.numbers import times as times

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

WIDTH = 100
"""Columns that every table fits into."""


def console() -> Console:
    """Standard output, at most `WIDTH` columns wide; without colours when it isn't a terminal."""
    from rich.console import Console

    found = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
    found.width = min(WIDTH, found.width) if found.is_terminal else WIDTH
    return found


def new_table(*columns: str) -> Table:
    """A borderless table. A column named `>…` is aligned to the right; only one named neither so nor `|…` wraps."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for name in columns:
        right, whole = name.startswith(">"), name.startswith((">", "|"))
        justify: Literal["left", "right"] = "right" if right else "left"
        table.add_column(
            name.lstrip(">|"), justify=justify, no_wrap=whole, overflow="fold", header_style="dim"
        )
    return table


def section(screen: Console, title: str, body: RenderableType) -> None:
    """A heading, what belongs to it two columns further in, and an empty line."""
    from rich.padding import Padding

    screen.print(title, style="bold")
    screen.print(Padding(body, (0, 0, 1, 2), expand=False))
