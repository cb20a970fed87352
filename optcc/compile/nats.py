"""Rows of logits of one text against the same rows from elsewhere, in nats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from optcc.accuracy.intervals import Estimate, exact
from optcc.accuracy.metrics import FloatArray, compare_rows
from optcc.runtime.executor import Executor
from optcc.runtime.score import score_windows


def rows_alone(executor: Executor, text: Sequence[int]) -> FloatArray:
    """Logits of one text by itself, f32[S, V]."""
    return np.concatenate([chunk.copy() for chunk in score_windows(executor, [text])])


def row_kl(left: FloatArray, right: FloatArray) -> npt.NDArray[np.float64]:
    """KL of each row, f64[n]."""
    return compare_rows(left, right, np.zeros(len(left), np.int64)).kl


def worst(nats: npt.NDArray[np.float64]) -> Estimate:
    """The largest; NaN if any is."""
    return exact(float(nats.max()), len(nats))
