"""The report of a compile as a person reads it, drawn from `Report.to_json()`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from optcc.cli.accuracy_table import print_accuracy
from optcc.cli.common import human_bytes
from optcc.cli.display import bytes_delta, human_seconds, new_table, number, section, spread, times
from optcc.cli.proof_table import print_proof
from optcc.cli.roofline import print_sentences
from optcc.report.foretold import foretold
from optcc.report.sentence import status_of
from optcc.report.shape import ReportJson

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

STATUS = {"ok": "green", "failed": "red", "undecided": "yellow", "unchecked": "yellow"}
_LONGEST_TABLE = 24
"""Rows of a pass's own table that are printed."""
_NAMES = {
    "attentions": "attention",
    "rms_norms": "RMS norm",
    "layer_norms": "layer norm",
    "ropes": "rotary embedding",
    "gated_mlps": "gated MLP",
}


def print_report(console: Console, report: Mapping[str, Any]) -> None:
    """Everything a compile found out, in at most 100 columns."""
    print_header(console, report)
    print_passes(console, report)
    print_tables(console, report["passes"])
    fusions = [f for f in report["fusions"] if f["expected"] or f["found"]]
    if fusions:
        section(console, "operators the configuration implies, and those found", _fusions(fusions))
        _reasons(console, fusions)
    section(console, "sizes", _sizes(report))
    print_proof(console, report.get("proof", {}))
    if report["check"]:
        print_accuracy(console, report["check"])
        console.print()
    else:
        console.print("accuracy: not checked, the recipe says `check: {enabled: false}`", style="yellow")
    if report["speed"]:
        speed = report["speed"]
        how = f"median (range) of {speed['rounds']} rounds"
        section(console, f"tokens/s of one request on {speed['threads']} threads: {how}", _speed(speed))
    if limit := report.get("speed_limit"):
        console.print(f"speed: {limit['reason']}", style="green" if limit["outcome"] == "pass" else "red")
    if report.get("roofline"):
        print_sentences(console, report["roofline"])
    print_cost(console, report)


def print_header(console: Console, report: Mapping[str, Any]) -> None:
    """Model, recipe, backend, and how it went."""
    from rich.text import Text

    status = status_of(cast(ReportJson, report))
    line = Text()
    line.append(report["model"], style="bold")
    line.append(" → ", style="dim")
    line.append(report["recipe"], style="bold")
    line.append(" → ", style="dim")
    line.append(report["backend"], style="bold")
    line.append(f"   {status}", style=f"bold {STATUS[status]}")
    console.print()
    console.print(line)
    console.print()


def print_passes(console: Console, report: Mapping[str, Any]) -> None:
    """The table of passes, unless none ran."""
    if report["passes"]:
        section(console, "passes", passes_table(report["passes"], report["ledger"]["original_bytes"]))


def passes_table(rows: Sequence[Mapping[str, Any]], weight_bytes: int) -> Table:
    """One row per pass. `weight_bytes` is what the first pass found."""
    table = new_table("|pass", ">time", ">peak", ">nodes", ">", ">weights", ">", "what it did")
    nodes: int | None = None
    for row in rows:
        delta = f"{row['nodes'] - nodes:+}" if nodes is not None and row["nodes"] != nodes else ""
        time = "cached" if row["cached"] else human_seconds(row["seconds"])
        table.add_row(
            row["step"].partition("{")[0],
            time,
            human_bytes(row["peak_bytes"]),
            f"{row['nodes']:,}",
            delta,
            human_bytes(row["weight_bytes"]),
            bytes_delta(row["weight_bytes"], weight_bytes),
            what_it_did(row),
            style="" if row["changed"] else "dim",
        )
        nodes, weight_bytes = row["nodes"], row["weight_bytes"]
    return table


