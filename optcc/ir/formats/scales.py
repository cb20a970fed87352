"""Types that scales are stored in, and how a scale is rounded to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScaleFormat:
    """A stored type of scales.

    Attributes:
        name: as in schemes and operators.
        dtype: as stored.
        two_level: blocks' scales are multiplied by one float32 scale of the whole tensor, because the type's range is
            too small to do without (NVFP4).
    """

    name: str
    dtype: torch.dtype
    two_level: bool = False

    def round(self, scale: Tensor) -> Tensor:
        """float32 >= 0 -> stored. Powers of two are rounded down for e8m0, as OCP MX does with floor(log2)."""
        if self.dtype == torch.float8_e8m0fnu:
            exponent = torch.frexp(scale).exponent - 1 + 127
            # What is zero or too small becomes the smallest power of two.
            return torch.where(scale > 0, exponent, 0).clamp(0, 254).to(torch.uint8).view(self.dtype)
        if self.dtype == torch.float8_e4m3fn:
            return scale.clamp(max=448.0).to(self.dtype)
        return scale.to(self.dtype)


SCALES: Mapping[str, ScaleFormat] = {
    s.name: s
    for s in (
        ScaleFormat("float32", torch.float32),
        ScaleFormat("float16", torch.float16),
        ScaleFormat("bfloat16", torch.bfloat16),
        ScaleFormat("e8m0", torch.float8_e8m0fnu),
        ScaleFormat("e4m3", torch.float8_e4m3fn, two_level=True),
    )
}
"""Every scale type by name."""


def decode_scale(scale: Tensor, tensor_scale: Tensor | None) -> Tensor:
    """The scale that values are multiplied by, float32."""
    wide = scale.to(torch.float32)
    return wide if tensor_scale is None else wide * tensor_scale.to(torch.float32)
