"""How KL depends on the position within a window: a KV cache that loses precision, or a wrong rope, grows with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optcc.accuracy.intervals import make_units, mean_estimate
from optcc.accuracy.metrics import DoubleArray
from optcc.accuracy.reports import PositionSummary

BUCKETS = 16


def by_position(texts: Sequence[Sequence[DoubleArray]]) -> tuple[PositionSummary, ...]:
    """Mean KL in up to 16 equal stretches of positions, over all windows; a window is the sampling unit.

    Args:
        texts: KL of each row, window by window, text by text: f64[rows]. Each text has a window with rows.

    Returns:
        From the first position on. The last stretches may be of fewer windows, where windows differ in length.
    """
    longest = max(len(window) for text in texts for window in text)
    width = -(-longest // BUCKETS)
    found: list[PositionSummary] = []
    for first in range(0, longest, width):
        parts = [[w[first : first + width] for w in text if len(w) > first] for text in texts]
        parts = [text for text in parts if text]
        units = make_units([[len(part) for part in text] for text in parts])
        values = np.concatenate([part for text in parts for part in text])
        last = first + max(len(part) for text in parts for part in text) - 1
        found.append(PositionSummary(first, last, mean_estimate(values, units).mapped(float, low=0.0)))
    return tuple(found)
