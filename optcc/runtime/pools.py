"""How keys and values lie in memory: a decoder's pools, what they take, and quantized blocks to floats and back.

Pools are [N, K, G, c]: c is the head width for keys and values, and 1 for the scales of quantized ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optcc.runtime.executor import FloatArray, ModelSpec

LEVELS: Mapping[str, tuple[float, float]] = {"int8": (-128.0, 127.0), "e4m3": (-448.0, 448.0)}
"""Quantized type -> its outermost levels; the largest value of a token and head becomes the highest one."""

Round = Callable[[FloatArray], FloatArray]
"""float32 to the nearest levels, ties to even, as float32."""


@dataclass(frozen=True)
class PoolKind:
    """Pools of one kind, one for each layer: their name, the type of values, and how many each token and head has.

    In a graph a layer's own is called `<name>_<layer>`.
    """

    name: str
    dtype: str
    channels: int


def pool_kinds(spec: ModelSpec) -> tuple[PoolKind, ...]:
    """All kinds: keys, values, and where they are quantized the scales of both."""
    found = [PoolKind(f"{kind}_pool", spec.kv_dtype, spec.head_dim) for kind in "kv"]
    if spec.kv_scale:
        found += [PoolKind(f"{kind}_scale_pool", spec.kv_scale, 1) for kind in "kv"]
    return tuple(found)


def requantize(
    values: FloatArray, kind: str, scale_type: str, round_levels: Round
) -> tuple[FloatArray, npt.NDArray[np.floating]]:
    """Levels and scales of keys and values f32[..., C]: levels f32[..., C], scales [..., 1] of `scale_type`.

    Values that were `level * scale` before give the same products again, bit for bit: the largest of them stands for
    the highest level or, where a float16 scale is too small to be exact, nearly so. Hence the scale is one of the three
    floats around `largest / highest`, and the first that gives all values back is taken. Other values are rounded with
    the middle one.
    """
    (lowest, highest), dtype = LEVELS[kind], np.dtype(scale_type)
    middle = (np.abs(values).max(-1, keepdims=True) / np.float32(highest)).astype(dtype)

    def levels_for(scale: npt.NDArray[np.floating]) -> FloatArray:
        steps = np.where(scale > 0, scale, 1).astype(np.float32)
        # A token that is not a number stays one through its scale alone.
        return round_levels(np.nan_to_num(np.clip(values / steps, lowest, highest)))

    scale, levels = middle, levels_for(middle)
    exact = _gives_back(levels, scale, values)
    for end in (-np.inf, np.inf):
        if exact.all():
            break
        other = np.nextafter(middle, dtype.type(end))
        other_levels = levels_for(other)
        better = _gives_back(other_levels, other, values) & ~exact
        scale, levels = np.where(better, other, scale), np.where(better, other_levels, levels)
        exact |= better
    return levels, scale


def _gives_back(
    levels: FloatArray, scale: npt.NDArray[np.floating], values: FloatArray
) -> npt.NDArray[np.bool_]:
    """Bool [..., 1]: whether levels times scale are the values."""
    found: npt.NDArray[np.bool_] = (levels * scale.astype(np.float32) == values).all(-1, keepdims=True)
    return found
