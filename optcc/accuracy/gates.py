"""Limits of the recipe, held against measurements: each one passes, fails, or is undecided.

A limit passes when the whole 95 % interval is on the right side of it, fails when the whole interval is on
the wrong side, and is undecided when the interval straddles it. Exit code 0 needs every limit passed: what
was not measured, or not measured well enough, is not right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from optcc.accuracy.intervals import Estimate
from optcc.errors import RecipeField, nearest

Direction = Literal["at-most", "at-least"]
Outcome = Literal["pass", "fail", "undecided"]
Status = Literal["ok", "failed", "undecided"]
Subject = Literal["text", "output"]

# More tokens than this would be a wrong promise: the value is on the limit.
_MAX_TOKENS = 100_000_000


@dataclass(frozen=True)
class Metric:
    """A thing that can be limited: its name in recipes, which side is good, its unit, what it is, what has it.

    A decoder is measured on texts, a function on its outputs; only outputs that hold class scores have `top1` too.
    """

    name: str
    direction: Direction
    unit: str
    meaning: str
    subject: Subject = "text"


METRICS: Mapping[str, Metric] = {
    m.name: m
    for m in (
        Metric("kl", "at-most", "nats", "mean KL(original || artifact) per token"),
        Metric("kl_p99", "at-most", "nats", "KL that 99 % of the tokens stay under"),
        Metric("top1", "at-least", "fraction", "positions where both have the same most likely token"),
        Metric("nll", "at-most", "nats", "rise of the mean negative log-likelihood of the text"),
        Metric("ppl_ratio", "at-most", "", "perplexity of the artifact / of the original"),
        Metric("greedy", "at-least", "fraction", "leading greedy tokens equal to the original's"),
        Metric("structure", "at-most", "nats", "KL of the program with the original's weights, worst token"),
        Metric(
            "lowering",
            "at-most",
            "nats",
            "KL of the backend from the program, activations unrounded, worst token",
        ),
        Metric("rounding", "at-most", "nats", "mean KL of the artifact from its own program, per token"),
        Metric("noise", "at-most", "", "what rounding costs the artifact / what it costs the program"),
        Metric("serving", "at-most", "nats", "KL of a token served among others from the same alone, worst"),
        Metric("weights", "at-most", "", "error of a stored weight / that of rounding to nearest, worst"),
        Metric("cosine", "at-least", "", "mean cosine of output vectors", "output"),
        Metric("cosine_min", "at-least", "", "smallest cosine of any output vector seen", "output"),
        Metric("max_abs", "at-most", "", "largest absolute error of any output element seen", "output"),
        Metric("sqnr", "at-least", "dB", "signal power / error power of the outputs", "output"),
    )
}

LINKS: Mapping[str, float] = {
    "structure": 1e-9,
    "lowering": 1e-7,
    "rounding": 0.03,
    "noise": 1.5,
    "serving": 1e-6,
    "weights": 4.0,
}
"""Metrics of the steps from original to artifact, and their limits. Coarse weights have no part in them. `rounding` has
room because a sum that differs in its last bit flips a rounding of activations now and then, and the next layers many:
program and artifact are two samples of the same noise. How loud it is must be the same, which `noise` says."""
NARROW_STRUCTURE = 0.03
"""The limit of `structure` where the program computes in a type of 8 or 11 bits and the original in float32."""


@dataclass(frozen=True)
class Limit:
    """A bound on one metric; the direction belongs to the metric."""

    metric: str
    value: float
    direction: Direction

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.direction == 'at-most' else '>='} {self.value:g}"


@dataclass(frozen=True)
class Verdict:
    """What one limit says about one text, or about one output of a function.

    Attributes:
        subject: name of the text or output, or "total".
        limit: the bound.
        measured: value and interval; None if it was not measured.
        outcome: pass, fail or undecided.
        tokens_needed: of an undecided limit, how many tokens of this text would probably decide it; None when
            more tokens wouldn't help or the metric isn't measured in tokens.
    """

    subject: str
    limit: Limit
    measured: Estimate | None
    outcome: Outcome
    tokens_needed: int | None = None

    @property
    def reason(self) -> str:
        """One line for people."""
        where = f"{self.subject}: {self.limit}"
        if self.measured is None:
            return f"{where} undecided: not measured"
        m = self.measured
        text = f"{where} {self.outcome}: measured {m.value:.4g}"
        if m.low != m.high:
            text += f", 95 % within [{m.low:.4g}, {m.high:.4g}]"
        if self.tokens_needed is not None:
            text += f"; about {self.tokens_needed} tokens of it would decide"
        elif self.outcome == "undecided":
            text += "; too close to the limit to decide" if m.method != "none" else "; too little data"
        return text

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "subject": self.subject,
            "metric": self.limit.metric,
            "limit": self.limit.value,
            "direction": self.limit.direction,
            "outcome": self.outcome,
            "measured": None if self.measured is None else self.measured.to_json(),
            "tokens_needed": self.tokens_needed,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class GateReport:
    """All verdicts. Without limits the status is ok: nothing was promised."""

    verdicts: tuple[Verdict, ...]

    @property
    def status(self) -> Status:
        """Failed if any limit failed, else undecided if any is undecided, else ok."""
        outcomes = {v.outcome for v in self.verdicts}
        if "fail" in outcomes:
            return "failed"
        return "undecided" if "undecided" in outcomes else "ok"

    @property
    def exit_code(self) -> int:
        """0 for ok, 1 for failed and undecided."""
        return 0 if self.status == "ok" else 1

    @property
    def problems(self) -> tuple[Verdict, ...]:
        """Verdicts that aren't a pass, failures first."""
        return tuple(
            sorted((v for v in self.verdicts if v.outcome != "pass"), key=lambda v: v.outcome != "fail")
        )

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {"status": self.status, "verdicts": [v.to_json() for v in self.verdicts]}


