"""How the native operator orders what a block of a pool holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def read_blocks(name: str, pool: Array, blocks: Sequence[int]) -> Array:
    """Some blocks of a pool of [N, K, G, c] as rows: a copy [len(blocks), K, G, c].

    In memory each head's part of a block lies together: values as [G, K, C], and keys turned around, [G, C, K], so that
    one vector holds one channel of several keys. Scales have one channel and lie as keys do. Of int8, each two rows of
    a head's part alternate ([K/2, C, 2] and [C/2, K, 2]), and an odd one out lies behind them as it is: the processor
    adds two products at a time.

    Args:
        name: of the pool in the graph; values' pools are called v_pool_<layer>.
        pool: contiguous.
        blocks: which ones.
    """
    kept: Array = pool[list(blocks)].reshape(len(blocks), -1)
    return kept[:, _places(name.startswith("v_pool"), pool.dtype == np.int8, *pool.shape[1:])]


def write_blocks(name: str, pool: Array, blocks: Sequence[int], rows: npt.ArrayLike) -> None:
    """Put rows [len(blocks), K, G, c] into some blocks of a pool: the inverse of `read_blocks`."""
    places = _places(name.startswith("v_pool"), pool.dtype == np.int8, *pool.shape[1:])
    made = np.empty((len(blocks), places.size), pool.dtype)
    made[:, places] = rows
    pool[list(blocks)] = made.reshape(len(blocks), *pool.shape[1:])


@lru_cache(maxsize=16)
def _places(values: bool, paired: bool, size: int, heads: int, channels: int) -> npt.NDArray[np.int64]:
    """int64[K, G, c]: where each value of a block lies among the block's."""
    count, columns = (size, channels) if values else (channels, size)
    i, j = np.indices((count, columns))
    part = i * columns + j
    if paired:
        part = np.where(i < count - count % 2, (i // 2 * columns + j) * 2 + i % 2, part)
    of_heads = part + np.arange(heads)[:, None, None] * count * columns
    return np.ascontiguousarray(of_heads.transpose((1, 0, 2) if values else (2, 0, 1)))
