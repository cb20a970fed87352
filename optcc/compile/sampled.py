"""Are tokens drawn from the distribution that was asked for? What the artifact's sampler and the engine chose, held to
probabilities that are computed here, in float64 and by sorting everything, with no code of theirs.

A token that the filters leave out must never come, and the last that they keep must come as often as it is likely. Of
all, the mean log probability of those drawn has an expectation and a deviation; a temperature or a filter that is not
applied moves the one by many of the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from optcc.compile.served import Tokens, score_together
from optcc.runtime.engine import Engine
from optcc.runtime.executor import Batch, Executor, FloatArray
from optcc.runtime.request import Request, StopConditions
from optcc.runtime.sampler import SamplingParams

_ASKED = (
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=4.0, top_k=3),
    SamplingParams(temperature=1.3, top_p=0.5),
    SamplingParams(temperature=0.8, top_k=20, top_p=0.9),
)
_DRAWS = 48
"""Of every row and parameters, half with other seeds and half at other positions."""
_DEVIATIONS = 6.0
"""By how many the mean log probability may be off: one artifact in half a billion by chance."""
_NEVER = math.log(1e-9)
"""Log of the chance below which nothing is a coincidence."""
_SLACK = 1e-6
"""Nats between scores, and share of the mass, that rounding may turn."""
NOISY = 0.05
"""The same where rows aren't alike: a text scored by itself gives other logits than the engine had."""


@dataclass(frozen=True)
class Allowed:
    """What may be drawn from one row.

    Attributes:
        chances: log probabilities f64[V], -inf for what may not be drawn.
        mean, variance: of the log probability of a token drawn.
        last: the least likely token that the filters keep.
    """

    chances: npt.NDArray[np.float64]
    mean: float
    variance: float
    last: int


def allowed(row: FloatArray, asked: SamplingParams, slack: float = _SLACK) -> Allowed:
    """The distribution over a row of logits f32[V]. Tokens within `slack` of the last that is kept may be drawn too."""
    scores = row.astype(np.float64) / asked.temperature
    ordered = -np.sort(-scores)
    if 0 < asked.top_k < len(row):
        ordered = ordered[: asked.top_k]
    weights = np.exp(ordered - ordered[0])
    share = np.cumsum(weights) / weights.sum()
    kept, edge = (
        min(len(ordered), int(np.searchsorted(share, asked.top_p + more)) + 1) for more in (-1e-12, slack)
    )
    total = ordered[0] + math.log(float(weights[:kept].sum()))
    chances = np.where(scores >= ordered[edge - 1] - slack, scores - total, -math.inf)
    logs = ordered[:kept] - total
    mean = float((np.exp(logs) * logs).sum())
    last = int(np.flatnonzero(scores == ordered[kept - 1])[0])
    return Allowed(chances, mean, float((np.exp(logs) * logs**2).sum()) - mean**2, last)


def missed(rows: Sequence[Allowed], tokens: Tokens, slack: float = _SLACK) -> float:
    """How far drawn tokens are from where they should come, in nats of mean log probability beyond chance.

    Args:
        rows: the distribution of each.
        tokens: one for each.
        slack: nats that each may be off without a fault.
    """
    found = np.array([row.chances[token] for row, token in zip(rows, tokens, strict=True)])
    if not np.isfinite(found).all() or _rarely_last(rows, tokens):
        return math.inf
    off = abs(float(found.sum()) - sum(row.mean for row in rows))
    noise = _DEVIATIONS * math.sqrt(max(0.0, sum(row.variance for row in rows))) + slack * len(rows)
    return max(0.0, off - noise) / max(1, len(rows))


