"""Root-mean-square normalization, alone and fused with the residual addition before it.

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optcc.ir.ops.library import define


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension, computed in float32.

    Shapes: x [..., D], weight [D] -> [..., D] in x's type.
    """
    wide = x.float()
    inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * inverse * weight.float()).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`(rms_norm(x + residual), x + residual)`: the addition is done once and both results are kept.

    Shapes: x and residual [..., D], weight [D] -> two of [..., D].
    """
    total = x + residual
    return rms_norm(total, weight, eps), total


def _rms_norm_fake(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    torch._check(weight.shape[0] == x.shape[-1], lambda: f"rms_norm: weight {weight.shape} for x {x.shape}")
    return x.new_empty(x.shape)


def _add_rms_norm_fake(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    torch._check(
        weight.shape[0] == x.shape[-1], lambda: f"add_rms_norm: weight {weight.shape} for x {x.shape}"
    )
    return x.new_empty(x.shape), x.new_empty(x.shape)


define("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", rms_norm, _rms_norm_fake)
define(
    "add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
    add_rms_norm,
    _add_rms_norm_fake,
)
