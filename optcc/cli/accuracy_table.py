"""The accuracy part of a report, drawn from its JSON: by `compile`, `check` and `inspect` alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optcc.cli.display import human_seconds, interval, new_table, number, percent, section
from optcc.numbers import cosine

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

MARKS = {"pass": ("✓", "green"), "fail": ("✗", "red"), "undecided": ("?", "yellow")}
_FRACTIONS = ("top1", "greedy")
_FUNCTION_METRICS = ("cosine", "cosine_min", "max_abs", "sqnr", "top1")
_MISTAKES = {
    "structure": "a pass changed what the program computes",
    "lowering": "the backend computes something else than the program",
    "rounding": "the backend rounds in another way than the program",
    "noise": "the backend rounds more coarsely than the program",
    "serving": "kernels or engine mix up requests, pages or chunks",
    "weights": "a weight is stored further from the original than rounding explains",
}
"""What a failed link from original to artifact says. These are bugs, of optcc or of a pass of the user's own."""
_RANK = {"fail": 0, "undecided": 1, "pass": 2}


def print_accuracy(console: Console, check: Mapping[str, Any]) -> None:
    """Measurements, then one line per limit with its verdict."""
    found = check["measurements"]
    if "texts" in found:
        section(console, "accuracy: original against artifact", _texts(found))
    else:
        section(console, f"accuracy: original against artifact, {found['inputs']} inputs", _outputs(found))
    for note in check.get("notes", ()):
        console.print(f"  note: {note}", style="dim")
    for line in limit_lines(check["gate"]["verdicts"]):
        console.print(line)


def _texts(found: Mapping[str, Any]) -> Table:
    table = new_table("text", ">tokens", "KL in nats/token [95 %]", "top-1 [95 %]", ">perplexity")
    rows = list(found["texts"]) + ([found["total"]] if len(found["texts"]) > 1 else [])
    for text in rows:
        metrics = text["metrics"]
        before, after = number(text["perplexity_original"]), number(text["perplexity_artifact"])
        table.add_row(
            text["name"],
            f"{text['tokens']:,}",
            interval(metrics["kl"]),
            interval(metrics["top1"], percent),
            f"{before} → {after}",
            style="dim" if text["name"] == "total" else "",
        )
    greedy = found.get("greedy")
    if greedy:
        match = interval(greedy["greedy"], percent)
        table.add_row(
            "greedy", "", f"{greedy['identical']} of {len(greedy['matches'])} answers identical", match, ""
        )
    return table


def _outputs(found: Mapping[str, Any]) -> Table:
    names = [m for m in _FUNCTION_METRICS if any(m in metrics for metrics in found["outputs"].values())]
    table = new_table("output", *names)
    for output, metrics in found["outputs"].items():
        cells = [interval(metrics[m], cosine) if m in metrics else "" for m in names]
        table.add_row(output, *cells)
    return table


