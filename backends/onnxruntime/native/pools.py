"""How the native operator orders what a block of a pool holds."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt


def rows_of(name: str, pool: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A pool of [N, K, G, c] as its rows: a writable view of the same memory with the same shape.

    In memory each head's part of a block lies together: values as [G, K, C], and keys turned around, [G, C, K], so that
    one vector holds one channel of several keys. Scales have one channel and lie as keys do.

    Args:
        name: of the pool in the graph; values' pools are called v_pool_<layer>.
        pool: contiguous.
    """
    blocks, size, heads, channels = pool.shape
    if name.startswith("v_pool"):
        return pool.reshape(blocks, heads, size, channels).transpose(0, 2, 1, 3)
    return pool.reshape(blocks, heads, channels, size).transpose(0, 3, 1, 2)
