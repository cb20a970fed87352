"""The plots of accuracy: limits, windows, positions, layers. Each takes what the report holds, or gives nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from optcc.numbers import number
from optcc.report.scales import Scale, scale
from optcc.report.sentence import shown
from optcc.report.shape import MeasurementsJson, ReportJson, TextJson, VerdictJson
from optcc.report.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Frame,
    band,
    bar,
    dot,
    legend,
    line,
    picture,
    rule,
)

_LAYER = re.compile(r"^(?P<stem>.*?)\.?(?P<layer>\d+)\.(?P<kind>.+?)(\.weight)?$")
_KINDS = 8


@dataclass(frozen=True)
class Figure:
    """A plot with its title, its legend, and a sentence on how to read it."""

    title: str
    svg: Markup
    note: str
    legend: Markup | None = None


def x_scale(low: float, high: float) -> Scale:
    """A horizontal scale without room at its ends."""
    return Scale(low, high if high > low else low + 1, LEFT, WIDTH - RIGHT)


def y_range() -> tuple[float, float]:
    """Where vertical scales lie: upwards."""
    return HEIGHT - BOTTOM, TOP


def limit_strip(verdict: VerdictJson) -> Markup:
    """The measured interval against its limit, as a strip in a table: what lies beyond the limit is shaded."""
    measured = verdict["measured"]
    if measured is None or measured["value"] is None:
        return Markup("")
    width, middle = 180.0, 11.0
    value, limit = measured["value"], verdict["limit"]
    low = value if measured["low"] is None else measured["low"]
    high = value if measured["high"] is None else measured["high"]
    at_most = verdict["direction"] == "at-most"
    ends = [low, high, limit]
    room = (max(ends) - min(ends)) * 0.25 or abs(limit) * 0.25 or 1.0
    left = 0.0 if at_most and min(ends) >= 0 else min(ends) - room
    right = max(ends) + room
    if verdict["metric"] in ("top1", "greedy", "cosine", "cosine_min"):
        right = min(right, 1.0)
    place = Scale(left, max(right, left + 1e-12), 2, width - 2)
    beyond = (place(limit), width) if at_most else (0.0, place(limit))
    style = {"pass": "good", "fail": "bad", "undecided": "open"}[verdict["outcome"]]
    show = shown(verdict["metric"])
    words = f"measured {show(value)}, within {show(low)} to {show(high)}; limit {show(limit)}"
    parts = [
        Markup('<title>{}</title><rect class="beyond" x="{:.1f}" y="2" width="{:.1f}" height="18"/>').format(
            words, beyond[0], max(0.0, beyond[1] - beyond[0])
        ),
        rule(place(limit), 2, place(limit), 20, "limit"),
        rule(place(low), middle, place(high), middle, f"interval {style}"),
        Markup('<circle class="value {}" cx="{:.1f}" cy="{}" r="4"/>').format(style, place(value), middle),
    ]
    return picture(words, width, 22, parts, "strip")


def accuracy_figures(report: ReportJson) -> Iterator[Figure]:
    """The plots of the check of a decoder."""
    check = report["check"]
    if check is None or "texts" not in check["measurements"]:
        return
    found = check["measurements"]
    limit = next((v["limit"] for v in check["gate"]["verdicts"] if v["metric"] == "kl"), None)
    yield windows_figure(found["texts"], limit)
    if any(text.get("positions") for text in found["texts"]):
        yield positions_figure(found)
    greedy = found.get("greedy")
    if greedy:
        yield greedy_figure(greedy["matches"])


def windows_figure(texts: Sequence[TextJson], limit: float | None) -> Figure:
    """KL of every window, text by text."""
    values = [(t, w["kl"]) for t, text in enumerate(texts) for w in text["windows"] if w["kl"] is not None]
    bottom, top = y_range()
    near = [limit] if limit is not None and values and limit < 4 * max(v for _, v in values) else []
    y = scale([*(v for _, v in values), *near], bottom, top, zero=True)
    frame = Frame("KL of every window", x_scale(0, len(values) + 1), y, "window", "KL, nats per token")
    at = 0
    for t, text in enumerate(texts):
        own = [w["kl"] for w in text["windows"] if w["kl"] is not None]
        mean = text["metrics"]["kl"]["value"]
        if mean is not None and own:
            frame.add(
                rule(frame.x(at + 0.5), y(mean), frame.x(at + len(own) + 0.5), y(mean), f"mean s{t % _KINDS}")
            )
        for value in own:
            at += 1
            frame.add(dot(frame.x(at), y(value), t, f"{text['name']}, window {at}: {number(value)}"))
    if limit is not None:
        frame.limit(limit, f"limit {number(limit)}")
    beyond = "" if near or limit is None else f" The limit of {number(limit)} lies far above."
    return Figure(
        "KL by window",
        frame.draw(),
        f"A dot is one window of text; a line the mean of its text.{beyond}",
        legend([text["name"] for text in texts]),
    )


def positions_figure(found: MeasurementsJson) -> Figure:
    """KL against the position in the window, with the interval of the mean over all texts."""
    total = found["total"].get("positions", [])
    shown_texts = [text for text in found["texts"] if text.get("positions")]
    values = [b["kl"]["value"] for text in shown_texts for b in text["positions"]]
    ends = [b["kl"][end] for b in total for end in ("low", "high")]
    bottom, top = y_range()
    y = scale([*values, *ends], bottom, top, zero=True)
    last = max(b["last"] for b in total)
    frame = Frame(
        "KL by position", x_scale(0, last), y, "tokens that came before in the window", "KL, nats per token"
    )
    whole = [b for b in total if None not in (b["kl"]["low"], b["kl"]["high"])]
    if whole:
        middle = [(frame.x((b["first"] + b["last"]) / 2), b["kl"]) for b in whole]
        frame.add(
            band([(x, y(k["high"] or 0)) for x, k in middle], [(x, y(k["low"] or 0)) for x, k in middle], 7)
        )
    for t, text in enumerate(shown_texts):
        points = [
            (frame.x((b["first"] + b["last"]) / 2), b)
            for b in text["positions"]
            if b["kl"]["value"] is not None
        ]
        frame.add(line([(x, y(b["kl"]["value"] or 0)) for x, b in points], t))
        for x, b in points:
            words = f"{text['name']}, positions {b['first']} to {b['last']}: {number(b['kl']['value'])}"
            frame.add(dot(x, y(b["kl"]["value"] or 0), t, words, 2.4))
    return Figure(
        "KL by position",
        frame.draw(),
        "Grey: the 95 % interval of the mean over all texts. A rise to the right would point at the KV cache or at "
        "positions.",
        legend([text["name"] for text in shown_texts]),
    )


def greedy_figure(matches: Sequence[Sequence[int]]) -> Figure:
    """How many leading tokens of each greedy answer are the original's."""
    bottom, top = y_range()
    y = Scale(0, max((length for _, length in matches), default=1) * 1.08 or 1.0, bottom, top)
    x = x_scale(0.4, len(matches) + 0.6)
    ticks = [(i + 1.0, str(i + 1)) for i in range(len(matches))]
    frame = Frame("Greedy answers", x, y, "prompt", "tokens", ticks)
    width = min(34.0, (x(2) - x(1)) * 0.7)
    for i, (equal, length) in enumerate(matches):
        left = x(i + 1) - width / 2
        frame.add(
            bar(left, y(length), width, bottom - y(length), 7, f"prompt {i + 1}: {length} tokens", faint=True)
        )
        words = f"prompt {i + 1}: the first {equal} of {length} tokens are the same"
        frame.add(bar(left, y(equal), width, bottom - y(equal), 0, words))
    return Figure(
        "Greedy answers",
        frame.draw(),
        "Leading tokens equal to the original's, of the longer answer. After the first difference two answers go their "
        "own ways, however close the models are.",
    )


