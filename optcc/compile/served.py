"""Is a text served in pieces, among others, over used pages, what it is alone? Both sides are the artifact.

`score_windows` runs one request at a time from the pool's first page, so nothing of paging, batching or chunks is in
what it measures. Here the same texts run as a busy server would run them; any difference is a fault of kernels, of
pages or of the engine, however coarse the weights are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from optcc.runtime.engine import Engine
from optcc.runtime.executor import Batch, Executor, FloatArray
from optcc.runtime.request import StopConditions
from optcc.runtime.scheduler import Limits
from optcc.runtime.score import score_windows

Tokens = Sequence[int]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Served:
    """Rows of one step: of which request, at which positions, and their logits f32[n, V]."""

    request: int
    positions: IntArray
    logits: FloatArray


def serve(
    executor: Executor, texts: Sequence[Tokens], seed: int = 0, *, together: bool = False
) -> Iterator[Served]:
    """Run texts in steps of random sizes and orders, over shuffled pages that held other keys before.

    About two thirds of the rows are asked for: which rows a step returns is part of the contract. With `together`, all
    texts run whole in one step.
    """
    draw = np.random.default_rng(seed)
    tables = _shuffled_pages(executor, texts, draw)
    done = [0] * len(texts)
    while any(d < len(t) for d, t in zip(done, texts, strict=True)):
        ready = [r for r, t in enumerate(texts) if done[r] < len(t)]
        count = len(ready) if together else int(draw.integers(1, len(ready) + 1))
        chosen = [int(r) for r in draw.permutation(ready)[:count]]
        left = [len(texts[r]) - done[r] for r in chosen]
        sizes = left if together else [_size(n, draw) for n in left]
        parts = [range(done[r], done[r] + n) for r, n in zip(chosen, sizes, strict=True)]
        batch = _batch(texts, tables, chosen, parts)
        wanted = np.flatnonzero(draw.random(len(batch.token_ids)) < 0.65).astype(np.int64)
        logits = executor.logits(executor.step(_wanting(batch, wanted)))
        owner = np.searchsorted(batch.query_starts, wanted, side="right") - 1
        for index, r in enumerate(chosen):
            mine = owner == index
            if mine.any():
                yield Served(r, batch.positions[wanted[mine]], logits[mine])
            done[r] = parts[index].stop


def serve_at_once(executor: Executor, texts: Sequence[Tokens], seed: int = 0) -> Iterator[Served]:
    """Many requests in one step, some of few tokens, and more rows than a window has.

    Kernels have tiles of rows, and what strikes only behind the first tiles needs a step that is large enough.
    """
    short = [text[: 1 + i] for i, text in enumerate([*texts, *texts])]
    many = [*texts, *short, *texts]
    owner = [i % len(texts) for i in range(len(many))]
    for found in serve(executor, many, seed, together=True):
        yield Served(owner[found.request], found.positions, found.logits)


def score_together(executor: Executor, texts: Sequence[Tokens]) -> list[FloatArray]:
    """Logits of all rows of each text f32[S, V], all texts in one step: each weight is read once."""
    needed = [executor.spec.blocks_for(len(t)) for t in texts]
    ends = np.cumsum(needed).tolist()
    executor.bind(ends[-1])
    tables = [list(range(end - count, end)) for end, count in zip(ends, needed, strict=True)]
    batch = _batch(texts, tables, range(len(texts)), [range(len(t)) for t in texts])
    logits = executor.logits(executor.step(batch))
    return [logits[a:b] for a, b in pairwise(batch.query_starts.tolist())]


def score_end(executor: Executor, text: Tokens, rows: int, most: int = 512) -> FloatArray:
    """Logits of the last rows of one text f32[rows, V], which runs in steps of at most `most` tokens."""
    blocks = executor.spec.blocks_for(len(text))
    executor.bind(blocks)
    found: list[FloatArray] = []
    for start in range(0, len(text), most):
        part = range(start, min(start + most, len(text)))
        wanted = np.array([i - start for i in part if i >= len(text) - rows], np.int64)
        done = executor.step(_wanting(_batch([text], [range(blocks)], [0], [part]), wanted))
        if len(wanted):
            found.append(executor.logits(done).copy())
    return np.concatenate(found)


def _size(left: int, draw: np.random.Generator) -> int:
    """Tokens of a chunk: one as often as many."""
    return 1 if draw.random() < 0.4 else int(draw.integers(1, min(left, 48) + 1))


def _shuffled_pages(
    executor: Executor, texts: Sequence[Tokens], draw: np.random.Generator
) -> list[list[int]]:
    """A pool all of whose pages were used by somebody else, and the pages of each text in it."""
    spec = executor.spec
    sizes = [spec.blocks_for(len(t)) for t in texts]
    blocks = sum(sizes) + 3
    executor.bind(blocks)
    most = max(1, spec.max_context // spec.block_size)
    stream = [t for text in texts for t in reversed(text)]
    for first in range(0, blocks, most):
        pages = list(range(first, min(first + most, blocks)))
        tokens = min(len(pages) * spec.block_size, spec.max_context)
        other = [stream[i % len(stream)] for i in range(tokens)]
        batch = _batch([other], [pages], [0], [range(tokens)])
        executor.step(_wanting(batch, np.zeros(0, np.int64)))
    order = iter(draw.permutation(blocks).tolist())
    return [[next(order) for _ in range(size)] for size in sizes]


def _batch(
    texts: Sequence[Tokens],
    tables: Sequence[Sequence[int]],
    chosen: Sequence[int],
    parts: Sequence[range],
) -> Batch:
    """The arrays of a step; every row is wanted."""
    width = max(len(tables[r]) for r in chosen)
    pairs = list(zip(chosen, parts, strict=True))
    rows = sum(map(len, parts))
    return Batch(
        token_ids=np.array([texts[r][i] for r, part in pairs for i in part], np.int64),
        positions=np.array([i for part in parts for i in part], np.int64),
        query_starts=np.cumsum([0, *map(len, parts)]).astype(np.int32),
        kv_lengths=np.array([part.stop for part in parts], np.int32),
        block_table=np.array([[*tables[r], *[0] * (width - len(tables[r]))] for r in chosen], np.int32),
        wanted_rows=np.arange(rows, dtype=np.int64),
    )


def _wanting(batch: Batch, rows: IntArray) -> Batch:
    """The same step, asked for other rows."""
    return Batch(
        batch.token_ids, batch.positions, batch.query_starts, batch.kv_lengths, batch.block_table, rows
    )


def answer(
    executor: Executor, prompts: Sequence[Tokens], tokens: int, *, ends: Sequence[int] | None = None
) -> list[list[int]]:
    """Greedy answers of the engine: prompts cut into chunks, and a pool too small for all of them at once.

    Args:
        executor: of the artifact.
        prompts: token ids.
        tokens: of an answer at most.
        ends: tokens that end an answer; None for the model's own.
    """
    spec = executor.spec
    each = [spec.blocks_for(len(p) + tokens) for p in prompts]
    blocks = max(max(each), sum(each) * 3 // 4) + 1
    step = max(2, sum(map(len, prompts)) // 5)
    engine = Engine(executor, blocks=blocks, limits=Limits(max_step_tokens=step))
    stop = StopConditions(max_tokens=tokens, eos_token_ids=None if ends is None else tuple(ends))
    return [list(e.tokens) for e in engine.generate([tuple(p) for p in prompts], stop=stop)]


def shortfall(
    executor: Executor,
    prompts: Sequence[Tokens],
    answers: Sequence[Tokens],
    tokens: int,
    *,
    ends: Sequence[int] | None = None,
) -> npt.NDArray[np.float64]:
    """How far the engine's greedy choices are from the artifact's own, made with one text alone.

    Arguments as of `answer`.

    Returns:
        best logit - chosen logit of every answered position, in nats: 0 when the chosen one is the best. Infinite when
        an answer doesn't end where it should: at the first end token, or after `tokens` tokens.
    """
    ending = set(executor.spec.eos_token_ids if ends is None else ends)
    behind: list[npt.NDArray[np.float64]] = []
    for prompt, found in zip(prompts, answers, strict=True):
        if not _ends_right(found, ending, tokens):
            return np.array([math.inf])
        rows = np.concatenate([c.copy() for c in score_windows(executor, [[*prompt, *found[:-1]]])])
        rows = rows[len(prompt) - 1 :].astype(np.float64)
        behind.append(rows.max(-1) - rows[np.arange(len(found)), list(found)])
    return np.concatenate(behind)


def stops_wrongly(executor: Executor, prompt: Tokens, answer: Tokens) -> bool:
    """Whether the engine, told to stop at a token of its own answer, doesn't stop there first.

    Args:
        executor: of the artifact.
        prompt, answer: what was asked, and what the engine said without that end.
    """
    if len(answer) < 2:
        return False
    end = answer[len(answer) // 2]
    blocks = executor.spec.blocks_for(len(prompt) + len(answer)) + 1
    engine = Engine(executor, blocks=blocks)
    stop = StopConditions(max_tokens=len(answer), eos_token_ids=(end,))
    found = list(engine.generate([tuple(prompt)], stop=stop)[0].tokens)
    return not _ends_right(found, {end}, len(answer))


def _ends_right(found: Tokens, ends: set[int], tokens: int) -> bool:
    early = [i for i, token in enumerate(found) if token in ends]
    return early == [len(found) - 1] if early else len(found) == tokens
