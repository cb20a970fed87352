"""Medians, and ratios paired by round with a bootstrap interval. Plain arithmetic over what was measured."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

RESAMPLES = 2000
_SEED = 17


@dataclass(frozen=True)
class Spread:
    """A figure over rounds: median, lowest, highest, and how many rounds there are."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Ratio:
    """How many times better, with a 95 % interval; the interval is None with fewer than two rounds."""

    value: float
    interval: tuple[float, float] | None
    rounds: int

    @property
    def ahead(self) -> bool:
        """Whether all of the interval is above 1."""
        return self.interval is not None and self.interval[0] > 1.0


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(median(values), min(values), max(values), len(values))


def paired_ratio(advantages: Mapping[int, float]) -> Ratio:
    """The median of the rounds' ratios and its percentile bootstrap interval over rounds.

    Both sides of a ratio come from the same round, minutes apart, so a machine that slows down for a while slows both.
    Resampling few values gives about their range: with 5 rounds the interval is [lowest, highest], which covers the
    median with 94 %; with 3 rounds the same range covers it with 75 % only.

    Args:
        advantages: ratio by round; at least one.
    """
    values = [advantages[key] for key in sorted(advantages)]
    middle = median(values)
    if len(values) < 2:
        return Ratio(middle, None, len(values))
    generator = random.Random(_SEED)  # the same measurements give the same interval
    found = sorted(median(generator.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = RESAMPLES * 25 // 1000
    return Ratio(middle, (found[tail], found[RESAMPLES - 1 - tail]), len(values))
