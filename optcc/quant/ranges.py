"""Ranges of activations, found by running data through a module, and the int8 grid of each.

A range always holds 0, so that padding and rectified values are exact. Three ways to choose one:

- `max`: all values seen.
- `percentile`: all but a share of the largest and of the smallest values (Wu et al., "Integer Quantization for Deep
  Learning Inference" (2020), section 5).
- `mse`: the part of the full range whose grid has the least squared error on a histogram of the values (as
  TensorRT's and modelopt's calibrators search, with the error in place of the entropy).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from optcc.ir.interpret import interpret
from optcc.ir.module import Module

METHODS = ("max", "percentile", "mse")
_BINS = 2048
_SHRINKS = 80
_SMALLEST_PART = 0.2
LOWEST, HIGHEST = -128, 127

Batches = Sequence[Mapping[str, Tensor]]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Seen:
    """What was seen of one value, 0 included.

    Attributes:
        low, high: smallest and largest element.
        counts: f64[2048], how many elements lie in each equal part of that range; None when not asked for.
    """

    low: float
    high: float
    counts: Tensor | None = None

    def centers(self) -> Tensor:
        """Middle of every bin, f64[2048]."""
        width = (self.high - self.low) / _BINS
        return self.low + (torch.arange(_BINS, dtype=torch.float64) + 0.5) * width


@dataclass(frozen=True)
class ActivationGrid:
    """`value = (level - zero) * step` with int8 levels; zero None is a symmetric grid."""

    step: float
    zero: int | None

    @staticmethod
    def of(low: float, high: float, symmetric: bool) -> ActivationGrid:
        """The grid over a range that holds 0. A value that never moves gets steps of 1."""
        if symmetric:
            return ActivationGrid(_float32(max(-low, high) / HIGHEST) or 1.0, None)
        step = _float32((high - low) / (HIGHEST - LOWEST)) or 1.0
        return ActivationGrid(step, round(min(max(LOWEST - low / step, LOWEST), HIGHEST)))

    def bounds(self) -> tuple[int, int]:
        """The levels of the two ends, seen from 0."""
        zero = self.zero or 0
        return LOWEST - zero, HIGHEST - zero

    def clamps(self, low: float, high: float) -> bool:
        """Whether rounding to the grid gives the same with and without clamping to low..high before it: what the clamp
        changes lies on the outermost levels already."""
        lowest, highest = self.bounds()
        below = low == -math.inf or round(low / self.step) <= lowest
        above = high == math.inf or round(high / self.step) >= highest
        return below and above


def _float32(value: float) -> float:
    """As it will be stored."""
    return float(torch.tensor(value, dtype=torch.float32))


def see_ranges(
    module: Module, batches: Batches, values: Iterable[fx.Node], histograms: bool, progress: Progress
) -> dict[fx.Node, Seen]:
    """Run all batches, and again for histograms, whose range must be known first.

    Args:
        module: not changed.
        batches: inputs by name.
        values: nodes of the module that hold one floating-point tensor.
        histograms: count the values too.
        progress: told after every batch.
    """
    wanted = set(values)
    lows, highs = dict.fromkeys(wanted, 0.0), dict.fromkeys(wanted, 0.0)

    def widen(node: fx.Node, value: Tensor) -> None:
        if node in wanted and value.numel():
            low, high = torch.aminmax(value)
            lows[node], highs[node] = min(lows[node], float(low)), max(highs[node], float(high))

    _run(module, batches, widen, "ranges", progress)
    if not histograms:
        return {node: Seen(lows[node], highs[node]) for node in wanted}
    counts = {node: torch.zeros(_BINS, dtype=torch.float64) for node in wanted}

    def count(node: fx.Node, value: Tensor) -> None:
        if node in wanted and highs[node] > lows[node]:
            flat = value.detach().to(torch.float32).reshape(-1)
            counts[node] += torch.histc(flat, _BINS, lows[node], highs[node]).to(torch.float64)

    _run(module, batches, count, "histograms", progress)
    return {node: Seen(lows[node], highs[node], counts[node]) for node in wanted}


def _run(
    module: Module,
    batches: Batches,
    observe: Callable[[fx.Node, Tensor], None],
    what: str,
    progress: Progress,
) -> None:
    for index, batch in enumerate(batches):
        interpret(module, batch, observe=observe)
        progress(what, index + 1, len(batches))


def choose_grid(seen: Seen, method: str, percentile: float, symmetric: bool) -> ActivationGrid:
    """The grid for what was seen.

    Args:
        seen: with counts, unless the method is `max`.
        method: of METHODS.
        percentile: share of the values, in percent, that a range by percentile holds.
        symmetric: no zero point.
    """
    full = ActivationGrid.of(seen.low, seen.high, symmetric)
    if method == "max" or seen.counts is None or not bool(seen.counts.any()):
        return full
    if method == "percentile":
        low, high = _percentiles(seen, seen.counts, percentile)
        return ActivationGrid.of(min(low, 0.0), max(high, 0.0), symmetric)
    tried = [
        ActivationGrid.of(seen.low * part, seen.high * part, symmetric)
        for part in torch.linspace(1.0, _SMALLEST_PART, _SHRINKS).tolist()
    ]
    return min(tried, key=lambda grid: _error(grid, seen.centers(), seen.counts))


def _percentiles(seen: Seen, counts: Tensor, percentile: float) -> tuple[float, float]:
    """Bounds outside of which each side has at most its half of the share left out."""
    share = counts.cumsum(0) / counts.sum()
    out = (1.0 - percentile / 100.0) / 2.0
    width = (seen.high - seen.low) / _BINS
    first = int(torch.searchsorted(share, out, right=True))
    last = int(torch.searchsorted(share, 1.0 - out))
    return seen.low + first * width, seen.low + min(last + 1, _BINS) * width


def _error(grid: ActivationGrid, values: Tensor, counts: Tensor | None) -> float:
    """Sum of squared errors of rounding to the grid."""
    assert counts is not None
    lowest, highest = grid.bounds()
    rounded = (values / grid.step).round().clamp(lowest, highest) * grid.step
    return float(((rounded - values).square() * counts).sum())