def limit_lines(verdicts: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    """One line per limit: the verdict, the bound, and the text that came closest to breaking it.

    Where a limit is not passed, every text that doesn't pass gets its own line.
    """
    from rich.text import Text

    for metric in dict.fromkeys(v["metric"] for v in verdicts):
        rows = sorted((v for v in verdicts if v["metric"] == metric), key=_closeness)
        shown = [v for v in rows if v["outcome"] != "pass"] or rows[:1]
        for verdict in shown:
            mark, style = MARKS[verdict["outcome"]]
            line = Text("  ")
            line.append(f"{mark} {verdict['outcome']:<9}", style=style)
            line.append(f" {_bound(verdict):<22}")
            line.append(_measured(verdict, alone=len(rows) == 1))
            yield line


def _closeness(verdict: Mapping[str, Any]) -> tuple[int, float]:
    measured = verdict["measured"]
    sign = -1.0 if verdict["direction"] == "at-most" else 1.0
    value = measured["value"] if measured and measured["value"] is not None else 0.0
    return _RANK[verdict["outcome"]], sign * value


def _bound(verdict: Mapping[str, Any]) -> str:
    relation = "<=" if verdict["direction"] == "at-most" else ">="
    return f"{verdict['metric']} {relation} {number(verdict['limit'])}"


def _measured(verdict: Mapping[str, Any], alone: bool) -> str:
    if verdict["measured"] is None:
        return "not measured"
    show = percent if verdict["metric"] in _FRACTIONS else number
    where = "on" if alone or verdict["outcome"] != "pass" else "worst on"
    return f"{interval(verdict['measured'], show)} {where} {verdict['subject']}"


def mending(check: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """What to change in the recipe when limits failed or are undecided; one suggestion a line.

    Args:
        check: `Report.check`.
        recipe: `Recipe.to_json()`.
    """
    verdicts = [v for v in check["gate"]["verdicts"] if v["outcome"] != "pass"]
    failed = [v for v in verdicts if v["outcome"] == "fail"]
    found = [
        f"nothing measures {v['metric']} of this model: take its limit out of the recipe"
        for v in verdicts
        if v["measured"] is None
    ]
    undecided = [v for v in verdicts if v["outcome"] == "undecided" and v["measured"] is not None]
    if undecided:
        found.append(f"to decide what is undecided: --set check.tokens={_tokens(check, undecided, recipe)}")
    broken = [v for v in failed if v["metric"] in _MISTAKES]
    found += dict.fromkeys(f"{v['metric']} is no loss to accept: {_MISTAKES[v['metric']]}" for v in broken)
    if any(v["metric"] in ("structure", "weights") for v in broken):
        found.append("a pass of your own that changes values on purpose says so: `contract = kl(0.02)`")
    failed = [v for v in failed if v not in broken]
    if failed:
        gentler = _gentler(recipe)
        if gentler:
            found.append(f"to lose less: {gentler}")
        bounds = " ".join(
            f"--set check.limits.{m}={_room(m, failed)}" for m in dict.fromkeys(v["metric"] for v in failed)
        )
        found.append(f"to accept the loss: {bounds}")
    return found


def _tokens(
    check: Mapping[str, Any], undecided: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]
) -> int:
    """Tokens over all texts that would decide: a text gets an equal share. At least twice what was used."""
    texts = len(check["measurements"].get("texts", ())) or 1
    needed = max((v["tokens_needed"] or 0 for v in undecided), default=0) * texts * 1.25
    window = int(recipe["check"]["window"])
    wanted = max(needed, 2 * int(recipe["check"]["tokens"]))
    return -(-int(wanted) // (window * texts)) * window * texts


def _gentler(recipe: Mapping[str, Any]) -> str:
    quantizers = recipe["passes"]["quantize"]
    if not quantizers:
        return ""
    first = quantizers[0]
    ref, options = (first, {}) if isinstance(first, str) else next(iter(first.items()))
    scheme = "int8-g32-a8" if options.get("scheme") == "int8-g64-a8" else "int8-g64"
    if options.get("scheme") == scheme:
        return f"--set '{ref}.skip=[\"NAMES\"]' leaves weights in floating point"
    return f"--set {ref}.scheme={scheme}"


def _room(metric: str, failed: Sequence[Mapping[str, Any]]) -> str:
    """A bound just beyond the worst interval."""
    measured = [v["measured"] for v in failed if v["metric"] == metric and v["measured"]]
    if failed and next(v for v in failed if v["metric"] == metric)["direction"] == "at-most":
        values = [m["high"] for m in measured if m["high"] is not None]
        return f"{max(values) * 1.1:.2g}" if values else "…"
    values = [m["low"] for m in measured if m["low"] is not None]
    return f"{min(values) - 0.01:.3g}" if values else "…"


def timing_line(found: Mapping[str, Any]) -> str:
    """How long each side of the comparison took."""
    original, artifact = human_seconds(found["original_seconds"]), human_seconds(found["artifact_seconds"])
    return f"original {original}, artifact {artifact}"
