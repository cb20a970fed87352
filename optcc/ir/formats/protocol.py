"""What every number format can do."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class NumberFormat(Protocol):
    """Levels, rounding and storage of one number format.

    Attributes:
        name: as in schemes and operators.
        bits: of one stored value.
        lowest, highest: the outermost levels.
        storage: type of the packed tensor.
    """

    @property
    def name(self) -> str: ...

    @property
    def bits(self) -> int: ...

    @property
    def lowest(self) -> float: ...

    @property
    def highest(self) -> float: ...

    @property
    def storage(self) -> torch.dtype: ...

    def round(self, values: Tensor) -> Tensor:
        """The nearest level of every value, ties to even, float32, outermost levels for what lies beyond."""
        ...

    def pack(self, levels: Tensor) -> Tensor:
        """float32 [..., K] of levels -> storage [..., packed_width(K)]."""
        ...

    def unpack(self, packed: Tensor) -> Tensor:
        """Storage [..., packed_width(K)] -> float32 [..., K] of levels."""
        ...

    def packed_width(self, width: int) -> int:
        """Elements of storage that hold `width` values."""
        ...

    def width(self, packed_width: int) -> int:
        """How many values `packed_width` elements of storage hold."""
        ...