def print_tables(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """What passes measured, where it fits on a screen; the report keeps the longer tables."""
    for row in rows:
        for name, measured in row.get("tables", {}).items():
            title = f"{row['step'].partition('{')[0]}: {name}"
            if len(measured) > _LONGEST_TABLE:
                console.print(f"{title}: {len(measured)} rows in report/report.json", style="dim")
                console.print()
            elif measured:
                section(console, title, _measured(measured))


def _measured(rows: Sequence[Mapping[str, Any]]) -> Table:
    numeric = {key for key, value in rows[0].items() if _is_number(value)}
    table = new_table(*(f">{key}" if key in numeric else key for key in rows[0]))
    for row in rows:
        table.add_row(
            *(_cell(value) for value in row.values()), style="bold" if row.get("chosen") is True else ""
        )
    return table


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "✓" if value else ""
    return number(float(value)) if isinstance(value, int | float) else str(value)


def what_it_did(row: Mapping[str, Any]) -> str:
    """Rule hits, remarks, and how many places nearly fitted."""
    parts = [f"{rule} {count}" for rule, count in row["hits"].items() if count]
    parts += row["notes"]
    if row["misses"]:
        parts.append(f"{len(row['misses'])} near misses")
    if not parts:
        parts.append("" if row["changed"] else "nothing to do")
    return ", ".join(parts)


def _fusions(fusions: Sequence[Mapping[str, Any]]) -> Table:
    from rich.text import Text

    table = new_table("operator", ">implied", ">found", "")
    for row in fusions:
        whole = row["found"] >= row["expected"]
        mark = Text("✓", style="green") if whole else Text("✗ see below", style="yellow")
        name = _NAMES.get(row["kind"], row["kind"])
        table.add_row(name, str(row["expected"]), str(row["found"]), mark)
    return table


def _reasons(console: Console, fusions: Sequence[Mapping[str, Any]]) -> None:
    from rich.padding import Padding

    short = [f for f in fusions if f["reasons"]]
    for row in short:
        console.print(f"  why not all of {_NAMES.get(row['kind'], row['kind'])}:", style="yellow")
        for reason in row["reasons"]:
            console.print(Padding(f"- {reason}", (0, 0, 0, 4), expand=False))
    if short:
        console.print()


def _sizes(report: Mapping[str, Any]) -> Table:
    ledger = report["ledger"]
    table = new_table("", ">bytes", "")
    artifact = report["artifact_bytes"]
    before = (("model files", report["source_bytes"]), ("weights as captured", ledger["original_bytes"]))
    for name, size in before:
        how = f"{times(size / artifact)} smaller" if size > artifact else "not smaller"
        table.add_row(name, human_bytes(size), f"the artifact is {how}")
    table.add_row("artifact", human_bytes(artifact), "", style="bold")
    for row in ledger["schemes"]:
        name = f"  {row['weights']} weights as {row['scheme']}"
        share = f"of it scales {human_bytes(row['scales'])}"
        table.add_row(name, human_bytes(row["values"] + row["scales"]), share)
    table.add_row("  plain weights", human_bytes(ledger["plain_bytes"]), "")
    if kv := ledger["kv"]:
        stored = f"{kv['type']} with {kv['scale']} scales" if kv["scale"] else kv["type"]
        ratio = kv["plain_token_bytes"] / kv["token_bytes"]
        less = f", {times(ratio)} smaller than unquantized" if ratio > 1 else ""
        table.add_row("KV cache, a token", human_bytes(kv["token_bytes"]), stored + less)
    return table


def _speed(speed: Mapping[str, Any]) -> Table:
    table = new_table("", ">original", ">artifact", ">ratio")
    told = {
        "prefill": f"prefill, {speed['prompt_tokens']} tokens",
        "decode": f"decode, {speed['new_tokens']} tokens",
    }
    for kind, name in told.items():
        original, artifact = speed["original"][kind], speed["artifact"][kind]
        table.add_row(name, spread(original), spread(artifact), times(speed["ratio"][kind]))
    return table


def print_cost(console: Console, report: Mapping[str, Any]) -> None:
    """Wall time, memory, and where the time went."""
    stages = sorted(report["stages"].items(), key=lambda item: -item[1])
    where = ", ".join(f"{name} {human_seconds(s)}" for name, s in stages if s >= 0.05)
    peak, anonymous = human_bytes(report["peak_bytes"]), human_bytes(report["anonymous_bytes"])
    console.print(f"{human_seconds(report['seconds'])} in all: {where}")
    console.print(f"peak memory {peak} with mapped files, {anonymous} without")
    told = [f"{r.name} {r.predicted} ({r.measured}, {r.error})" for r in foretold(cast(ReportJson, report))]
    if told:
        console.print(f"predicted (measured): {', '.join(told)}", style="dim")
    for note in report["host"].get("backend", ()):
        console.print(f"{report['backend']}: {note}")
