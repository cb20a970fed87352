"""Choosing tokens with the native library: what `optcc.runtime.sampler` says, without sorting the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from optcc.backends.onnxruntime.native import load
from optcc.runtime.executor import FloatArray
from optcc.runtime.faults import BadLogits
from optcc.runtime.sampler import GREEDY, SamplingParams
from optcc.runtime.sampler import sample as plain

_NO_ROW, _NO_ISA = -1, -2


@dataclass(frozen=True, eq=False)
class _Given:
    """What the library reads of each row: temperature, top_k, top_p, seed, position."""

    arrays: tuple[npt.NDArray[Any], ...]

    @cached_property
    def addresses(self) -> tuple[int, ...]:
        """Of the arrays."""
        return tuple(address_of(array) for array in self.arrays)


@lru_cache(maxsize=64)
def _largest(rows: int) -> _Given:
    """Rows whose largest logit is wanted: most steps, so it is made once. Nobody writes to it."""
    return _given([GREEDY] * rows, range(rows), 1)


def _given(params: Sequence[SamplingParams], positions: Sequence[int], vocab: int) -> _Given:
    return _Given(
        (
            np.array([p.temperature for p in params], np.float64),
            np.array([min(p.top_k, vocab) for p in params], np.int64),
            np.array([p.top_p for p in params], np.float64),
            np.array([p.seed for p in params], np.uint64),
            np.array(positions, np.int64),
        )
    )


def address_of(array: npt.NDArray[Any]) -> int:
    """Where its first element lies."""
    address: int = array.__array_interface__["data"][0]
    return address


class Rows:
    """Rows of logits that stay where they are, step after step: f32[W, V], contiguous."""

    def __init__(self, logits: FloatArray) -> None:
        self.logits = logits
        self._shape = logits.shape
        self._address = address_of(logits)
        self._tokens = np.empty(len(logits), np.int64)
        self._to = address_of(self._tokens)

    def sample(self, params: Sequence[SamplingParams], positions: Sequence[int]) -> list[int]:
        """As `sample`, of what the rows hold now."""
        library = load()
        if library is None:
            return plain(self.logits, params, positions)
        rows, vocab = self._shape
        if not rows == len(params) == len(positions):
            raise ValueError(f"{rows} rows, {len(params)} parameters, {len(positions)} positions")
        greedy = all(p.temperature == 0.0 for p in params)
        given = _largest(rows) if greedy else _given(params, positions, vocab)
        found = library.optcc_sample(self._address, rows, vocab, *given.addresses, self._to)
        if found == _NO_ISA:
            return plain(self.logits, params, positions)
        if found != _NO_ROW:
            raise BadLogits("the logits hold NaN or infinity")
        chosen: list[int] = self._tokens.tolist()
        return chosen


def sample(logits: FloatArray, params: Sequence[SamplingParams], positions: Sequence[int]) -> list[int]:
    """As `optcc.runtime.sampler.sample`, which also runs where the native library is missing.

    Weights are float64 there and float32 here: both choose the same token, but where the drawn number, or `top_p`, is
    within rounding of the boundary between two.
    """
    return Rows(np.ascontiguousarray(logits, np.float32)).sample(params, positions)
