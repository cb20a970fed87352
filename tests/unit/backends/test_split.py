from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optcc.backends.onnxruntime.executor import split
from optcc.runtime.executor import Batch

BLOCK = 4


def batch_of(lengths: list[int], past: list[int], wanted: list[int]) -> Batch:
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    ends = np.array([n + p for n, p in zip(lengths, past, strict=True)], np.int32)
    columns = int(-(-ends.max() // BLOCK)) + 2
    return Batch(
        token_ids=np.arange(starts[-1], dtype=np.int64) + 1000,
        positions=np.concatenate(
            [np.arange(e - n, e, dtype=np.int64) for n, e in zip(lengths, ends, strict=True)]
        ),
        query_starts=starts,
        kv_lengths=ends,
        block_table=np.arange(len(lengths) * columns, dtype=np.int32).reshape(len(lengths), columns),
        wanted_rows=np.array(wanted, np.int64),
    )


@given(st.lists(st.tuples(st.integers(1, 70), st.integers(0, 50)), min_size=1, max_size=8), st.randoms())
def test_parts_are_the_batch(requests: list[tuple[int, int]], random: object) -> None:
    lengths, past = [n for n, _ in requests], [p for _, p in requests]
    total = sum(lengths)
    wanted = sorted({random.randrange(total) for _ in range(4)})  # type: ignore[attr-defined]
    batch = batch_of(lengths, past, wanted)
    parts = split(batch, BLOCK)
    tokens = np.concatenate([p.batch.token_ids for p in parts])
    np.testing.assert_array_equal(np.sort(tokens), batch.token_ids)
    assert sorted(np.concatenate([p.wanted for p in parts]).tolist()) == list(range(len(wanted)))
    for part in parts:
        rows = part.batch.token_ids[part.batch.wanted_rows]
        np.testing.assert_array_equal(rows, batch.token_ids[batch.wanted_rows[part.wanted]])
        padded = len(part.batch.kv_lengths) * int(np.diff(part.batch.query_starts).max())
        assert padded <= 2 * len(part.batch.token_ids) + 32


def test_similar_lengths_stay_together() -> None:
    parts = split(batch_of([1, 1, 2, 1], [5, 9, 0, 3], [0, 1, 3, 4]), BLOCK)
    assert len(parts) == 1
    assert parts[0].batch.block_table.shape == (4, 3), "columns nobody uses are cut"


def test_long_prompt_runs_apart_from_single_tokens() -> None:
    parts = split(batch_of([1, 100, 1], [5, 0, 9], [0, 100, 101]), BLOCK)
    assert [len(p.batch.token_ids) for p in parts] == [2, 100]
    assert [p.wanted.tolist() for p in parts] == [[0, 2], [1]]
    assert parts[0].batch.wanted_rows.tolist() == [0, 1]


@pytest.mark.parametrize("wanted", [[], [100]])
def test_part_may_want_no_row(wanted: list[int]) -> None:
    parts = split(batch_of([1, 100, 1], [5, 0, 9], wanted), BLOCK)
    assert parts[0].batch.wanted_rows.size == 0
