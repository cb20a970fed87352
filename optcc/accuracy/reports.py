"""What a comparison found, as facts that go to JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from optcc.accuracy.intervals import Estimate
from optcc.accuracy.metrics import Sums

Scope = Literal["each", "total"]


@dataclass(frozen=True)
class WindowSummary:
    """Means over the rows of one window: KL and rise of NLL in nats, agreement as a fraction."""

    rows: int
    kl: float
    nll: float
    top1: float

    def to_json(self) -> dict[str, object]:
        """Plain data; numbers that aren't finite become null."""
        return {"rows": self.rows, "kl": finite(self.kl), "nll": finite(self.nll), "top1": self.top1}


@dataclass(frozen=True)
class PositionSummary:
    """Mean KL, in nats, of the rows at positions `first` to `last` of their windows, counted from 0, both included."""

    first: int
    last: int
    kl: Estimate

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {"first": self.first, "last": self.last, "kl": self.kl.to_json()}


@dataclass(frozen=True)
class TextComparison:
    """Original against artifact on one text (or all of them).

    Attributes:
        name: of the text, or "total".
        digest: of its windows; empty for the total.
        tokens: in its windows; each window of S tokens gives S-1 measured rows.
        sums: totals over rows.
        nonfinite: rows where either model gave NaN or an infinite measure.
        metrics: kl, kl_p99, top1, nll, ppl_ratio with intervals.
        windows: means of each window, in order.
        positions: how KL depends on how much of the window came before.
    """

    name: str
    digest: str
    tokens: int
    sums: Sums
    nonfinite: int
    metrics: Mapping[str, Estimate]
    windows: tuple[WindowSummary, ...]
    positions: tuple[PositionSummary, ...] = ()

    @property
    def perplexity_original(self) -> float:
        """Exp of the original's mean NLL."""
        return _perplexity(self.sums.nll_original, self.sums.rows)

    @property
    def perplexity_artifact(self) -> float:
        """Exp of the artifact's mean NLL."""
        return _perplexity(self.sums.nll_artifact, self.sums.rows)

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "name": self.name,
            "digest": self.digest,
            "tokens": self.tokens,
            "rows": self.sums.rows,
            "nonfinite": self.nonfinite,
            "perplexity_original": finite(self.perplexity_original),
            "perplexity_artifact": finite(self.perplexity_artifact),
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
            "windows": [w.to_json() for w in self.windows],
            "positions": [p.to_json() for p in self.positions],
        }


@dataclass(frozen=True)
class GreedyReport:
    """Greedy answers compared: (equal leading tokens, longer length) per prompt, and the mean fraction."""

    matches: tuple[tuple[int, int], ...]
    estimate: Estimate

    @property
    def identical(self) -> int:
        """Prompts answered with the same tokens."""
        return sum(equal == length for equal, length in self.matches)

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "matches": [list(m) for m in self.matches],
            "identical": self.identical,
            "greedy": self.estimate.to_json(),
        }


@dataclass(frozen=True)
class ComparisonReport:
    """Two decoders compared: per text, in total, seconds of wall time of each side, greedy answers if run."""

    texts: tuple[TextComparison, ...]
    total: TextComparison
    original_seconds: float
    artifact_seconds: float
    greedy: GreedyReport | None = None

    def with_greedy(self, greedy: GreedyReport) -> ComparisonReport:
        """The same report with greedy answers added."""
        return replace(self, greedy=greedy)

    def measurements(self, scope: Scope = "each") -> dict[str, dict[str, Estimate]]:
        """What `gates.judge` takes: text -> metric -> estimate.

        With "each", limits hold for every text on its own, since a mean over texts can hide that one of
        them is broken; with "total", for all of them together. Greedy answers have the subject "answers".
        """
        chosen = self.texts if scope == "each" else (self.total,)
        found = {text.name: dict(text.metrics) for text in chosen}
        if self.greedy is not None:
            found["answers"] = {"greedy": self.greedy.estimate}
        return found

    def tokens(self) -> dict[str, int]:
        """Tokens by subject, for `gates.judge`."""
        return {text.name: text.tokens for text in (*self.texts, self.total)}

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "texts": [text.to_json() for text in self.texts],
            "total": self.total.to_json(),
            "original_seconds": self.original_seconds,
            "artifact_seconds": self.artifact_seconds,
            "greedy": None if self.greedy is None else self.greedy.to_json(),
        }


@dataclass(frozen=True)
class FunctionReport:
    """Two functions compared: output name -> cosine, cosine_min, max_abs, sqnr (and top1 of class scores).

    `inputs_digest` is of the arguments, where it is known.
    """

    outputs: Mapping[str, Mapping[str, Estimate]]
    inputs: int
    original_seconds: float
    artifact_seconds: float
    inputs_digest: str = ""

    def measurements(self) -> dict[str, dict[str, Estimate]]:
        """What `gates.judge` takes: output -> metric -> estimate."""
        return {name: dict(metrics) for name, metrics in self.outputs.items()}

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "outputs": {
                name: {metric: estimate.to_json() for metric, estimate in metrics.items()}
                for name, metrics in self.outputs.items()
            },
            "inputs": self.inputs,
            "inputs_digest": self.inputs_digest,
            "original_seconds": self.original_seconds,
            "artifact_seconds": self.artifact_seconds,
        }


def finite(x: float) -> float | None:
    """x, or None (JSON's null) if it is NaN or infinite."""
    return x if math.isfinite(x) else None


def _perplexity(nll: float, rows: int) -> float:
    mean = nll / rows
    if math.isnan(mean):
        return math.nan
    return math.exp(mean) if mean < 700.0 else math.inf
