"""The comparison as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from benchmarks.cpu.results import Results
from benchmarks.cpu.statistics import Ratio, Spread, spread
from benchmarks.cpu.workload import METRICS, Metric
from optcc.accuracy.intervals import Estimate

_MARK = "~"


def page(results: Results) -> str:
    """Everything: conditions, limits, figures, ratios, and who is missing why."""
    lines = [
        f"# optcc and its peers on one CPU, {results.facts['date'].split()[0]}",
        "",
        *_conditions(results),
        "",
    ]
    for threads in results.threads():
        lines += [f"## {_threads(threads)}", "", *figures_table(results, threads), ""]
        lines += ["### How many times better optcc is", "", *ratio_tables(results, threads), ""]
    lines += ["## Limits of the machine, measured in the same run", "", *_limits(results), ""]
    if results.unavailable:
        lines += ["## Not available", ""]
        lines += [f"- {name}: {reason}" for name, reason in results.unavailable.items()]
        lines.append("")
    return "\n".join(lines)


def figures_table(results: Results, threads: int) -> list[str]:
    """One row for every metric, one column for every contestant: median (lowest–highest)."""
    names = results.contestants
    rows = [["", *names]]
    for metric in METRICS:
        cells = []
        for name in names:
            found = results.spread(name, threads, metric.key)
            mark = _MARK if results.disturbed(name, threads, metric.key) else ""
            cells.append(mark + _spread(found) if found else "–")
        rows.append([f"{metric.title}, {metric.unit}", *cells])
    rows.append(
        ["mean NLL, nats", *(f"{results.mean_nll(n):.4f}" if n in results.nll else "–" for n in names)]
    )
    rows.append(["decode reads, of the bandwidth", *(_share(results, name, threads) for name in names)])
    return _markdown(rows)


def ratio_tables(results: Results, threads: int) -> list[str]:
    """For every artifact of optcc: against each peer, the best of those no more accurate, and the best of all."""
    lines: list[str] = []
    for ours in results.ours():
        equal, peers = results.not_better(ours), results.peers()
        if not peers:
            continue
        header = [ours, *(f"{name}{' ≤' if name in equal else ''}" for name in peers)]
        rows = [[*header, "best of those marked ≤", "best of any"]]
        for metric in METRICS:
            cells = [_ratio(results.ratio(ours, name, threads, metric.key)) for name in peers]
            rows.append(
                [metric.title, *cells, *(_best(results, ours, g, threads, metric) for g in (equal, peers))]
            )
        excess = [_excess(results.nll_excess(ours, name)) for name in peers]
        rows.append(["their mean NLL less ours, nats", *excess, "", ""])
        lines += [*_markdown(rows), ""]
    return lines[:-1]


def _best(results: Results, ours: str, candidates: Sequence[str], threads: int, metric: Metric) -> str:
    name = results.best_peer(candidates, threads, metric.key)
    if name is None:
        return "–"
    return f"{_ratio(results.ratio(ours, name, threads, metric.key))} {name}"


def _conditions(results: Results) -> list[str]:
    facts: dict[str, Any] = results.facts
    host, load = facts["host"], facts["workload"]
    versions = {one.contestant.partition("/")[0]: one.version for one in results.visits}
    windows = max(map(len, results.nll.values()), default=0)
    engines = ", ".join(f"{peer} {version}" for peer, version in versions.items())
    where = (
        f"{facts['model']} on {host['cores']} cores of {host['cpu']} ({', '.join(host['cpu_flags'])}), "
        f"{host['memory'] / 2**30:.0f} GiB; {host['system']}; optcc at {facts['commit']}, "
        f"native operators: {facts['native']}. {engines}."
    )
    what = (
        f"Rounds: {load['rounds']}; in each, every contestant runs once in a process of its own, in rotated order. "
        f"Median (lowest–highest) over rounds. Decode: {load['decode_tokens']} tokens of one request after 64. "
        f"Requests: 64 tokens in, {load['answer_tokens']} out, prefill included. Greedy, end tokens ignored, no "
        f"prefix caching. Load: model files in the page cache. Mean NLL: windows of 512 tokens, {windows} of them."
    )
    how = (
        "A ratio above 1 is optcc's, whichever way the figure goes; it is the median of the rounds' ratios with a "
        "95 % bootstrap interval over rounds. ≤ marks peers that are no more accurate than the artifact (mean NLL). "
        f"{_MARK} marks figures measured while other processes used more than 5 % of the CPUs in some round."
    )
    return [where, "", what, "", how]


def _limits(results: Results) -> list[str]:
    rows = [["", "read, GB/s", "fp32, GFLOP/s", "int8, GOP/s"]]
    for threads in results.threads():
        cells = []
        for key in ("read_gb_s", "fp32_gops", "int8_gops"):
            values = [one[key] for one in results.limits if one["threads"] == threads and key in one]
            cells.append(_spread(spread(values)) if values else "–")
        rows.append([_threads(threads), *cells])
    return _markdown(rows)


def _share(results: Results, name: str, threads: int) -> str:
    """Bytes of the whole model times tokens a second, of the bandwidth: what decode reads if it reads all once."""
    decode, disk = (results.spread(name, threads, key) for key in ("decode", "disk"))
    read = [one["read_gb_s"] for one in results.limits if one["threads"] == threads]
    if decode is None or disk is None or not read:
        return "–"
    return f"{decode.median * disk.median / 1e3 / spread(read).median:.0%}"


def _spread(found: Spread) -> str:
    if found.rounds == 1 or found.low == found.high:
        return _number(found.median)
    return f"{_number(found.median)} ({_number(found.low)}–{_number(found.high)})"


def _ratio(found: Ratio | None) -> str:
    if found is None:
        return "–"
    if found.interval is None:
        return f"{found.value:.2f}"
    text = f"{found.value:.2f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"
    return f"**{text}**" if found.ahead else text


def _excess(found: Estimate | None) -> str:
    """Positive where the peer is less accurate."""
    if found is None:
        return "–"
    text = f"{found.value:+.4f}"
    return f"{text} [{found.low:+.4f}, {found.high:+.4f}]" if isfinite(found.low) else text


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in body]
