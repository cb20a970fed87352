"""What a report comes to, in one sentence with figures and intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from optcc.numbers import cosine, human_bytes, number, percent, times
from optcc.report.shape import CheckJson, EstimateJson, ReportJson, VerdictJson

FRACTIONS = ("top1", "greedy")
WORDS = {"ok": "passed", "failed": "failed", "undecided": "undecided", "unchecked": "not checked"}


def status_of(report: ReportJson) -> str:
    """`ok`, `failed`, `undecided` or `unchecked`; what is asked of speed counts too."""
    check, speed = report["check"], report.get("speed_limit")
    found = str(check["gate"]["status"]) if check else str(report["status"])
    if speed is None or found == "failed" or speed["outcome"] == "pass":
        return found
    return "failed" if speed["outcome"] == "fail" else "undecided"


def verdicts_of(report: ReportJson) -> list[VerdictJson]:
    """Every limit: those of the check, and the one on speed."""
    check, speed = report["check"], report.get("speed_limit")
    return [*(check["gate"]["verdicts"] if check else ()), *([speed] if speed else ())]


def shown(metric: str) -> Callable[[float | None], str]:
    """How values of a metric are written."""
    if metric in FRACTIONS:
        return percent
    return cosine if metric.startswith("cosine") else number


def between(estimate: EstimateJson, metric: str) -> str:
    """`0.0783 (95 % interval 0.0717 to 0.085)`; an exact value stands alone."""
    show = shown(metric)
    text = show(estimate["value"])
    if estimate["low"] == estimate["high"]:
        return text
    return f"{text} (95 % interval {show(estimate['low'])} to {show(estimate['high'])})"


def verdict_sentence(report: ReportJson) -> str:
    """The verdict, what was measured on how much, and what it is worth: size, and speed where measured."""
    check = report["check"]
    if check is None:
        return "Nothing is known of its accuracy: the recipe turns the check off. " + _gain(report)
    return f"{_limits(verdicts_of(report))} {_measured(check)} {_gain(report)}"


def _limits(verdicts: Sequence[VerdictJson]) -> str:
    held = [v for v in verdicts if v["outcome"] == "pass"]
    if not verdicts:
        return "No limit was set, so none could be broken."
    if len(held) == len(verdicts):
        return "The limit holds." if len(held) == 1 else f"All {len(held)} limits hold."
    failed = [v for v in verdicts if v["outcome"] == "fail"]
    open_ones = [v for v in verdicts if v["outcome"] == "undecided"]
    parts = [f"{len(failed)} of {len(verdicts)} limits broken"] if failed else []
    parts += [f"{len(open_ones)} undecided"] if open_ones else []
    worst = (failed or open_ones)[0]
    return f"{', '.join(parts)}: {limit_sentence(worst)}."


def limit_sentence(verdict: VerdictJson) -> str:
    """`kl of prose is 0.31 (95 % interval 0.29 to 0.33), where at most 0.25 is allowed`."""
    metric, show = verdict["metric"], shown(verdict["metric"])
    relation = "at most" if verdict["direction"] == "at-most" else "at least"
    bound = f"{relation} {show(verdict['limit'])}"
    if verdict["measured"] is None:
        return f"{metric} was not measured, and {bound} is asked for"
    text = f"{metric} of {verdict['subject']} is {between(verdict['measured'], metric)}, where {bound} is asked for"
    if verdict["outcome"] == "undecided" and verdict["tokens_needed"]:
        text += f"; an estimated {verdict['tokens_needed']:,} tokens would decide"
    return text


def _measured(check: CheckJson) -> str:
    found = check["measurements"]
    if "total" in found:
        total, names = found["total"], [text["name"] for text in found["texts"]]
        kl, top1 = total["metrics"]["kl"], total["metrics"]["top1"]
        return (
            f"Over {total['tokens']:,} tokens of {_listed(names)}, KL to the original is {between(kl, 'kl')} nats per "
            f"token, and the most likely next token is the same at {between(top1, 'top1')} of the positions."
        )
    name, metrics = next(iter(found["outputs"].items()))
    metric = "cosine" if "cosine" in metrics else next(iter(metrics))
    units = metrics[metric]["units"]
    return f"Over {units:,} examples, {metric} of {name} is {between(metrics[metric], metric)}."


def _gain(report: ReportJson) -> str:
    before, after = report["ledger"]["original_bytes"], report["artifact_bytes"]
    text = f"The artifact takes {human_bytes(after)}, its weights took {human_bytes(before)} as captured"
    text += f" ({times(before / after)} smaller)" if before > after else ""
    speed = report["speed"]
    if speed is None:
        return text + "."
    rounds = f"median of {speed['rounds']} rounds"
    decode, prefill = (times(speed["ratio"][kind]) for kind in ("decode", "prefill"))
    return f"{text}; it decodes at {decode} and prefills at {prefill} the original’s speed ({rounds})."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
