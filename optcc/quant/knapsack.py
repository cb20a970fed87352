"""Multiple-choice knapsack: one option for every item, the least cost under a limit on the sum of the weights.

Solved by dynamic programming over the limit cut into steps (Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004,
section 11.5). Weights are rounded to whole steps, and the answer is checked against the limit with the weights as they
are: the best of those that keep it is taken. What rounding gives away is a few of 65536 steps.
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
    steps = [[_steps(weight, limit) for weight in options] for options in weights]
    # Rounding down takes at most half a step off each item, so an answer that keeps the limit has at most so many.
    most = _STEPS + len(steps) // 2 + 1
    best = np.zeros(most + 1)
    chosen: list[np.ndarray[tuple[int], np.dtype[np.int16]]] = []
    for own, taken in zip(costs, steps, strict=True):
        totals = np.full((len(own), most + 1), math.inf)
        for option, (cost, width) in enumerate(zip(own, taken, strict=True)):
            if width <= most:
                totals[option, width:] = best[: most + 1 - width] + cost
        chosen.append(totals.argmin(axis=0).astype(np.int16))
        best = totals.min(axis=0)
    for left in range(most, -1, -1):
        if math.isinf(best[left]):
            return None
        answer = _answer(chosen, steps, left)
        if sum(options[pick] for options, pick in zip(weights, answer, strict=True)) <= limit * (1 + 1e-12):
            return answer
    return None


def _answer(
    chosen: Sequence[np.ndarray[tuple[int], np.dtype[np.int16]]], steps: Sequence[Sequence[int]], left: int
) -> list[int]:
    """The options that make up the best sum of at most `left` steps."""
    answer: list[int] = []
    for picks, taken in zip(reversed(chosen), reversed(steps), strict=True):
        answer.append(int(picks[left]))
        left -= taken[answer[-1]]
    return answer[::-1]


def _steps(weight: float, limit: float) -> int:
    """Whole steps. What is too heavy may be infinite."""
    return round(min(weight / limit, 2.0) * _STEPS)
