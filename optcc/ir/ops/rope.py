"""Rotary position embedding.

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021. The default pairs channel i
with channel i + Dr/2 (GPT-NeoX and Llama checkpoints); `interleaved` pairs 2i with 2i + 1 (the paper's form).
"""

from __future__ import annotations

import torch
from torch import Tensor

from optcc.ir.ops.library import define


def rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Rotate the first Dr channels of every head; the others pass through.

    Shapes: x [..., T, H, C], cos and sin [T, Dr/2] with Dr <= C -> [..., T, H, C].
    """
    half = cos.shape[-1]
    rotated, rest = x[..., : 2 * half], x[..., 2 * half :]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    if interleaved:
        first, second = rotated[..., 0::2], rotated[..., 1::2]
        pairs = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1)
        out = pairs.flatten(-2)
    else:
        first, second = rotated[..., :half], rotated[..., half:]
        out = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return torch.cat((out, rest), dim=-1)


def _rope_fake(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    torch._check(
        2 * cos.shape[-1] <= x.shape[-1], lambda: f"rope: tables {cos.shape} are wider than x {x.shape}"
    )
    return x.new_empty(x.shape)


define("rope(Tensor x, Tensor cos, Tensor sin, bool interleaved=False) -> Tensor", rope, _rope_fake)
