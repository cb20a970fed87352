"""Choosing a token from a row of logits.

The choice is a function of (row, params, position) alone: random numbers come from a counter-based generator
keyed by (seed, position), so neither the batch, nor the order of arrival, nor a preemption can change a
sampled text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optcc.errors import BadSampling
from optcc.runtime.executor import FloatArray, Int64Array
from optcc.runtime.faults import BadLogits


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class SamplingParams:
    """How a token is chosen. The filters apply in this order: temperature, top-k, top-p.

    Attributes:
        temperature: logits are divided by it; 0 is greedy and ignores the rest.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: of those, keep the smallest most likely set with at least this share of their mass.
        seed: 0 <= seed < 2**64.

    Raises BadSampling (E703).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not _is_real(self.temperature) or not 0.0 <= self.temperature < math.inf:
            raise BadSampling(f"temperature is {self.temperature!r}", hint="give a number >= 0; 0 is greedy")
        if type(self.top_k) is not int or self.top_k < 0:
            raise BadSampling(f"top_k is {self.top_k!r}", hint="give a whole number >= 0; 0 is off")
        if not _is_real(self.top_p) or not 0.0 < self.top_p <= 1.0:
            raise BadSampling(f"top_p is {self.top_p!r}", hint="give a number above 0, at most 1; 1 is off")
        if type(self.seed) is not int or not 0 <= self.seed < 2**64:
            raise BadSampling(f"seed is {self.seed!r}", hint="give a whole number, 0 to 2**64 - 1")

    @property
    def greedy(self) -> bool:
        """No random number is drawn."""
        return self.temperature == 0.0


GREEDY = SamplingParams()


def sample(logits: FloatArray, params: Sequence[SamplingParams], positions: Sequence[int]) -> list[int]:
    """One token for each row.

    Args:
        logits: f32[W, V]. -inf forbids a token; NaN and +inf raise BadLogits.
        params: of each row's request.
        positions: place of the token being chosen in its request (prompt included).

    Ties go to the lowest id.
    """
    best = logits.argmax(axis=1)
    # argmax stops at the first NaN, so looking at the winners is enough to find one anywhere in a row.
    if not np.isfinite(logits[np.arange(len(best)), best]).all():
        raise BadLogits("the logits hold NaN or infinity")
    return [
        int(best[row])
        if choice.greedy
        else draw(*distribution(logits[row], choice), uniform(choice.seed, position))
        for row, (choice, position) in enumerate(zip(params, positions, strict=True))
    ]


def uniform(seed: int, position: int, stream: int = 0) -> float:
    """The random number in [0, 1) of (seed, position); other values of `stream` give independent ones."""
    word = int(np.random.Philox(key=seed, counter=[position, stream, 0, 0]).random_raw())
    return (word >> 11) * 2.0**-53


def distribution(row: FloatArray, params: SamplingParams) -> tuple[Int64Array, npt.NDArray[np.float64]]:
    """The tokens that may be chosen and their probabilities, which sum to 1; most likely first where
    filtered.

    Args:
        row: f32[V].
        params: temperature above 0.

    Returns:
        ids i64[n] and probabilities f64[n], 1 <= n <= V.
    """
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the best to -inf, which is meant
        scores = (row.astype(np.float64) - float(row.max())) / params.temperature
    ids = np.arange(len(row), dtype=np.int64)
    if 0 < params.top_k < len(row):
        ids = _top_k(scores, params.top_k)
    weights = np.exp(scores[ids])
    weights /= weights.sum()
    if params.top_p < 1.0:
        kept = _top_p(ids, scores[ids], weights, params.top_p)
        ids, weights = ids[kept], weights[kept]
        weights /= weights.sum()
    return ids, weights


def draw(ids: Int64Array, probabilities: npt.NDArray[np.float64], number: float) -> int:
    """The token at `number` in [0, 1) of the cumulative distribution; never one of probability 0."""
    total = np.cumsum(probabilities)
    place = int(np.searchsorted(total, number * total[-1], side="right"))
    # Rounding can put number * total on the end: step back to the last token with any mass.
    return int(ids[min(place, int(np.flatnonzero(probabilities)[-1]))])


def _top_k(scores: npt.NDArray[np.float64], count: int) -> Int64Array:
    """Ids of the `count` highest scores, best first, ties to the lowest id."""
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = np.flatnonzero(scores > threshold)
    level = np.flatnonzero(scores == threshold)[: count - len(above)]
    above = above[np.argsort(-scores[above], kind="stable")]
    return np.concatenate([above, level]).astype(np.int64)


def _top_p(
    ids: Int64Array, scores: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], mass: float
) -> Int64Array:
    """Places in `weights` (sum 1) of the smallest set of at least `mass`, best first, ties to the lowest."""
    # All tokens below this floor together weigh less than 1 - mass, so the rest suffices: only that rest is
    # sorted.
    candidates = np.flatnonzero(weights >= (1.0 - mass) / len(weights))
    order = candidates[np.lexsort((ids[candidates], -scores[candidates]))]
    enough = int(np.searchsorted(np.cumsum(weights[order]), mass, side="left"))
    return order[: enough + 1].astype(np.int64)
