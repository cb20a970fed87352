"""The ledger weight by weight, as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from optcc.cli.common import human_bytes


def print_ledger(rows: Sequence[Mapping[str, Any]]) -> None:
    """A line for each weight; one that has no error to show says why."""
    if not rows:
        click.echo("the report has no ledger by weight: compile again with this version of optcc")
        return
    cells = [_cells(row) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]) - 1)]
    for row in cells:
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[3:-1], widths[3:], strict=True)]
        click.echo("  ".join([*left, *right, row[-1]]).rstrip())
    total = sum(row["bytes"] for row in rows)
    click.echo(
        f"{len(rows)} weights, {human_bytes(total)}; errors are root mean squares, measured in the file"
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    error = "" if row["error"] is None else "exact" if row["error"] == 0 else f"{row['error']:.2%}"
    sqnr = "" if row["sqnr"] is None else f"{row['sqnr']:.1f} dB"
    return [row["name"], row["scheme"], row["stored"], human_bytes(row["bytes"]), error, sqnr, row["remark"]]