def parse_limits(limits: Mapping[str, object], *, where: str | None = None) -> tuple[Limit, ...]:
    """Limits from a recipe's `check.limits` or a scheme's defaults.

    Args:
        limits: metric name to bound.
        where: file and line, for the error.

    Raises:
        RecipeField: unknown metric, or a bound that isn't a finite number.
    """
    found: list[Limit] = []
    for name, value in limits.items():
        metric = METRICS.get(name)
        if metric is None:
            raise RecipeField(f"no metric is called {name!r}", where=where, hint=nearest(str(name), METRICS))
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RecipeField(
                f"the limit of {name} is a number, not {value!r}",
                where=where,
                hint=f"{name}: {metric.meaning}",
            )
        found.append(Limit(name, float(value), metric.direction))
    return tuple(found)


def judge(
    limits: Sequence[Limit],
    measured: Mapping[str, Mapping[str, Estimate]],
    tokens: Mapping[str, int] | None = None,
) -> GateReport:
    """Hold every limit against every subject that has the metric.

    Args:
        limits: what was promised.
        measured: subject (text, output or "total") -> metric -> estimate.
        tokens: tokens each subject was measured on, to say how many would decide.

    Returns:
        Verdicts, limit by limit; a limit that no subject measured gives one undecided verdict.
    """
    verdicts: list[Verdict] = []
    for limit in limits:
        subjects = [
            (name, metrics[limit.metric]) for name, metrics in measured.items() if limit.metric in metrics
        ]
        if not subjects:
            verdicts.append(Verdict("all", limit, None, "undecided"))
        for name, estimate in subjects:
            found = outcome(limit, estimate)
            count = (tokens or {}).get(name)
            needed = _tokens_needed(limit, estimate, count) if found == "undecided" and count else None
            verdicts.append(Verdict(name, limit, estimate, found, needed))
    return GateReport(tuple(verdicts))


def outcome(limit: Limit, measured: Estimate) -> Outcome:
    """Which side of the limit the whole interval is on, if it is on one."""
    if math.isnan(measured.value) or math.isnan(measured.low) or math.isnan(measured.high):
        return "fail"  # a model that gives NaN is wrong, whatever else it gives
    best, worst = measured.low, measured.high
    if limit.direction == "at-least":
        best, worst = -measured.high, -measured.low
    bound = limit.value if limit.direction == "at-most" else -limit.value
    if worst <= bound:
        return "pass"
    return "fail" if best > bound else "undecided"


def _tokens_needed(limit: Limit, measured: Estimate, tokens: int) -> int | None:
    """Tokens at which the interval, shrinking with their square root, would leave the limit out."""
    margin = abs(limit.value - measured.value)
    half = measured.high - measured.value if limit.value > measured.value else measured.value - measured.low
    if margin == 0.0 or not math.isfinite(half):
        return None
    needed = tokens * (half / margin) ** 2
    return math.ceil(needed) if needed < _MAX_TOKENS else None
