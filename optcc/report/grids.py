"""Tables of rows whose columns are not known beforehand: the ledger, and what passes measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optcc.numbers import human_bytes, number

_SHARES = ("share",)
"""Columns that are shown in percent."""


@dataclass(frozen=True)
class Cell:
    """What is shown, and what the column is sorted by."""

    text: str
    key: str


@dataclass(frozen=True)
class Grid:
    """A table that can be searched and sorted; `numeric` says which columns are aligned to the right."""

    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]


def grid(rows: Sequence[Mapping[str, Any]], first: Sequence[str] = ("weight", "name", "step")) -> Grid:
    """Rows of plain data as a table: columns in the order they come up, names of things at the front; a column in which
    no row has anything is left out."""
    names = list(
        dict.fromkeys(key for row in rows for key, value in row.items() if value not in (None, "", []))
    )
    names.sort(key=lambda name: (name not in first, list(first).index(name) if name in first else 0))
    numeric = tuple(all(_is_number(row.get(n)) or row.get(n) is None for row in rows) for n in names)
    return Grid(
        tuple(name.replace("_", " ") for name in names),
        numeric,
        tuple(tuple(cell(name, row.get(name)) for name in names) for row in rows),
    )


def cell(name: str, value: Any) -> Cell:
    """One value: bytes and numbers short, lists with commas."""
    if value is None:
        return Cell("", "")
    if isinstance(value, bool):
        return Cell("yes" if value else "no", str(int(value)))
    if _is_number(value):
        shown = (
            human_bytes(value)
            if "bytes" in name
            else f"{100 * value:.0f} %"
            if name in _SHARES
            else f"{value:,}"
            if isinstance(value, int)
            else number(value)
        )
        return Cell(shown, repr(float(value)))
    if isinstance(value, Mapping):
        text = ", ".join(f"{key} {cell(key, item).text}" for key, item in value.items())
    elif isinstance(value, list | tuple):
        text = ", ".join(cell("", item).text for item in value)
    else:
        text = str(value)
    return Cell(text, text)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
