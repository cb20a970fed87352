"""The plots of size, time and speed: passes, stages, rates, and what passes measured themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from optcc.numbers import human_bytes, human_rate, human_seconds, number, percent, spread
from optcc.report.figures import Figure, x_scale, y_range
from optcc.report.scales import Scale, scale
from optcc.report.shape import PassJson, ReportJson, SpeedJson
from optcc.report.svg import RIGHT, WIDTH, Frame, bar, dot, legend, line, picture, rule, text

ROW, NAMES = 26, 150
"""Height of a row of bars, and the width left to their names."""


def size_figure(report: ReportJson) -> Figure:
    """Bytes of weights after every pass, from what was captured on."""
    sizes = [report["ledger"]["original_bytes"], *(row["weight_bytes"] for row in report["passes"])]
    names = ["captured", *(row["step"].partition("{")[0] for row in report["passes"])]
    bottom, top = y_range()
    y = scale([size / 1e6 for size in sizes], bottom, top, zero=True)
    frame = Frame("Size after every pass", x_scale(0, len(sizes) - 1), y, "passes, in order", "weights, MB")
    points = [(frame.x(i), y(size / 1e6)) for i, size in enumerate(sizes)]
    steps = [points[0], *(p for a, b in pairwise(points) for p in ((b[0], a[1]), b))]
    frame.add(line(steps, 0))
    for (x, place), name, size in zip(points, names, sizes, strict=True):
        frame.add(dot(x, place, 0, f"{name}: {human_bytes(size)}", 3))
    return Figure(
        "Size by pass", frame.draw(), "Bytes of all weights after each pass. Point at a dot for its name."
    )


def proof_figure(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """KL to the original after every pass that has it; None when fewer than two have."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for row in rows:
        kl = row.get("kl")
        if isinstance(kl, int | float):
            kl = {"value": kl, "low": kl, "high": kl}
        if isinstance(kl, Mapping) and isinstance(kl.get("value"), int | float):
            found.append((str(row.get("pass", "")).partition("{")[0], kl))
    if len(found) < 2:
        return None
    bottom, top = y_range()
    y = scale([kl.get(end) for _, kl in found for end in ("value", "low", "high")], bottom, top, zero=True)
    frame = Frame(
        "KL after every pass", x_scale(0, len(found) - 1), y, "passes, in order", "KL, nats per token"
    )
    frame.add(line([(frame.x(i), y(kl["value"])) for i, (_, kl) in enumerate(found)], 0))
    for i, (name, kl) in enumerate(found):
        if kl.get("low") is not None and kl.get("high") is not None:
            frame.add(rule(frame.x(i), y(kl["low"]), frame.x(i), y(kl["high"]), "interval"))
        frame.add(dot(frame.x(i), y(kl["value"]), 0, f"{name}: {number(kl['value'])}", 3))
    return Figure("Accuracy by pass", frame.draw(), "KL to the original after each pass, with its interval.")


def stages_figure(report: ReportJson) -> Figure:
    """Seconds per stage."""
    rows = [(name, s, human_seconds(s)) for name, s in sorted(report["stages"].items(), key=lambda i: -i[1])]
    rows = [row for row in rows if row[1] >= 0.05] or rows
    return Figure(
        "Where the time went", bars("Seconds by stage", rows), f"{human_seconds(report['seconds'])} in all."
    )


def speed_figures(speed: SpeedJson) -> Iterator[Figure]:
    """Rates of both sides with their range, one plot per kind."""
    for kind, tokens in (("decode", speed["new_tokens"]), ("prefill", speed["prompt_tokens"])):
        sides = [(name, speed[name][kind]) for name in ("original", "artifact")]  # type: ignore[literal-required]
        top = max(side["high"] for _, side in sides)
        place = Scale(0, top * 1.02, 80, WIDTH - 80)
        parts = []
        for i, (name, side) in enumerate(sides):
            y = 10 + i * 34
            words = f"{name}: {spread(side)} tokens/s"
            parts += [
                text(72, y + 16, name, "end", "tick"),
                bar(80, y, place(side["median"]) - 80, 22, 7 if i == 0 else 0, words),
                rule(place(side["low"]), y + 11, place(side["high"]), y + 11, "interval"),
                text(place(side["high"]) + 8, y + 16, f"{human_rate(side['median'])}/s", "start", "tick"),
            ]
        yield Figure(
            f"{kind}, {tokens} tokens",
            picture(f"{kind} speed", WIDTH, 80, parts),
            f"Tokens per second of one request; the line is the range of {speed['rounds']} rounds.",
        )


