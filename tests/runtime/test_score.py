"""Scoring windows: all rows, in bounded pieces, the same as without a cache."""

from __future__ import annotations

import numpy as np
import pytest

from optcc.errors import PromptTooLong
from optcc.runtime import score_windows

from .numpy_model import NumpyExecutor, TinyModel

WINDOWS = [np.random.default_rng(i).integers(0, 48, size).tolist() for i, size in enumerate((17, 1, 40, 8))]


@pytest.mark.parametrize("rows", [1, 7, 8, 512])
def test_rows_joined_are_the_oracle(model: TinyModel, rows: int) -> None:
    pieces = list(score_windows(NumpyExecutor(model, page_seed=2), WINDOWS, max_step_tokens=rows))
    assert max(map(len, pieces)) <= rows
    assert [len(piece) for piece in pieces] == [
        min(rows, len(window) - start) for window in WINDOWS for start in range(0, len(window), rows)
    ]
    assert np.array_equal(
        np.concatenate(pieces), np.concatenate([model.forward(window) for window in WINDOWS])
    )


def test_refused_before_anything_runs(model: TinyModel) -> None:
    executor = NumpyExecutor(model)
    with pytest.raises(PromptTooLong, match="97 tokens exceeds the context of 96"):
        score_windows(executor, [[1], [1] * 97])
    with pytest.raises(ValueError, match="max_step_tokens"):
        score_windows(executor, [[1]], max_step_tokens=0)
    assert executor.batches == []
    assert list(score_windows(executor, [])) == []