def layer_errors(report: ReportJson) -> Iterator[Figure]:
    """Error of the stored weights by layer: from the ledger's rows, else from what the passes measured."""
    rows = report["ledger"].get("rows") or []
    column = next((key for key in ("relative_rms", "error", "rms") if rows and key in rows[0]), None)
    if column and (figure := layer_figure("Error of stored weights by layer", rows, column)):
        yield figure
        return
    for done in report["passes"]:
        for name, table in done.get("tables", {}).items():
            if table and "weight" in table[0] and "error" in table[0]:
                step = done["step"].partition("{")[0]
                if figure := layer_figure(f"{step}: error by layer ({name})", table, "error"):
                    yield figure


def layer_figure(title: str, rows: Sequence[Mapping[str, Any]], column: str) -> Figure | None:
    """One dot per weight, coloured by what kind of weight it is; None when too few names hold a layer's number."""
    found: list[tuple[int, str, str, float]] = []
    for row in rows:
        name = str(row.get("weight") or row.get("name") or "")
        match, value = _LAYER.match(name), row.get(column)
        if match and isinstance(value, int | float) and value > 0:
            kind = match["kind"].rpartition(".")[2]
            found.append((int(match["layer"]), kind, name, float(value)))
    if len(found) < 4:
        return None
    kinds = list(dict.fromkeys(kind for _, kind, _, _ in found))
    bottom, top = y_range()
    y = scale([value for *_, value in found], bottom, top, log=True)
    last = max(layer for layer, *_ in found)
    frame = Frame(title, x_scale(-0.5, last + 0.5), y, "layer", "relative error")
    for layer, kind, name, value in found:
        frame.add(dot(frame.x(layer), y(value), kinds.index(kind), f"{name}: {number(value)}", 3.0))
    return Figure(title, frame.draw(), "A dot is one weight, on a logarithmic scale.", legend(kinds[:_KINDS]))
