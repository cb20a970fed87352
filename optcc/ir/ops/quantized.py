"""Quantized values in the graph: explicit quantize and dequantize, and the fused forms backends have kernels for.

Groups always run along the last dimension, `group` values to one scale; group 0 means one scale for the whole row.
8-bit values are stored as int8. Values of fewer bits are unsigned, packed low bits first into uint8, and centred on
2^(bits-1) unless a `zero` tensor says otherwise. Quantizing activations is an operator in the graph, never a hidden
flag of a kernel: that is how the interpreter computes the same thing as the kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from optcc.ir.ops.library import define


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Integers as stored: int8 [..., K] for 8 bits, else uint8 [..., K*bits/8] -> int16 [..., K] in 0..2^bits-1."""
    if packed.dtype == torch.int8:
        return packed.to(torch.int16)
    if bits == 8:
        return packed.to(torch.int16)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    fields = (packed.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
    return fields.flatten(-2).to(torch.int16)


def _width(packed: Tensor, bits: int) -> int:
    return packed.shape[-1] if packed.dtype == torch.int8 or bits == 8 else packed.shape[-1] * (8 // bits)


def _spread(per_group: Tensor, width: int, group: int) -> Tensor:
    """One value per group -> one per element of the last dimension."""
    return (
        per_group.expand(*per_group.shape[:-1], width)
        if group == 0
        else per_group.repeat_interleave(group, -1)
    )


def dequantize(
    packed: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, dtype: torch.dtype
) -> Tensor:
    """`(value - zero) * scale` in `dtype`.

    Shapes: packed [..., K] (or [..., K*bits/8] when packed), scale and zero [..., K/group] ([..., 1] for group 0)
    -> [..., K].
    """
    values = unpack(packed, bits).to(torch.float32)
    width = values.shape[-1]
    if zero is not None:
        values = values - _spread(zero.to(torch.float32), width, group)
    elif packed.dtype != torch.int8:
        values = values - float(1 << (bits - 1))
    return (values * _spread(scale.to(torch.float32), width, group)).to(dtype)


def quantize_activation(x: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
    """Symmetric dynamic quantization, one scale per token and group: `round(x / s)`, `s = max|x| / (2^(bits-1) - 1)`.

    Shapes: x [..., K] -> int8 [..., K], float32 [..., K/group] ([..., 1] for group 0). Ties round to even.
    """
    limit = float((1 << (bits - 1)) - 1)
    width = x.shape[-1]
    size = group or width
    grouped = x.to(torch.float32).unflatten(-1, (width // size, size))
    peak = grouped.abs().amax(-1, keepdim=True)
    scale = peak / limit
    inverse = torch.where(peak > 0, limit / peak, torch.zeros_like(peak))
    values = torch.clamp(torch.round(grouped * inverse), -limit, limit)
    return values.to(torch.int8).flatten(-2), scale.squeeze(-1)


def quantized_linear(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    bias: Tensor | None,
    bits: int,
    group: int,
    act_bits: int,
    act_group: int,
) -> Tensor:
    """`linear(x', dequantize(packed, scale, zero), bias)`, with x' = x, or x quantized and back when act_bits > 0.

    Shapes: x [..., K], packed [O, K] (or [O, K*bits/8]), scale and zero [O, K/group], bias [O] -> [..., O].
    """
    weight = dequantize(packed, scale, zero, bits, group, x.dtype)
    if act_bits:
        values, act_scale = quantize_activation(x, act_bits, act_group)
        x = dequantize(values, act_scale, None, act_bits, act_group, x.dtype)
    return F.linear(x, weight, bias)


def quantized_embedding(
    ids: Tensor, packed: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, dtype: torch.dtype
) -> Tensor:
    """Rows of a quantized table: `dequantize(packed[ids], scale[ids], zero[ids])`.

    Shapes: ids i64 [...], packed [V, D] (or packed), scale and zero [V, D/group] -> [..., D].
    """
    rows = None if zero is None else zero[ids]
    return dequantize(packed[ids], scale[ids], rows, bits, group, dtype)


def _check_scale(width: int, scale: Tensor, group: int) -> None:
    if group:
        torch._check(width % group == 0, lambda: f"group {group} does not divide {width}")
    expected = width // group if group else 1
    torch._check(scale.shape[-1] == expected, lambda: f"{scale.shape[-1]} scales where {expected} groups are")


def _dequantize_fake(
    packed: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, dtype: torch.dtype
) -> Tensor:
    width = _width(packed, bits)
    _check_scale(width, scale, group)
    return packed.new_empty((*packed.shape[:-1], width), dtype=dtype)


def _quantize_activation_fake(x: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
    width = x.shape[-1]
    if group:
        torch._check(width % group == 0, lambda: f"group {group} does not divide {width}")
    groups = width // group if group else 1
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty((*x.shape[:-1], groups), dtype=torch.float32)


def _quantized_linear_fake(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    bias: Tensor | None,
    bits: int,
    group: int,
    act_bits: int,
    act_group: int,
) -> Tensor:
    width = _width(packed, bits)
    _check_scale(width, scale, group)
    torch._check(x.shape[-1] == width, lambda: f"quantized_linear: x {x.shape} for weights of width {width}")
    return x.new_empty((*x.shape[:-1], packed.shape[0]))


def _quantized_embedding_fake(
    ids: Tensor, packed: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, dtype: torch.dtype
) -> Tensor:
    width = _width(packed, bits)
    _check_scale(width, scale, group)
    return packed.new_empty((*ids.shape, width), dtype=dtype)


define(
    "dequantize(Tensor packed, Tensor scale, Tensor? zero, int bits, int group, ScalarType dtype) -> Tensor",
    dequantize,
    _dequantize_fake,
)
define(
    "quantize_activation(Tensor x, int bits, int group) -> (Tensor, Tensor)",
    quantize_activation,
    _quantize_activation_fake,
)
define(
    "quantized_linear(Tensor x, Tensor packed, Tensor scale, Tensor? zero, Tensor? bias, int bits, int group, "
    "int act_bits, int act_group) -> Tensor",
    quantized_linear,
    _quantized_linear_fake,
)
define(
    "quantized_embedding(Tensor ids, Tensor packed, Tensor scale, Tensor? zero, int bits, int group, "
    "ScalarType dtype) -> Tensor",
    quantized_embedding,
    _quantized_embedding_fake,
)
