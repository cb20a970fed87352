"""Small floating-point formats: e4m3 (8 bits, no infinities) and e2m1 (4 bits), as OCP MX v1.0 defines them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optcc.ir.formats.fields import pack_fields, unpack_fields


@dataclass(frozen=True)
class E4M3:
    """Eight bits: sign, 4 of exponent, 3 of mantissa; largest 448. Stored as torch.float8_e4m3fn."""

    name: str = "e4m3"
    bits: int = 8
    lowest: float = -448.0
    highest: float = 448.0
    storage: torch.dtype = torch.float8_e4m3fn

    def round(self, values: Tensor) -> Tensor:
        """Nearest level, ties to even."""
        return self.pack(values).to(torch.float32)

    def pack(self, levels: Tensor) -> Tensor:
        """Torch's own conversion rounds ties to even, but makes NaN of what is too large: hence the clamp."""
        return levels.clamp(self.lowest, self.highest).to(self.storage)

    def unpack(self, packed: Tensor) -> Tensor:
        """Levels as float32."""
        return packed.to(torch.float32)

    def packed_width(self, width: int) -> int:
        """One byte each."""
        return width

    def width(self, packed_width: int) -> int:
        """One byte each."""
        return packed_width


_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# The middle between two neighbours belongs to the one with the even mantissa bit, which is the one of even index.
_MIDDLES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


@dataclass(frozen=True)
class E2M1:
    """Four bits: sign, 2 of exponent, 1 of mantissa; 0, 0.5, 1, 1.5, 2, 3, 4, 6. Two to a byte, low half first."""

    name: str = "e2m1"
    bits: int = 4
    lowest: float = -6.0
    highest: float = 6.0
    storage: torch.dtype = torch.uint8

    def _index(self, values: Tensor) -> Tensor:
        """Index of the nearest magnitude, uint8."""
        size = values.abs()
        index = torch.zeros(values.shape, dtype=torch.uint8, device=values.device)
        for below, middle in enumerate(_MIDDLES):
            index += (size >= middle) if below % 2 else (size > middle)
        return index

    def round(self, values: Tensor) -> Tensor:
        """Nearest level, ties to even."""
        return torch.tensor(_MAGNITUDES, device=values.device)[self._index(values).int()].copysign(values)

    def pack(self, levels: Tensor) -> Tensor:
        """The sign is the highest of the four bits; zero keeps its sign."""
        return pack_fields(self._index(levels) | (levels.signbit().to(torch.uint8) << 3), self.bits)

    def unpack(self, packed: Tensor) -> Tensor:
        """Levels as float32."""
        levels = torch.tensor((*_MAGNITUDES, *(-m for m in _MAGNITUDES)), device=packed.device)
        return levels[unpack_fields(packed, self.bits).int()]

    def packed_width(self, width: int) -> int:
        """Half a byte each."""
        return width // 2

    def width(self, packed_width: int) -> int:
        """Two in a byte."""
        return packed_width * 2