def _rarely_last(rows: Sequence[Allowed], tokens: Tokens) -> bool:
    """Whether the last tokens kept come less often than chance explains (Chernoff's bound on their number)."""
    several = [(row, token) for row, token in zip(rows, tokens, strict=True) if row.variance > 0]
    wanted = sum(math.exp(row.chances[row.last]) for row, _ in several)
    seen = sum(token == row.last for row, token in several)
    if seen >= wanted:
        return False
    return (seen - wanted) - (seen * math.log(seen / wanted) if seen else 0.0) < _NEVER


def sampler_misses(executor: Executor, text: Tokens) -> float:
    """The executor's own sampler on some rows of one text: 0, or by how much what it draws is wrong, in nats."""
    rows, positions = _some_rows(len(text))
    blocks = executor.spec.blocks_for(len(text))
    executor.bind(blocks)
    handle = executor.step(_alone(text, blocks, rows))
    logits = executor.logits(handle).copy()
    worst = 0.0
    for asked in _ASKED:
        expected = [allowed(row, asked) for row in logits]
        for series in (_other_seeds(asked, positions), _other_positions(asked, positions)):
            steps = [([params] * len(rows), places) for params, places in series]
            drawn = [executor.sample(handle, *step) for step in steps]
            if drawn[0] != executor.sample(handle, *steps[0]):
                return math.inf
            worst = max(worst, missed(expected * len(drawn), [t for tokens in drawn for t in tokens]))
            if _never_differs(expected, drawn):
                return math.inf
    return worst


def engine_misses(executor: Executor, prompts: Sequence[Tokens], tokens: int, slack: float = _SLACK) -> float:
    """The engine's sampled answers, each of another seed, held to the same texts scored by themselves."""
    asked = [replace(_ASKED[i % len(_ASKED)], seed=i) for i in range(len(prompts))]
    blocks = sum(executor.spec.blocks_for(len(p) + tokens) for p in prompts)
    engine = Engine(executor, blocks=blocks)
    stop = StopConditions(max_tokens=tokens)
    with ExitStack() as running:
        streams = [
            running.enter_context(engine.stream(Request(tuple(prompt), params, stop)))
            for prompt, params in zip(prompts, asked, strict=True)
        ]
        answers = [list(stream.result().tokens) for stream in streams]
    texts = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
    rows, drawn = [], []
    for prompt, answer, params, logits in zip(
        prompts, answers, asked, score_together(executor, texts), strict=True
    ):
        rows += [allowed(row, params, slack) for row in logits[len(prompt) - 1 :]]
        drawn += answer
    return missed(rows, drawn, slack)


def _some_rows(length: int) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Eight rows of a text at most, and the positions of the tokens that they choose."""
    rows = np.unique(np.linspace(0, length - 1, 8).astype(np.int64))
    return rows, [int(row) + 1 for row in rows]


def _alone(text: Tokens, blocks: int, rows: npt.NDArray[np.int64]) -> Batch:
    return Batch(
        token_ids=np.array(text, np.int64),
        positions=np.arange(len(text)),
        query_starts=np.array([0, len(text)], np.int32),
        kv_lengths=np.array([len(text)], np.int32),
        block_table=np.arange(blocks, dtype=np.int32)[None],
        wanted_rows=rows,
    )


def _other_seeds(asked: SamplingParams, positions: list[int]) -> Iterator[tuple[SamplingParams, list[int]]]:
    return ((replace(asked, seed=seed), positions) for seed in range(_DRAWS // 2))


def _other_positions(
    asked: SamplingParams, positions: list[int]
) -> Iterator[tuple[SamplingParams, list[int]]]:
    return ((replace(asked, seed=99), [p + 1000 * i for p in positions]) for i in range(_DRAWS // 2))


def _never_differs(expected: Sequence[Allowed], drawn: Sequence[Tokens]) -> bool:
    """Whether every draw of a series gave the same tokens where that is next to impossible."""
    if any(tokens != drawn[0] for tokens in drawn):
        return False
    alike = sum(
        float(row.chances[token]) * (len(drawn) - 1) for row, token in zip(expected, drawn[0], strict=True)
    )
    return alike < _NEVER
