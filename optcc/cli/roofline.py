"""A roofline as a person reads it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optcc.cli.common import human_bytes
from optcc.cli.display import console, new_table, number, percent, section

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = 0.01
"""Share of a step from which on a row is printed; `--json` has all."""


def print_roofline(found: Mapping[str, Any]) -> None:
    """The machine, a table for every step, fallbacks, sentences."""
    screen, machine = console(), found["machine"]
    screen.print()
    screen.print(
        f"this machine on {machine['threads']} threads reads {machine['read_gb_s']:.1f} GB/s and computes "
        f"{machine['fp32_gops']:.0f} Gop/s in float32, {machine['int8_gops']:.0f} in int8 "
        f"(measured {machine['measured']})",
        style="dim",
    )
    screen.print()
    for step in found["steps"]:
        _print_step(screen, step, [row for row in found["rows"] if row["load"] == step["name"]])
    for row in found["fallbacks"]:
        screen.print(f"{row['count']} x {row['name']}: {row['kernel']}, {row['reason']}", soft_wrap=True)
    print_sentences(screen, found)


def _print_step(screen: Console, step: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> None:
    table = new_table("|operators", ">#", ">bytes", ">Gop", "|bound", ">limit", ">measured", ">of limit")
    whole = step["measured_ms"] or step["limit_ms"]
    rest = [row for row in rows if (row["measured_ms"] or row["limit_ms"]) < _SHOWN * whole]
    for row in sorted(rows, key=lambda r: -(r["measured_ms"] or r["limit_ms"])):
        if row in rest:
            continue
        table.add_row(
            f"{row['op']}\n {row['name']}" if row["name"] else row["op"],
            str(row["count"]),
            human_bytes(row["bytes"]),
            number(row["operations"] / 1e9),
            row["bound"],
            f"{row['limit_ms']:.2f} ms",
            "n/a" if row["measured_ms"] is None else f"{row['measured_ms']:.2f} ms",
            percent(row["share"]),
        )
    took = "not measured" if step["measured_ms"] is None else f"{step['measured_ms']:.2f} ms"
    more = f"; {len(rest)} smaller kinds not shown" if rest else ""
    section(screen, f"{step['name']}: {took}, limits come to {step['limit_ms']:.2f} ms{more}", table)


def print_sentences(screen: Console, found: Mapping[str, Any]) -> None:
    """What it means, a line each."""
    for sentence in found["sentences"]:
        lines = textwrap.wrap(sentence, screen.width - 2, break_long_words=False, break_on_hyphens=False)
        screen.print("- " + "\n  ".join(lines), soft_wrap=True)
    screen.print()
