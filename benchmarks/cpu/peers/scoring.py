"""Negative log-likelihood from logits, in float64, for workers whose engine gives logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def window_nll(logits: Any, window: Sequence[int]) -> float:
    """Nats of tokens 1.. of a window; `logits` is [S, V], row i predicts token i+1."""
    total = 0.0
    for row, token in zip(logits[:-1], window[1:]):
        values = row.astype(np.float64)
        highest = values.max()
        total += float(np.log(np.exp(values - highest).sum()) + highest - values[token])
    return total
