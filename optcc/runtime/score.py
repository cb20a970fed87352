"""Logits of every position of given texts, for perplexity and for comparing two models.

Not part of the engine: nothing is sampled, scheduled or shared. It drives an executor by the same step
contract, so what is scored is exactly what is served.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from optcc.errors import PromptTooLong
from optcc.runtime.executor import Batch, Executor, FloatArray


def score_windows(
    executor: Executor, windows: Sequence[Sequence[int]], *, max_step_tokens: int = 512
) -> Iterator[FloatArray]:
    """Run each window from an empty cache and yield the logits of all its rows, in order.

    Args:
        executor: is bound anew to a pool of the longest window's size: not one that an engine is serving
            from.
        windows: token ids; row i of a window predicts its token i+1.
        max_step_tokens: most rows in one array, which bounds memory (512 rows of 49k f32 are 100 MB).

    Yields:
        f32[n, V] with n <= max_step_tokens: rows of one window only, so a window of at most max_step_tokens
        tokens is one array and longer ones come in several. The arrays of all windows joined are the windows
        joined.

    Raises PromptTooLong (E702) before anything runs when a window exceeds the model's context.
    """
    spec = executor.spec
    longest = max((len(window) for window in windows), default=0)
    if longest > spec.max_context:
        raise PromptTooLong(
            f"a window of {longest} tokens exceeds the context of {spec.max_context}",
            hint=f"use windows of at most {spec.max_context} tokens",
        )
    if max_step_tokens < 1:
        raise ValueError(f"max_step_tokens must be at least 1, not {max_step_tokens}")
    return _score(executor, windows, longest, max_step_tokens)


def _score(
    executor: Executor, windows: Sequence[Sequence[int]], longest: int, max_step_tokens: int
) -> Iterator[FloatArray]:
    executor.bind(max(1, executor.spec.blocks_for(longest)))
    for window in windows:
        for start in range(0, len(window), max_step_tokens):
            tokens = np.array(window[start : start + max_step_tokens], np.int64)
            count, end = len(tokens), start + len(tokens)
            batch = Batch(
                token_ids=tokens,
                positions=np.arange(start, end, dtype=np.int64),
                query_starts=np.array([0, count], np.int32),
                kv_lengths=np.array([end], np.int32),
                block_table=np.arange(executor.spec.blocks_for(end), dtype=np.int32)[None, :],
                wanted_rows=np.arange(count, dtype=np.int64),
            )
            yield executor.logits(executor.step(batch))
