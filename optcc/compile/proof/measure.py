"""How far outputs moved, in the measure of a contract."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from optcc.accuracy.intervals import Estimate, Units, exact, mean_estimate
from optcc.pm.contract import Contract
from optcc.quant.divergence import Reference

LOGITS = "logits"
Outcome = Literal["pass", "fail", "undecided", "measured"]
Outputs = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True)
class Figure:
    """One contract, measured.

    Attributes:
        contract: with the bound that was held against; None for a budget without a limit.
        metric: `moved`: largest difference over the standard deviation of an output; `kl`: nats per row;
            `noise`: power of the error over the power of the signal, of the worst output.
        estimate: the value with its 95 % interval; a fact without one for `moved`.
        output: which result is the worst one.
        redrawn: KL of the same modules when activations are rounded, where `moved` was measured without that.
    """

    contract: Contract
    metric: str
    estimate: Estimate
    output: str
    redrawn: float | None = None

    @property
    def outcome(self) -> Outcome:
        """`undecided` when the bound lies within the interval; `measured` when there is no bound."""
        bound, found = self.contract.bound, self.estimate
        if math.isnan(found.value):
            return "fail"
        if bound is None:
            return "measured"
        if found.high <= bound or (found.method == "exact" and found.value <= bound):
            return "pass"
        return "fail" if found.low > bound else "undecided"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "contract": self.contract.kind,
            "bound": self.contract.bound,
            "metric": self.metric,
            "measured": self.estimate.to_json(),
            "output": self.output,
            "outcome": self.outcome,
            "redrawn": self.redrawn,
        }


def measure(contract: Contract, before: Outputs, after: Outputs, units: Units | None) -> Figure:
    """Hold what a module computed after a pass against what it computed before."""
    if contract.kind == "kl":
        if units is not None and LOGITS in before[0]:
            return Figure(contract, "kl", divergence(before, after, units), LOGITS)
        value, name = max((_noise(_all(before, n), _all(after, n)), n) for n in before[0])
        return Figure(contract, "noise", exact(value, len(before)), name)
    value, name = max((moved(_all(before, n), _all(after, n)), n) for n in before[0])
    return Figure(contract, "moved", exact(value, len(before)), name)


def divergence(before: Outputs, after: Outputs, units: Units) -> Estimate:
    """KL(before || after) of the logits, nats per row, with its interval."""
    rows = Reference([b[LOGITS] for b in before]).divergences([a[LOGITS] for a in after])
    return mean_estimate(rows.numpy(), units)


def moved(before: Tensor, after: Tensor) -> float:
    """Largest difference over the standard deviation; 0 means equal to the bit; NaN where only one side is NaN.

    What is infinite or NaN on both sides is equal.
    """
    if before.shape != after.shape:
        return math.nan if before.numel() != after.numel() else moved(before.reshape(-1), after.reshape(-1))
    if torch.equal(before, after):
        return 0.0
    left, right = before.double(), after.double()
    same = (left == right) | (left.isnan() & right.isnan())
    difference = torch.where(same, 0.0, (left - right).abs())
    scale = _deviation(left)
    return float(difference.max()) / scale


def _deviation(values: Tensor) -> float:
    finite = values[values.isfinite()]
    if finite.numel() < 2:
        return float(finite.abs().max()) if finite.numel() and bool(finite.any()) else 1.0
    return float(finite.std()) or float(finite.abs().max()) or 1.0


def _noise(before: Tensor, after: Tensor) -> float:
    signal = float(before.double().square().mean())
    error = float((after.double() - before.double()).square().mean())
    return error / signal if signal else (0.0 if error == 0 else math.inf)


def _all(outputs: Outputs, name: str) -> Tensor:
    return torch.cat([batch[name].reshape(-1) for batch in outputs])
