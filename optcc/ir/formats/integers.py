"""Integers: int8 as int8; fewer bits as unsigned fields, 2^(bits-1) standing for level 0."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optcc.ir.formats.fields import pack_fields, unpack_fields


@dataclass(frozen=True)
class IntegerFormat:
    """Levels lowest..highest, in fields of `bits` bits."""

    name: str
    bits: int
    lowest: int
    highest: int

    @property
    def storage(self) -> torch.dtype:
        """int8 for whole bytes, uint8 that hold several fields otherwise."""
        return torch.int8 if self.bits == 8 else torch.uint8

    def round(self, values: Tensor) -> Tensor:
        """Nearest integer, ties to even."""
        return values.round().clamp(self.lowest, self.highest)

    def pack(self, levels: Tensor) -> Tensor:
        """Levels as stored."""
        if self.bits == 8:
            return levels.to(torch.int8)
        return pack_fields((levels + (1 << (self.bits - 1))).to(torch.uint8), self.bits)

    def unpack(self, packed: Tensor) -> Tensor:
        """Levels as float32."""
        if self.bits == 8:
            return packed.to(torch.float32)
        return unpack_fields(packed, self.bits).to(torch.float32) - (1 << (self.bits - 1))

    def packed_width(self, width: int) -> int:
        """Bytes for `width` values."""
        return width * self.bits // 8

    def width(self, packed_width: int) -> int:
        """Values in `packed_width` bytes."""
        return packed_width * 8 // self.bits
