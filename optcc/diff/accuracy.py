"""Which of two reports is nearer to the original: paired over the same windows, or not comparable.

Both artifacts were compared with the original on the same tokens if the digests of a text agree. Then the difference of
two metrics is a mean of differences window by window, in which cancels what makes one window harder than another; its
interval is far narrower than those of the two metrics. Student's t over windows (as many degrees of freedom as windows
less texts), percentile points as in `optcc.accuracy.intervals`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

METRICS = ("kl", "nll", "top1")
"""What windows are summed up in."""
BETTER = {"kl": -1, "nll": -1, "top1": 1, "max_abs": -1}

Outcome = Literal["better", "worse", "undecided", "same"]


@dataclass(frozen=True)
class AccuracyChange:
    """A metric of one text on both sides.

    Attributes:
        text: its name, or `total`, or the output of a function.
        metric: its name.
        left, right: values.
        difference: right less left; paired where `paired` says so.
        low, high: its 95 % interval; None where there is none.
        outcome: whether right is better, worse, the same, or undecided.
        paired: whether the same windows were compared.
    """

    text: str
    metric: str
    left: float
    right: float
    difference: float
    low: float | None
    high: float | None
    outcome: Outcome
    paired: bool = True


def accuracy_changes(left: Mapping[str, Any], right: Mapping[str, Any]) -> tuple[list[AccuracyChange], str]:
    """Compare the checks of two reports.

    Returns:
        What can be compared, and why the rest can't, or an empty string.
    """
    a, b = ((report.get("check") or {}).get("measurements") for report in (left, right))
    if not a or not b:
        return [], "one of the two was not checked"
    if "texts" not in a or "texts" not in b:
        return _functions(a, b)
    ours, theirs = ({text["name"]: text for text in side["texts"]} for side in (a, b))
    shared = [n for n in ours if n in theirs and ours[n]["digest"] == theirs[n]["digest"]]
    others = [n for n in dict.fromkeys([*ours, *theirs]) if n not in shared]
    found = [
        change
        for name in shared
        for metric in METRICS
        if (change := paired(name, metric, [ours[name]["windows"]], [theirs[name]["windows"]]))
    ]
    if len(shared) > 1:
        both = [[side[n]["windows"] for n in shared] for side in (ours, theirs)]
        found += [c for metric in METRICS if (c := paired("total", metric, both[0], both[1]))]
    reason = f"other tokens were compared on {', '.join(others)}" if others else ""
    return found, reason


def paired(
    name: str,
    metric: str,
    left: Sequence[Sequence[Mapping[str, Any]]],
    right: Sequence[Sequence[Mapping[str, Any]]],
) -> AccuracyChange | None:
    """The difference of a metric over the same windows, text by text; None where a window gave no number."""
    import numpy as np

    from optcc.accuracy.intervals import Units, ratio_estimate, t_quantile

    pairs = [(x, y) for a, b in zip(left, right) for x, y in zip(a, b)]
    texts = [t for t, (a, b) in enumerate(zip(left, right)) for _ in zip(a, b)]
    if not pairs or any(x[metric] is None or y[metric] is None for x, y in pairs):
        return None
    rows = np.array([x["rows"] for x, _ in pairs], np.float64)
    ours, theirs = (np.array([pair[i][metric] for pair in pairs], np.float64) for i in (0, 1))
    units = Units(np.arange(len(pairs)), np.array(texts, np.int64))
    estimate = ratio_estimate((theirs - ours) * rows, rows, units)
    known = units.degrees >= 1 and np.isfinite(t_quantile(units.degrees))
    low, high = (estimate.low, estimate.high) if known else (None, None)
    value = estimate.value
    return AccuracyChange(
        name,
        metric,
        float((ours * rows).sum() / rows.sum()),
        float((theirs * rows).sum() / rows.sum()),
        value,
        low,
        high,
        outcome(metric, value, low, high),
    )


def outcome(metric: str, value: float, low: float | None, high: float | None) -> Outcome:
    """Better or worse if the interval leaves 0 out."""
    if value == 0 and low in (0, None) and high in (0, None):
        return "same"
    if low is None or high is None or low <= 0 <= high:
        return "undecided"
    return "better" if (value > 0) == (BETTER.get(metric, 1) > 0) else "worse"


def _functions(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[list[AccuracyChange], str]:
    """Metrics of functions, side by side: the report keeps no example's own figure to pair."""
    if "outputs" not in a or "outputs" not in b:
        return [], "one of them is a decoder, the other is not"
    if not a.get("inputs_digest") or a.get("inputs_digest") != b.get("inputs_digest"):
        return [], "other inputs were compared, or older reports don't say which"
    found = []
    for name, metrics in a["outputs"].items():
        for metric, ours in metrics.items():
            theirs = b["outputs"].get(name, {}).get(metric)
            if theirs is None or ours["value"] is None or theirs["value"] is None:
                continue
            found.append(_apart(name, metric, ours, theirs))
    return found, ""


def _apart(name: str, metric: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> AccuracyChange:
    """Two metrics over the same examples, not paired: as if the examples were different ones, which is too wide."""
    value = theirs["value"] - ours["value"]
    ends = [ours["low"], ours["high"], theirs["low"], theirs["high"]]
    low = high = None
    if None not in ends:
        half = (((ours["high"] - ours["low"]) / 2) ** 2 + ((theirs["high"] - theirs["low"]) / 2) ** 2) ** 0.5
        low, high = value - half, value + half
    verdict: Outcome = "same" if value == 0 else outcome(metric, value, low, high)
    return AccuracyChange(name, metric, ours["value"], theirs["value"], value, low, high, verdict, False)
