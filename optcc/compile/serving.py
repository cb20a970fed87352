"""The `serving` link: the artifact under load against the artifact with one text alone, and its sampler."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from optcc.accuracy.intervals import Estimate, exact
from optcc.accuracy.metrics import FloatArray
from optcc.compile.nats import row_kl, rows_alone, worst
from optcc.compile.sampled import NOISY, engine_misses, sampler_misses
from optcc.compile.served import answer, serve, serve_at_once, shortfall, stops_wrongly
from optcc.runtime.executor import Executor

_MOST_NOISE = 0.05
"""Nats per token. No kernel's order of summation explains more."""


@dataclass(frozen=True)
class Asked:
    """Prompts, and what the engine answered greedily with `tokens` tokens at most."""

    prompts: Sequence[Sequence[int]]
    answers: Sequence[Sequence[int]]
    tokens: int


@dataclass(frozen=True)
class Serving:
    """What was seen of one executor.

    Attributes:
        alone: logits of each text by itself, f32[S, V].
        requests: KL of every token served among others to the same token alone.
        answers: by how much every token of the engine's greedy answers is not the best one.
        sampled: how far drawn tokens are from their distribution.
        spread: how far two equal requests in one batch are from the same text alone; 0 where rows are alike.
    """

    alone: Sequence[FloatArray]
    requests: npt.NDArray[np.float64]
    answers: npt.NDArray[np.float64]
    sampled: Estimate
    spread: float

    def measured(self, rounding: float) -> dict[str, Mapping[str, Estimate]]:
        """Subject to metric to estimate.

        Kernels that sum in another order for another number of rows flip roundings of activations, and no two batches
        agree. What a text may differ by without a fault follows from `spread`; but a fault of batches is in that too,
        so it is not more than what the same noise does between program and artifact.

        Args:
            rounding: KL(program || artifact), in the mean.
        """
        allowance = min(3.0 * self.spread, 3.0 * rounding, _MOST_NOISE)
        return {
            "requests": {"serving": _beyond(self.requests, allowance)},
            "engine": {"serving": _beyond(self.answers, allowance)},
            "sampler": {"serving": self.sampled},
        }


def look_at_serving(
    executor: Executor, texts: Sequence[Sequence[int]], asked: Asked, *, alike: bool
) -> Serving:
    """Serve texts and requests in every way.

    Args:
        executor: of the artifact.
        texts: tokens.
        asked: greedy answers of the engine.
        alike: whether a row is the same to the bit whatever is computed beside it.
    """
    alone = [rows_alone(executor, text) for text in texts]
    found = chain(serve(executor, texts), serve_at_once(executor, texts))
    requests = np.concatenate([row_kl(alone[s.request][s.positions], s.logits) for s in found])
    slack = {} if alike else {"slack": NOISY}
    sampled = max(
        sampler_misses(executor, texts[0]), engine_misses(executor, asked.prompts, asked.tokens, **slack)
    )
    return Serving(
        alone,
        requests,
        _answers(executor, asked),
        exact(sampled, len(asked.prompts) * asked.tokens),
        0.0 if alike else _spread(executor, texts[-1], alone[-1]),
    )


def _answers(executor: Executor, asked: Asked) -> npt.NDArray[np.float64]:
    """Infinite where an answer ends wrongly.

    Answers that all go on to the end outgrow the pool, so that requests lose their blocks and begin again; where the
    model ended some early, that is seen in answers that nothing ends.
    """
    if stops_wrongly(executor, asked.prompts[0], asked.answers[0]):
        return np.array([math.inf])
    behind = shortfall(executor, asked.prompts, asked.answers, asked.tokens)
    if all(len(found) == asked.tokens for found in asked.answers):
        return behind
    endless = answer(executor, asked.prompts, asked.tokens, ends=())
    return np.concatenate([behind, shortfall(executor, asked.prompts, endless, asked.tokens, ends=())])


def _spread(executor: Executor, text: Sequence[int], alone: FloatArray) -> float:
    pair = list(serve(executor, [text, text], together=True))
    return float(np.concatenate([row_kl(alone[s.positions], s.logits) for s in pair]).mean())


def _beyond(nats: npt.NDArray[np.float64], allowance: float) -> Estimate:
    """The worst token; where rows aren't alike, the mean of all beyond what noise explains."""
    if allowance > 0.0 and np.isfinite(nats).all():
        return exact(max(0.0, float(nats.mean()) - allowance), len(nats))
    return worst(nats)
