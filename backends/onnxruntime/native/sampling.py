"""Choosing tokens with the native library: what `optcc.runtime.sampler` says, without sorting the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optcc.backends.onnxruntime.native import load
from optcc.runtime.executor import FloatArray
from optcc.runtime.faults import BadLogits
from optcc.runtime.sampler import SamplingParams
from optcc.runtime.sampler import sample as plain

_NO_ROW, _NO_ISA = -1, -2


def sample(logits: FloatArray, params: Sequence[SamplingParams], positions: Sequence[int]) -> list[int]:
    """As `optcc.runtime.sampler.sample`, which also runs where the native library is missing.

    Weights are float64 there and float32 here: both choose the same token, but where the drawn number, or `top_p`, is
    within rounding of the boundary between two.
    """
    library = load()
    if library is None:
        return plain(logits, params, positions)
    rows = np.ascontiguousarray(logits, np.float32)
    if not len(rows) == len(params) == len(positions):
        raise ValueError(f"{len(rows)} rows, {len(params)} parameters, {len(positions)} positions")
    tokens = np.empty(len(rows), np.int64)
    given = (
        np.array([p.temperature for p in params], np.float64),
        np.array([min(p.top_k, rows.shape[1]) for p in params], np.int64),
        np.array([p.top_p for p in params], np.float64),
        np.array([p.seed for p in params], np.uint64),
        np.array(positions, np.int64),
    )
    found = library.optcc_sample(
        rows.ctypes.data, *rows.shape, *(a.ctypes.data for a in given), tokens.ctypes.data
    )
    if found == _NO_ISA:
        return plain(logits, params, positions)
    if found != _NO_ROW:
        raise BadLogits("the logits hold NaN or infinity")
    chosen: list[int] = tokens.tolist()
    return chosen
