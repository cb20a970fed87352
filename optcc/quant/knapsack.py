"""Multiple-choice knapsack: one option for every item, the least cost under a limit on the sum of the weights.

Solved by dynamic programming over the limit cut into steps (Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004,
section 11.5). Weights are rounded up to whole steps, so an answer never breaks the limit; what rounding gives away is
half a step per item on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_STEPS = 1 << 16


def choose(
    costs: Sequence[Sequence[float]], weights: Sequence[Sequence[float]], limit: float
) -> list[int] | None:
    """The option of every item.

    Args:
        costs, weights: by item and option, all >= 0; items may have different numbers of options.
        limit: on the sum of the chosen weights, > 0.

    Returns:
        None when even the lightest options are too heavy.
    """
    best = np.zeros(_STEPS + 1)
    chosen: list[np.ndarray[tuple[int], np.dtype[np.int16]]] = []
    steps = [[_steps(weight, limit) for weight in options] for options in weights]
    for own, taken in zip(costs, steps, strict=True):
        totals = np.full((len(own), _STEPS + 1), math.inf)
        for option, (cost, width) in enumerate(zip(own, taken, strict=True)):
            if width <= _STEPS:
                totals[option, width:] = best[: _STEPS + 1 - width] + cost
        chosen.append(totals.argmin(axis=0).astype(np.int16))
        best = totals.min(axis=0)
    if math.isinf(best[-1]):
        return None
    answer, left = [], _STEPS
    for picks, taken in zip(reversed(chosen), reversed(steps), strict=True):
        answer.append(int(picks[left]))
        left -= taken[answer[-1]]
    return answer[::-1]


def _steps(weight: float, limit: float) -> int:
    """Whole steps, rounded up; a hair above a whole number is noise. What is too heavy may be infinite."""
    return math.ceil(min(weight / limit, 2.0) * _STEPS - 1e-6)
