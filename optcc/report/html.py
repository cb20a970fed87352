"""The report as one HTML file: style, script and plots inline, nothing loaded from anywhere.

A content security policy in the file allows its own script by hash and no connection at all, so that what the file
promises the browser enforces.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment
from markupsafe import Markup

from optcc.numbers import (
    bytes_delta,
    cosine,
    human_bytes,
    human_rate,
    human_seconds,
    interval,
    number,
    percent,
    spread,
    times,
)
from optcc.report import cost_figures
from optcc.report.commands import commands
from optcc.report.figures import Figure, accuracy_figures, layer_errors, limit_strip
from optcc.report.foretold import foretold
from optcc.report.grids import Grid, grid
from optcc.report.proof import proof_rows
from optcc.report.roofline_figures import machine_pairs, roofline_figures
from optcc.report.sentence import WORDS, shown, status_of, verdict_sentence
from optcc.report.shape import EstimateJson, ReportJson

_TEMPLATES = ("report.html.jinja", "accuracy.html.jinja", "work.html.jinja", "macros.html.jinja")
_OPERATORS = {
    "attentions": "attention",
    "rms_norms": "RMS norm",
    "layer_norms": "layer norm",
    "ropes": "rotary embedding",
    "gated_mlps": "gated MLP",
}
_LEDGER = (
    "name",
    "scheme",
    "stored",
    "bytes",
    "error",
    "sqnr",
    "steps",
    "shape",
    "rows",
    "remark",
    "tensors",
)
_OPERATIONS = (
    "load",
    "op",
    "name",
    "count",
    "measured_ms",
    "limit_ms",
    "share",
    "bound",
    "bytes",
    "operations",
)
"""Columns in their order: a report that was read back has its keys sorted."""


@dataclass(frozen=True)
class PassRow:
    """A pass beside what it changed: differences to the pass before."""

    data: Mapping[str, Any]
    name: str
    options: str
    nodes: int
    weights: str
    did: str


@dataclass(frozen=True)
class Tile:
    """One figure of the header."""

    name: str
    value: str
    note: str


def render_html(report: ReportJson, manifest: Mapping[str, Any] | None = None) -> str:
    """The whole page.

    Args:
        report: `report/report.json`.
        manifest: `manifest.json`, for the recipe and the pipeline; None leaves them out.
    """
    folder = files("optcc.report").joinpath("templates")
    read = {
        name: folder.joinpath(name).read_text("utf-8") for name in (*_TEMPLATES, "report.css", "report.js")
    }
    script = read["report.js"].strip()
    sha256 = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(loader=DictLoader(read), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "bytes": human_bytes,
        "seconds": human_seconds,
        "number": number,
        "percent": percent,
        "rate": human_rate,
        "times": times,
        "spread": spread,
        "estimate": _estimate,
    }
    ledger_rows = report["ledger"].get("rows") or []
    proof = proof_rows(report.get("proof"))
    roofline = report.get("roofline")
    context = {
        "report": report,
        "manifest": manifest,
        "style": Markup(read["report.css"]),
        "script": Markup(script),
        "script_hash": sha256,
        "status": status_of(report),
        "word": WORDS[status_of(report)],
        "sentence": verdict_sentence(report),
        "tiles": _tiles(report),
        "commands": commands(report),
        "strip": limit_strip,
        "shown": shown,
        "meanings": _meanings(report),
        "accuracy": list(accuracy_figures(report)),
        "layers": list(layer_errors(report)),
        "passes": _passes(report),
        "pass_figures": _pass_figures(report, proof),
        "proof": grid(proof) if proof else None,
        "pass_tables": _tables(report),
        "operators": _OPERATORS,
        "storage": cost_figures.storage_figure(report),
        "ledger": grid(ledger_rows, _LEDGER) if ledger_rows else None,
        "speed": list(cost_figures.speed_figures(report["speed"])) if report["speed"] else [],
        "speed_limit": report.get("speed_limit"),
        "roofline": roofline,
        "roofline_figures": list(roofline_figures(roofline)) if roofline else [],
        "roofline_rows": grid(roofline["rows"], _OPERATIONS) if roofline and roofline["rows"] else None,
        "fallbacks": grid(roofline["fallbacks"]) if roofline and roofline["fallbacks"] else None,
        "machine": machine_pairs(roofline["machine"]) if roofline else [],
        "foretold": foretold(report),
        "memory": sorted(report.get("memory", {}).items(), key=lambda item: -item[1]["anonymous"]),
        "stages": cost_figures.stages_figure(report),
    }
    return environment.get_template("report.html.jinja").render(context)


def _estimate(estimate: EstimateJson, metric: str = "") -> str:
    return interval(estimate, shown(metric))


def _meanings(report: ReportJson) -> list[tuple[str, str]]:
    """The metrics that have a limit, in words."""
    from optcc.accuracy.gates import METRICS

    verdicts = report["check"]["gate"]["verdicts"] if report["check"] else []
    names = dict.fromkeys(v["metric"] for v in verdicts)
    return [
        (name, f"{METRICS[name].meaning}{', in ' + METRICS[name].unit if METRICS[name].unit else ''}")
        for name in names
        if name in METRICS
    ]


def _tiles(report: ReportJson) -> list[Tile]:
    found: list[Tile] = []
    check = report["check"]
    if check is not None and "total" in check["measurements"]:
        metrics = check["measurements"]["total"]["metrics"]
        found.append(_tile("KL to the original", metrics["kl"], "nats per token"))
        found.append(_tile("same next token", metrics["top1"], "of all positions", percent))
    elif check is not None:
        for name, outputs in list(check["measurements"].get("outputs", {}).items())[:2]:
            if "cosine" in outputs:
                found.append(_tile(f"cosine of {name}", outputs["cosine"], "mean", cosine))
            if "sqnr" in outputs and len(found) < 2:
                found.append(_tile(f"SQNR of {name}", outputs["sqnr"], "dB"))
    before, after = report["ledger"]["original_bytes"], report["artifact_bytes"]
    note = f"{times(before / after)} smaller than {human_bytes(before)}" if before > after else "not smaller"
    found.append(Tile("artifact", human_bytes(after), note))
    if speed := report["speed"]:
        side = speed["artifact"]["decode"]
        note = (
            f"{human_rate(side['median'])} tokens/s ({human_rate(side['low'])} to {human_rate(side['high'])})"
        )
        found.append(Tile("decode speed", f"{times(speed['ratio']['decode'])} the original's", note))
    return found


def _tile(name: str, estimate: EstimateJson, unit: str, show: Any = number) -> Tile:
    if estimate["low"] == estimate["high"]:
        return Tile(name, show(estimate["value"]), unit)
    bounds = f"95 %: {show(estimate['low'])} to {show(estimate['high'])}"
    return Tile(name, show(estimate["value"]), f"{unit}; {bounds}")


def _passes(report: ReportJson) -> list[PassRow]:
    rows, nodes, size = [], 0, report["ledger"]["original_bytes"]
    for row in report["passes"]:
        name, _, options = row["step"].partition("{")
        delta = row["nodes"] - nodes if nodes else 0
        did = [f"{rule} {count}" for rule, count in row["hits"].items() if count] + row["notes"]
        rows.append(
            PassRow(
                row,
                name,
                options.removesuffix("}"),
                delta,
                bytes_delta(row["weight_bytes"], size),
                ", ".join(did),
            )
        )
        nodes, size = row["nodes"], row["weight_bytes"]
    return rows


def _pass_figures(report: ReportJson, proof: Sequence[Mapping[str, Any]]) -> list[Figure]:
    if not report["passes"]:
        return []
    figures = [cost_figures.size_figure(report), cost_figures.proof_figure(proof)]
    return [figure for figure in (*figures, *cost_figures.table_figures(report["passes"])) if figure]


def _tables(report: ReportJson) -> list[tuple[str, Grid]]:
    return [
        (f"{row['step'].partition('{')[0]}: {name}", grid(table))
        for row in report["passes"]
        for name, table in row.get("tables", {}).items()
        if table
    ]
