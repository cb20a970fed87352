"""From a step (who, how many tokens) to the arrays an executor takes."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from optcc.runtime.executor import Batch
from optcc.runtime.request import RequestState
from optcc.runtime.scheduler import Step


def deciding(step: Step) -> list[RequestState]:
    """The requests whose next token can be chosen after this step: all their tokens are in the pool then."""
    return [state for state, count in step.items() if count == state.remaining]


def build_batch(step: Step) -> Batch:
    """The arrays of a step that is scheduled and not committed yet; requests in the step's order.

    Only a request whose last token is in the step wants a row, and it wants its last one: rows inside a
    prompt are never asked for. The rows are in the order of `deciding(step)`.
    """
    states, counts = list(step), list(step.values())
    starts = [0, *accumulate(counts)]
    columns = max(len(state.blocks) for state in states)
    table = np.zeros((len(states), columns), np.int32)
    token_ids: list[int] = []
    positions: list[int] = []
    for row, (state, count) in enumerate(step.items()):
        end = state.computed + count
        token_ids += state.tokens[state.computed : end]
        positions += range(state.computed, end)
        table[row, : len(state.blocks)] = state.blocks
    last_rows = dict(zip(states, (start - 1 for start in starts[1:]), strict=True))
    wanted = [last_rows[state] for state in deciding(step)]
    return Batch(
        token_ids=np.array(token_ids, np.int64),
        positions=np.array(positions, np.int64),
        query_starts=np.array(starts, np.int32),
        kv_lengths=np.array([s.computed + n for s, n in step.items()], np.int32),
        block_table=table,
        wanted_rows=np.array(wanted, np.int64),
    )
