"""What every verb shares: its options and how it writes a result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import click

from optcc.numbers import human_bytes as human_bytes

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
F = TypeVar("F", bound=Callable[..., object])


def common_options(function: F) -> F:
    """Add `--json` (the verb gets `as_json: bool`) and `--debug` (read by `main` alone)."""
    debug = click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the full trace of an unexpected error."
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    return as_json(debug(function))


def print_json(data: Json) -> None:
    """Write `data` to stdout as one indented JSON document. NaN and infinity are refused."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def print_pairs(rows: Iterable[tuple[str, str]], indent: int = 2) -> None:
    """Write two columns to stdout, the first padded to its widest cell."""
    cells = list(rows)
    width = max((len(left) for left, _ in cells), default=0)
    for left, right in cells:
        click.echo(f"{' ' * indent}{left:<{width}}  {right}".rstrip())
