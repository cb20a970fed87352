"""Which tokens of one set of windows are also in another: proof that data is disjoint, whatever was done to split it.

Runs of `RUN` tokens are compared by hash. A passage of at least `RUN + STRIDE - 1` tokens that both sets hold is found,
wherever in a window it begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from optcc.accuracy.metrics import IntArray

RUN = 32
STRIDE = 16
SHARED = 0.1
"""Share of runs that two sets of real text may have in common: licences, boilerplate, a system prompt."""
REPEATED = 0.3
"""Share of runs that may be in a set twice: a long system prompt opens every conversation."""


def marks(windows: Iterable[IntArray]) -> list[str]:
    """Hashes of every STRIDE-th run of each window: what is kept of a set to compare others with."""
    return [_hash(w[i : i + RUN]) for w in windows for i in range(0, len(w) - RUN + 1, STRIDE)]


def shared(marked: Iterable[str], windows: Iterable[IntArray]) -> float:
    """The share of marked runs that the windows hold too, 0 to 1; 0 if nothing is marked."""
    wanted = list(marked)
    seen = {_hash(w[i : i + RUN]) for w in windows for i in range(len(w) - RUN + 1)}
    return sum(m in seen for m in wanted) / len(wanted) if wanted else 0.0


def repeated(windows: Iterable[IntArray]) -> float:
    """The share of marked runs that an earlier window of the same set holds too."""
    seen: set[str] = set()
    again = total = 0
    for window in windows:
        mine = marks([window])
        total += len(mine)
        again += sum(m in seen for m in mine)
        seen.update(_hash(window[i : i + RUN]) for i in range(len(window) - RUN + 1))
    return again / total if total else 0.0


def _hash(run: IntArray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(run, "<i8").tobytes(), digest_size=8).hexdigest()
