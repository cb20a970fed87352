"""Axes of plots: from data to a place on the page, and the round numbers that are written beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A mapping of [low, high] to [start, end] in SVG units; logarithmic scales take positive values alone."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; values outside are put at the nearer end."""
        a, b, x = (math.log10(v) if self.log else v for v in (self.low, self.high, self._inside(value)))
        return self.start + (self.end - self.start) * ((x - a) / (b - a))

    def _inside(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the scale, about `count` of them."""
        return _decades(self.low, self.high) if self.log else _round_steps(self.low, self.high, count)


def scale(
    values: Iterable[float | None], start: float, end: float, *, log: bool = False, zero: bool = False
) -> Scale:
    """A scale that holds all finite values, with a little room; `zero` makes it begin at 0."""
    known = [v for v in values if v is not None and math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(known), max(known)) if known else (0.1, 1.0)
    if log:
        low, high = low / 1.15, high * 1.15
        if high / low < 3:
            low, high = low / 1.6, high * 1.6
        return Scale(low, high, start, end, True)
    low = min(0.0, low) if zero else low
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Scale(low if zero and low == 0 else low - room, high + room, start, end)


def _round_steps(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten; with fewer than two of them, 1, 2 and 5 times those."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1,), (1, 3), (1, 2, 5)):
        found = [m * 10.0**e for e in range(first, last + 1) for m in steps if low <= m * 10.0**e <= high]
        if len(found) >= 3:
            break
    while len(found) > 6:
        found = found[::2]
    return found


def tick_text(value: float) -> str:
    """A tick without needless zeros."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
