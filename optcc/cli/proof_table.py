"""What passes and lowered operators were held to, drawn from the report's key `proof`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optcc.cli.display import human_seconds, new_table, number, section

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"pass": "green", "undecided": "yellow", "measured": "dim"}
_KINDS = 6


def print_proof(console: Console, proof: Mapping[str, Any]) -> None:
    """A line per pass that was held to its contract, then the operators that came nearest to their bound."""
    rows = [row for row in proof.get("passes", ()) if "measured" in row]
    if rows:
        table = new_table("pass", "contract", ">measured", ">bound", "")
        for row in rows:
            bound = number(row["bound"]) if row["bound"] is not None else ""
            found = number(row["measured"]["value"])
            name = row["pass"].partition("{")[0]
            table.add_row(
                name, f"{row['contract']} ({row['metric']})", found, bound, row["outcome"],
                style=_STYLES.get(row["outcome"], ""),
            )  # fmt: skip
        told = f"passes held to their contracts on {proof['data']['tokens']} tokens"
        section(console, f"{told}, {human_seconds(proof['seconds'])}", table)
    lowered = proof.get("lowered")
    if lowered:
        table = new_table("operator", ">count", ">worst", ">bound", "at")
        for row in lowered["kinds"][:_KINDS]:
            table.add_row(
                row["operator"], str(row["count"]), number(row["worst"]), number(row["bound"]), row["node"]
            )
        title = f"{lowered['operators']} operators of {lowered['backend']} against the reference's"
        section(console, f"{title}, {human_seconds(lowered['seconds'])}", table)
