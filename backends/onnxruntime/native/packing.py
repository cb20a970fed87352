"""Weights of `optcc.QuantizedLinear` and `optcc.QuantizedEmbedding` as the kernels read them, and back.

One layout for every instruction set, described in `src/quantized_linear/layout.h`: tiles of 16 outputs, each one
stream of scales, zero points and lines of 64 bytes (16 outputs of 4 bytes). Fields are levels plus `2^(bits-1)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

TILE = 16
"""Outputs side by side."""
LINE = 64
"""Bytes of a cache line."""
LARGEST_GROUP = 32768
"""Products of a group are added up in 32 bits."""
_AT_ONCE = 1 << 22
"""Bytes of fields packed at a time, so that a large vocabulary costs no large temporaries."""

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Canonical:
    """A table as `optcc.ir.ops.quantized` has it.

    Attributes:
        packed: levels int8 [N, K], or fields of 4 bits uint8 [N, K/2], the first in the low half.
        scale: float32 or float16 [N, K/group].
        zero: int8 [N, K/group], or None when symmetric.
    """

    packed: Array
    scale: Array
    zero: Array | None = None


@dataclass(frozen=True)
class Packing:
    """How one table lies in memory.

    Attributes:
        outputs, inputs: N and K.
        group: inputs that share a scale, a multiple of 8 that divides K.
        bits: 4 or 8.
        half: scales are float16 instead of float32.
        zeros: there are zero points.
    """

    outputs: int
    inputs: int
    group: int
    bits: int
    half: bool
    zeros: bool

    @property
    def groups(self) -> int:
        """Of one output."""
        return self.inputs // self.group

    @property
    def tiles(self) -> int:
        """Of 16 outputs, the last one filled up."""
        return -(-self.outputs // TILE)

    @property
    def lines(self) -> int:
        """Lines of one group and tile."""
        return self.group * self.bits // 32

    @property
    def scale_bytes(self) -> int:
        """Of one tile's scales, whole lines."""
        return _whole(self.groups * TILE * (2 if self.half else 4))

    @property
    def zero_bytes(self) -> int:
        """Of one tile's zero points, whole lines."""
        return _whole(self.groups * TILE) if self.zeros else 0

    @property
    def shape(self) -> tuple[int, int]:
        """[tiles, bytes of a tile], as stored."""
        return self.tiles, self.scale_bytes + self.zero_bytes + self.groups * self.lines * LINE

    def attributes(self) -> dict[str, int]:
        """Of the ONNX operators."""
        return {
            "K": self.inputs,
            "N": self.outputs,
            "group": self.group,
            "bits": self.bits,
            "half_scales": int(self.half),
            "zero_points": int(self.zeros),
        }

    def pack(self, table: Canonical) -> Bytes:
        """A table -> uint8 [tiles, bytes of a tile]."""
        stored = np.zeros(self.shape, np.uint8)
        step = max(1, _AT_ONCE // (TILE * self.inputs))
        for first in range(0, self.tiles, step):
            last = min(self.tiles, first + step)
            rows = slice(first * TILE, min(last * TILE, self.outputs))
            self._pack(table, rows, stored[first:last])
        return stored

    def _pack(self, table: Canonical, rows: slice, into: Bytes) -> None:
        scales, zeros, lines = self._parts(into)
        scales[:] = _tiles(table.scale[rows], len(into)).view(np.uint8).reshape(scales.shape)
        if table.zero is not None:
            zeros[:] = _tiles(table.zero[rows], len(into)).view(np.uint8).reshape(zeros.shape)
        stored = np.ascontiguousarray(table.packed[rows]).view(np.uint8)
        if self.bits == 8:
            fields = _fill(stored ^ np.uint8(0x80), len(into) * TILE).reshape(len(into), TILE, -1, 4)
            lines[:] = fields.transpose(0, 2, 1, 3).reshape(lines.shape)
            return
        pairs = _fill(stored, len(into) * TILE)
        fields = np.stack([pairs & 15, pairs >> 4], -1)
        halves = fields.reshape(len(into), TILE, self.groups, 2, self.lines, 4).transpose(3, 0, 2, 4, 1, 5)
        lines[:] = (halves[0] | halves[1] << 4).reshape(lines.shape)

    def unpack(self, stored: Bytes) -> Canonical:
        """The inverse of `pack`."""
        scales, zeros, lines = self._parts(stored.reshape(self.shape))
        kind = np.float16 if self.half else np.float32
        scale = _rows(scales.copy().view(kind), self.groups, self.outputs)
        zero = _rows(zeros.view(np.int8), self.groups, self.outputs) if self.zeros else None
        if self.bits == 8:
            fields = lines.reshape(self.tiles, -1, TILE, 4).transpose(0, 2, 1, 3)
            levels = fields.reshape(-1, self.inputs)[: self.outputs] ^ np.uint8(0x80)
            return Canonical(np.ascontiguousarray(levels).view(np.int8), scale, zero)
        pairs = lines.reshape(self.tiles, self.groups, self.lines, TILE, 4)
        halves = np.stack([pairs & 15, pairs >> 4], 2).transpose(0, 4, 1, 2, 3, 5)
        fields = halves.reshape(self.tiles * TILE, self.inputs)[: self.outputs]
        return Canonical(fields[:, ::2] | fields[:, 1::2] << 4, scale, zero)

    def _parts(self, stored: Bytes) -> tuple[Bytes, Bytes, Bytes]:
        """Views of scales, zero points and lines, uint8 [tiles, bytes] without what fills up their last line."""
        values = self.groups * TILE
        middle, end = self.scale_bytes, self.scale_bytes + self.zero_bytes
        scales = stored[:, : values * (2 if self.half else 4)]
        return scales, stored[:, middle : middle + (values if self.zeros else 0)], stored[:, end:]


def _whole(size: int) -> int:
    return -(-size // LINE) * LINE


def _fill(rows: Array, count: int) -> Array:
    """[n, ...] -> [count, ...] with zeros below."""
    return np.concatenate([rows, np.zeros((count - len(rows), *rows.shape[1:]), rows.dtype)])


def _tiles(by_row: Array, tiles: int) -> Array:
    """[n, groups] -> [tiles, groups, 16]."""
    filled = _fill(by_row, tiles * TILE).reshape(tiles, TILE, -1)
    return np.ascontiguousarray(filled.transpose(0, 2, 1))


def _rows(by_tile: Array, groups: int, outputs: int) -> Array:
    """[tiles, groups * 16] -> [outputs, groups]."""
    tiles = by_tile.reshape(len(by_tile), groups, TILE).transpose(0, 2, 1)
    return np.ascontiguousarray(tiles.reshape(-1, groups)[:outputs])
