"""What a pass promises about the values a model computes; `--prove` holds it to that.

    class Fold(RewritePass):
        contract: ClassVar[Contract] = EXACT

* `EXACT`: every output is equal to the bit in the interpreter.
* `tolerance(bound)`: the same values up to rounding. The largest difference of an output is at most `bound` times the
  standard deviation of that output's values. For what adds up in another order: fusions, folded factors.
* `kl(limit)`: other values. KL(before || after) is at most `limit` nats per row of logits; of an output that isn't
  logits, the power of the error is at most `limit` times the power of the signal. Without a limit, the schemes that
  the pass packs in say it, and a pass without schemes is measured and held to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DEFAULT_TOLERANCE = 5e-4
"""Rounding in float32 through 30 layers moves the logits of real models by 1e-5 to 1e-4 of their deviation."""

Kind = Literal["exact", "tolerance", "kl"]


@dataclass(frozen=True)
class Contract:
    """A promise.

    Attributes:
        kind: `exact`, `tolerance` or `kl`.
        bound: of the largest difference, relative to an output's standard deviation; or in nats per row; None for a
            `kl` without a limit of its own.
    """

    kind: Kind
    bound: float | None = None

    def __str__(self) -> str:
        if self.kind == "exact":
            return "exact"
        if self.bound is None:
            return "kl, as the schemes allow"
        return f"{self.kind} {self.bound:g}"


EXACT = Contract("exact", 0.0)


def tolerance(bound: float = DEFAULT_TOLERANCE) -> Contract:
    """The same values up to rounding."""
    return Contract("tolerance", bound)


def kl(limit: float | None = None) -> Contract:
    """Other values, as far as `limit` nats per row; None leaves it to the schemes."""
    return Contract("kl", limit)


def joined(contracts: list[Contract]) -> Contract:
    """What several passes in a row promise together: budgets add up, and so do tolerances."""
    kinds = {c.kind for c in contracts}
    if "kl" in kinds:
        bounds = [c.bound for c in contracts if c.kind == "kl"]
        known = [b for b in bounds if b is not None]
        return kl(sum(known) if len(known) == len(bounds) else None)
    if "tolerance" in kinds:
        return tolerance(sum(c.bound or 0.0 for c in contracts))
    return EXACT