def table_figures(passes: Sequence[PassJson]) -> Iterator[Figure]:
    """Plots of what passes measured, where the columns are known: losses over steps, mixtures by size and KL."""
    for done in passes:
        step = done["step"].partition("{")[0]
        for name, rows in done.get("tables", {}).items():
            if len(rows) >= 4 and {"step", "loss"} <= rows[0].keys():
                yield _loss(f"{step}: {name}", rows)
            if len(rows) >= 2 and {"megabytes", "kl"} <= rows[0].keys():
                yield _frontier(f"{step}: {name}", rows)


def _loss(title: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    bottom, top = y_range()
    steps, losses = [float(r["step"]) for r in rows], [float(r["loss"]) for r in rows]
    y = scale(losses, bottom, top, zero=True)
    frame = Frame(title, x_scale(min(steps), max(steps)), y, "step", "loss")
    places = [(frame.x(s), y(v)) for s, v in zip(steps, losses, strict=True)]
    width = max(1, len(losses) // 20)
    smooth = [
        sum(losses[max(0, i - width) : i + 1]) / (i + 1 - max(0, i - width)) for i in range(len(losses))
    ]
    frame.add(line(places, 7), line([(frame.x(s), y(v)) for s, v in zip(steps, smooth, strict=True)], 0))
    return Figure(title, frame.draw(), f"Grey: every step. Blue: mean of the last {width + 1}.")


def _frontier(title: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    bottom, top = y_range()
    y = scale([r["kl"] for r in rows], bottom, top, log=True)
    sizes = scale([r["megabytes"] for r in rows], x_scale(0, 1).start, WIDTH - RIGHT)
    frame = Frame(title, sizes, y, "weights, MB", "KL, nats per token")
    best = sorted((r["megabytes"], r["kl"]) for r in rows if r.get("best") and r["kl"] > 0)
    if len(best) >= 2:
        frame.add(line([(frame.x(a), y(b)) for a, b in best], 7))
    for row in rows:
        series = 1 if row.get("chosen") else 0
        words = f"{row.get('mixture')}: {number(row['megabytes'])} MB, KL {number(row['kl'])}"
        frame.add(dot(frame.x(row["megabytes"]), y(row["kl"]), series, words, 4.5 if series else 3.2))
    return Figure(title, frame.draw(), "A dot is a measured mixture.", legend(["measured", "chosen"]))


def storage_figure(report: ReportJson) -> Figure:
    """What the stored bytes are made of."""
    ledger = report["ledger"]
    rows: list[tuple[str, float, str]] = []
    for scheme in ledger.get("schemes", []):
        for part in ("values", "scales"):
            size = scheme[part]
            rows.append((f"{scheme['scheme']} {part}", size, human_bytes(size)))
    if not rows and ledger["quantized_bytes"]:
        rows.append(("quantized", ledger["quantized_bytes"], human_bytes(ledger["quantized_bytes"])))
    rows.append(("plain weights", ledger["plain_bytes"], human_bytes(ledger["plain_bytes"])))
    other = report["artifact_bytes"] - ledger["stored_bytes"]
    rows.append(("graphs, tokenizer", other, human_bytes(other)))
    shares = ", ".join(f"{name} {percent(size / report['artifact_bytes'])}" for name, size, _ in rows[:2])
    return Figure("What the bytes are", bars("Bytes by kind of storage", rows), f"Of the artifact: {shares}.")


def bars(label: str, rows: Sequence[tuple[str, float, str]]) -> Any:
    """Horizontal bars: (name, value, what is written behind)."""
    most = max((value for _, value, _ in rows), default=1.0) or 1.0
    place, parts = Scale(0, most, NAMES, WIDTH - 90), []
    for i, (name, value, words) in enumerate(rows):
        y = 4 + i * ROW
        parts += [
            text(NAMES - 8, y + 14, shortened(name), "end", "tick"),
            bar(NAMES, y, place(value) - NAMES, 18, 0, f"{name}: {words}"),
            text(place(value) + 6, y + 14, words, "start", "tick"),
        ]
    return picture(label, WIDTH, 8 + ROW * len(rows), parts)


def shortened(name: str, most: int = 22) -> str:
    """The end of a long name."""
    return name if len(name) <= most else "…" + name[-(most - 1) :]
