"""How numbers look in a terminal, and the console that tables are drawn on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from optcc.cli.common import human_bytes

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


def human_seconds(seconds: float) -> str:
    """`83 ms`, `4.1 s`, `2 min 05 s`."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s"


def human_rate(rate: float) -> str:
    """Tokens per second with three digits that mean something."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"


def bytes_delta(now: int, before: int) -> str:
    """`-403.2 MB`, or nothing when the size is the same."""
    if now == before:
        return ""
    return ("+" if now > before else "-") + human_bytes(abs(now - before))


def times(ratio: float) -> str:
    """A ratio as `3.6x`."""
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def number(value: float | None) -> str:
    """A measured value with three significant digits; `none` stands for what isn't finite."""
    if value is None:
        return "n/a"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def interval(estimate: Mapping[str, Any], show: Any = number) -> str:
    """`0.0102 [0.0097, 0.0108]`; an exact value stands alone."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    text: str = show(value)
    return text if low == high else f"{text} [{show(low)}, {show(high)}]"


def percent(value: float | None) -> str:
    """A fraction as `97.4 %`."""
    return "n/a" if value is None else f"{value * 100:.1f} %" if value < 1 else "100 %"


def spread(summary: Mapping[str, float]) -> str:
    """A median with its range: `41.2 (39.8-42.0)`."""
    return f"{human_rate(summary['median'])} ({human_rate(summary['low'])}-{human_rate(summary['high'])})"
