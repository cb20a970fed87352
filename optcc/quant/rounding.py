"""Round-to-nearest: the plain algorithm, and the arithmetic that every other one ends in.

Symmetric, per group of `group` input channels (0: per output channel): `scale = max|w| / qmax`, `q = round(w / scale)`
with ties to even. Values are computed in float32 whatever the weight's type.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optcc.recipe.schemes import WeightFormat

_ROWS_AT_ONCE = 1 << 22  # elements worked on at a time, so that a large embedding costs no large temporaries


@dataclass(frozen=True)
class PackedWeight:
    """A quantized weight as it is stored: see `optcc.ir.ops.quantized` for the layout.

    Attributes:
        packed: int8 [O, K] for 8 bits.
        scale: [O, K/group] ([O, 1] per channel) in the scheme's scale type.
        zero: zero points of the same shape as scale, or None when symmetric.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor | None


def round_to_nearest(weight: Tensor, form: WeightFormat) -> PackedWeight:
    """Quantize a weight [O, K].

    Args:
        weight: any floating type; K must be a multiple of the group.
        form: bits, group and scale type.
    """
    rows, width = weight.shape
    groups = width // form.group if form.group else 1
    dtype = getattr(torch, form.scale_dtype)
    packed = torch.empty((rows, width), dtype=torch.int8)
    scale = torch.empty((rows, groups), dtype=dtype)
    step = max(1, _ROWS_AT_ONCE // width)
    limit = (1 << (form.bits - 1)) - 1
    for first in range(0, rows, step):
        block = weight[first : first + step].to(torch.float32).unflatten(1, (groups, width // groups))
        # The scale is rounded to its stored type before it divides, so that stored value times stored scale is nearest.
        block_scale = (block.abs().amax(-1) / limit).to(dtype)
        divisor = torch.where(block_scale > 0, block_scale.float(), torch.ones(()))
        values = torch.round(block / divisor.unsqueeze(-1)).clamp_(-limit, limit)
        packed[first : first + step] = values.to(torch.int8).flatten(1)
        scale[first : first + step] = block_scale
    return PackedWeight(packed, scale, None)
