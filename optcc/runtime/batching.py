"""From a step (who, how many tokens) to the arrays an executor takes."""

from __future__ import annotations

import numpy as np

from optcc.runtime.executor import Batch, Int32Array
from optcc.runtime.request import RequestState
from optcc.runtime.scheduler import Step


class BatchBuilder:
    """Builds the batches of an engine.

    From step to step most requests stay, in the same order, with at most a block more: so their block tables are kept,
    and only what is new is written.
    """

    def __init__(self) -> None:
        self._table: Int32Array = np.zeros((0, 0), np.int32)
        # Of each row: whose blocks it holds, and how many of them. A request that starts over has another list.
        self._lists: list[list[int]] = []
        self._known: list[int] = []

    def build(self, step: Step) -> tuple[Batch, list[RequestState]]:
        """The arrays of a step that is scheduled and not committed yet, requests in the step's order; and those whose
        next token can be chosen after it, as all their tokens are in the pool then.

        Only these want a row, their last one: rows inside a prompt are never asked for.
        """
        columns = max([len(state.blocks) for state in step])
        self._make_room(len(step), columns)
        token_ids: list[int] = []
        positions: list[int] = []
        starts, lengths, wanted = [0], [], []
        ready: list[RequestState] = []
        for row, (state, count) in enumerate(step.items()):
            first, tokens = state.computed, state.tokens
            end = first + count
            if count == 1:
                token_ids.append(tokens[first])
                positions.append(first)
            else:
                token_ids += tokens[first:end]
                positions += range(first, end)
            starts.append(len(token_ids))
            lengths.append(end)
            if end == len(tokens):
                ready.append(state)
                wanted.append(len(token_ids) - 1)
            blocks = state.blocks
            if self._lists[row] is not blocks or self._known[row] != len(blocks):
                self._write(row, blocks)
        batch = Batch(
            token_ids=np.array(token_ids, np.int64),
            positions=np.array(positions, np.int64),
            query_starts=np.array(starts, np.int32),
            kv_lengths=np.array(lengths, np.int32),
            block_table=self._table[: len(lengths), :columns].copy(),
            wanted_rows=np.array(wanted, np.int64),
        )
        return batch, ready

    def _make_room(self, rows: int, columns: int) -> None:
        """For twice as much, so that it is seldom done."""
        if rows <= self._table.shape[0] and columns <= self._table.shape[1]:
            return
        self._table = np.zeros((max(2 * rows, 16), max(2 * columns, 16)), np.int32)
        self._lists = [[] for _ in range(len(self._table))]
        self._known = [0] * len(self._table)

    def _write(self, row: int, blocks: list[int]) -> None:
        known = self._known[row] if self._lists[row] is blocks else 0
        if known == 0:
            self._table[row] = 0
        self._table[row, known : len(blocks)] = blocks[known:]
        self._lists[row], self._known[row] = blocks, len(blocks)
