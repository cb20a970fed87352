"""The plots of the roofline: each kind of step's operators against their limits, and all of them under one roof."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from optcc.numbers import human_rate, number
from optcc.report.cost_figures import NAMES, ROW, shortened
from optcc.report.figures import Figure, x_scale, y_range
from optcc.report.scales import Scale, scale
from optcc.report.shape import MachineJson, OperatorsJson, RooflineJson
from optcc.report.svg import SERIES, WIDTH, Frame, bar, dot, legend, line, picture, text

_LONGEST = 8
_WORTH_A_DOT = 0.005
"""Share of a step that an operator takes; smaller ones would only stretch the plot."""


def roofline_figures(roofline: RooflineJson) -> Iterator[Figure]:
    """One plot for every kind of step that was measured, and one of all."""
    rows = [row for row in roofline["rows"] if row["measured_ms"]]
    for step in roofline["steps"]:
        own = [row for row in rows if row["load"] == step["name"]]
        if own and step["measured_ms"]:
            told = (
                f"Dark: the least time that this machine allows. Light: measured. A step took "
                f"{number(step['measured_ms'])} ms, all limits come to {number(step['limit_ms'])} ms."
            )
            yield Figure(step["name"], _times(step["name"], own), told)
    least = {step["name"]: _WORTH_A_DOT * (step["measured_ms"] or 0.0) for step in roofline["steps"]}
    points = [
        r for r in rows if r["operations"] and r["bytes"] and (r["measured_ms"] or 0.0) >= least[r["load"]]
    ]
    if len(points) >= 2:
        yield _roof(roofline["machine"], points, [step["name"] for step in roofline["steps"]])


def machine_pairs(machine: MachineJson) -> list[tuple[str, str]]:
    """The machine's limits in words."""
    return [
        ("reads from memory", f"{machine['read_gb_s']:.1f} GB/s"),
        ("float32 products", f"{human_rate(machine['fp32_gops'])} · 10⁹ operations/s"),
        ("int8 products", f"{human_rate(machine['int8_gops'])} · 10⁹ operations/s"),
        ("threads", str(machine["threads"])),
        ("limits measured", machine["measured"]),
    ]


def _times(label: str, rows: Sequence[OperatorsJson]) -> Markup:
    """Bars of the operators that take longest."""
    longest = sorted(rows, key=lambda row: -(row["measured_ms"] or 0.0))[:_LONGEST]
    most = max(max(row["measured_ms"] or 0.0, row["limit_ms"]) for row in longest)
    place, parts = Scale(0, most, NAMES, WIDTH - 70), []
    for i, row in enumerate(longest):
        y, took = 6 + i * ROW, row["measured_ms"] or 0.0
        words = (
            f"{row['count']} x {row['op']} {row['name']}: {number(took)} ms, the {row['bound']} limit is "
            f"{number(row['limit_ms'])} ms, {100 * (row['share'] or 0.0):.0f} % of it reached"
        )
        parts += [
            text(NAMES - 8, y + 13, _short(row), "end", "tick"),
            bar(NAMES, y, place(took) - NAMES, 16, 0, words, faint=True),
            bar(NAMES, y, place(row["limit_ms"]) - NAMES, 16, 0, words),
            text(place(max(took, row["limit_ms"])) + 6, y + 13, f"{number(took)} ms", "start", "tick"),
        ]
    return picture(f"Operators of {label}", WIDTH, 12 + ROW * len(longest), parts)


def _short(row: OperatorsJson) -> str:
    """`gate_up_proj`; of an operator without weights what it is."""
    name = row["name"].rpartition(".")[2] or row["op"].partition(" ")[0].replace("_", " ")
    return shortened(name, 18)


def _roof(machine: MachineJson, rows: Sequence[OperatorsJson], loads: Sequence[str]) -> Figure:
    """Operations per second over operations per byte, under the roofs of float32 and int8 products."""
    done = [(row, row["operations"] / row["bytes"], _rate(row)) for row in rows]
    slope, flats = machine["read_gb_s"], (machine["fp32_gops"], machine["int8_gops"])
    ridge = [flat / slope for flat in flats]
    across = scale([*(x for _, x, _ in done), *ridge], 0, 1, log=True)
    left, right = across.low, across.high * 2
    bottom, top = y_range()
    y = scale([*(rate for *_, rate in done), *flats], bottom, top, log=True)
    x = Scale(left, right, x_scale(0, 1).start, x_scale(0, 1).end, True)
    frame = Frame("Roofline", x, y, "operations per byte", "10⁹ operations per second")
    start = max(left, y.low / slope)
    for flat, turn in zip(flats, ridge, strict=True):
        frame.add(line([(x(start), y(slope * start)), (x(turn), y(flat)), (x(right), y(flat))], SERIES - 1))
    names = ("float32", "int8") if flats[1] > 1.05 * flats[0] else ("float32 and int8",)
    for name, flat in zip(names, flats, strict=False):
        frame.add(text(x(right) - 4, y(flat) + (14 if name == "float32" else -5), name, "end", "tick"))
    for row, at, rate in done:
        words = (
            f"{row['load']}: {row['count']} x {row['op']} {row['name']}, {100 * (row['share'] or 0.0):.0f} % of its "
            f"{row['bound']} limit"
        )
        frame.add(dot(x(at), y(rate), loads.index(row["load"]), words))
    told = (
        "A dot is a kind of operator; the lines are what memory (rising) and arithmetic (level) allow here."
    )
    return Figure("Roofline", frame.draw(), told, legend(loads))


def _rate(row: OperatorsJson) -> float:
    """10^9 operations a second."""
    return row["operations"] / (row["measured_ms"] or 1.0) / 1e6
