"""Quantized values in the graph: explicit quantize and dequantize, and the fused forms backends have kernels for.

`value = (level - zero) * scale`, with the levels and their storage from `optcc.ir.formats`. Groups always run along the
last dimension, `group` values to one scale; group 0 means one scale for the whole row. `rows` rows share a scale (1:
each has its own; 0: all share one), the last block of rows may be incomplete. A scale of the whole tensor, where there
is one, multiplies all others. Quantizing activations is an operator in the graph, never a hidden flag of a kernel: that
is how the interpreter computes the same thing as the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from optcc.ir.formats import SCALES, decode_scale, find_format
from optcc.ir.ops.library import define

PARTS = ("packed", "scale", "zero", "tensor_scale")
"""The tensors of a packed weight: `dequantize`'s first operands, and what they are called after the weight."""
_PIECE = 1 << 20
"""Packed values that are dequantized at a time."""


def _spread(per_group: Tensor, rows_total: int, rows: int, width: int, group: int) -> Tensor:
    """One value per block of rows and group -> one per element, or something that broadcasts to that."""
    if rows > 1:
        per_group = per_group.repeat_interleave(rows, -2)[..., :rows_total, :]
    if group == 0 or group == width:
        return per_group
    return per_group.repeat_interleave(group, -1)


def dequantize(
    packed: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    tensor_scale: Tensor | None,
    format: str,
    group: int,
    rows: int,
    dtype: torch.dtype,
) -> Tensor:
    """`(level - zero) * scale * tensor_scale` in `dtype`.

    Shapes: packed [..., packed width], scale and zero [..., K/group] ([..., 1] for group 0; the dimension before the
    last counts blocks of rows), tensor_scale [1] -> [..., K].
    """
    pieces = _row_pieces(packed, scale, rows)
    if len(pieces) > 1:  # levels and steps of a vocabulary are as large as what they give
        found = packed.new_empty((packed.shape[0], find_format(format).width(packed.shape[1])), dtype=dtype)
        for at, some in pieces:
            shift = None if zero is None else zero[some]
            found[at] = dequantize(packed[at], scale[some], shift, tensor_scale, format, group, rows, dtype)
        return found
    levels = find_format(format).unpack(packed)
    height = levels.shape[-2] if levels.dim() > 1 else 1
    width = levels.shape[-1]
    if zero is not None:
        levels = levels - _spread(zero.to(torch.float32), height, rows, width, group)
    steps = _spread(decode_scale(scale, tensor_scale), height, rows, width, group)
    return (levels * steps).to(dtype)


def dequantized_rows(
    packed: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    tensor_scale: Tensor | None,
    format: str,
    group: int,
    rows: int,
    dtype: torch.dtype,
) -> Iterator[Tensor]:
    """What `dequantize` gives, rows of a large matrix after one another, for who needn't hold all of them."""
    for at, some in _row_pieces(packed, scale, rows):
        shift = None if zero is None else zero[some]
        yield dequantize(packed[at], scale[some], shift, tensor_scale, format, group, rows, dtype)


def _row_pieces(packed: Tensor, scale: Tensor, rows: int) -> list[tuple[slice, slice]]:
    """A large matrix cut into rows that are worked on one after the other, each with its blocks of scales.

    Shapes: packed [O, packed width], scale [blocks of `rows` rows, K/group]. Anything else stays in one piece.
    """
    whole = [(slice(None), slice(None))]
    if packed.dim() != 2 or packed.numel() <= 2 * _PIECE or rows == 0:
        return whole
    height, blocks = packed.shape[0], scale.shape[0]
    each = max(1, _PIECE // packed.shape[1] // rows)
    if blocks != -(-height // rows) or each >= blocks:
        return whole
    return [
        (slice(first * rows, min(height, (first + each) * rows)), slice(first, first + each))
        for first in range(0, blocks, each)
    ]


def quantize_activation(
    x: Tensor, format: str, group: int, scale_format: str, tensor_scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Symmetric dynamic quantization: one scale per token and group, `max|x| / highest` rounded to its stored type.

    Shapes: x [..., K], tensor_scale [1] -> packed [..., packed width], scale [..., K/group] ([..., 1] for group 0).
    Levels are rounded to nearest, ties to even. e8m0 scales as in OCP MX v1.0 section 6.3.
    """
    number = find_format(format)
    width = x.shape[-1]
    size = group or width
    grouped = x.to(torch.float32).unflatten(-1, (width // size, size))
    peak = grouped.abs().amax(-1, keepdim=True)
    if scale_format == "float32" and tensor_scale is None:
        scale = peak / number.highest
        inverse = torch.where(peak > 0, number.highest / peak, torch.zeros_like(peak))
        levels = number.round(grouped * inverse)
    else:
        highest = 2.0 ** math.floor(math.log2(number.highest)) if scale_format == "e8m0" else number.highest
        step = peak / highest if tensor_scale is None else peak / (highest * tensor_scale)
        scale = SCALES[scale_format].round(step)
        steps = decode_scale(scale, tensor_scale)
        levels = number.round(grouped / torch.where(steps > 0, steps, torch.ones(())))
    return number.pack(levels.flatten(-2)), scale.squeeze(-1)


def quantize_static(x: Tensor, scale: Tensor, zero: Tensor | None, format: str) -> Tensor:
    """`round(x / scale) + zero` with a scale found by calibration, one for the whole tensor; ONNX's QuantizeLinear.

    Shapes: x [..., K], scale float32 [1], zero int8 [1] -> [..., packed width].
    """
    number = find_format(format)
    scaled = x.to(torch.float32) / scale
    return number.pack(number.round(scaled if zero is None else scaled.round_() + zero))


def quantized_linear(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    tensor_scale: Tensor | None,
    bias: Tensor | None,
    format: str,
    group: int,
    rows: int,
    act_format: str,
    act_group: int,
    act_scale: str,
) -> Tensor:
    """`linear(x', dequantize(packed, scale, zero, tensor_scale), bias)`.

    x' is x, or with `act_format` not empty x quantized and back with scales of type `act_scale`.
    Shapes: x [..., K], packed [O, packed width], scale and zero [O/rows, K/group], bias [O] -> [..., O].
    """
    if act_format:
        values, scales = quantize_activation(x, act_format, act_group, act_scale, None)
        x = dequantize(values, scales, None, None, act_format, act_group, 1, x.dtype)
    weight = dequantized_rows(packed, scale, zero, tensor_scale, format, group, rows, x.dtype)
    return linear_by_rows(x, weight, bias)


def linear_by_rows(x: Tensor, weight: Iterable[Tensor], bias: Tensor | None) -> Tensor:
    """`linear(x, weight, bias)` of a weight that comes some rows after the others. Shapes: x [..., K] -> [..., O]."""
    parts, done = [], 0
    for rows in weight:
        # With its bias, as a plain linear: added afterwards, it is rounded differently on some processors.
        part = None if bias is None else bias[done : done + len(rows)].to(x.dtype)
        parts.append(F.linear(x, rows.to(x.dtype), part))
        done += len(rows)
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def quantized_embedding(
    ids: Tensor,
    packed: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    tensor_scale: Tensor | None,
    format: str,
    group: int,
    dtype: torch.dtype,
) -> Tensor:
    """Rows of a quantized table, each with scales of its own: `dequantize(packed[ids], scale[ids], zero[ids])`.

    Shapes: ids i64 [...], packed [V, packed width], scale and zero [V, D/group] -> [..., D].
    """
    shift = None if zero is None else zero[ids]
    return dequantize(packed[ids], scale[ids], shift, tensor_scale, format, group, 1, dtype)


def _check_scale(packed: Tensor, scale: Tensor, format: str, group: int, rows: int) -> int:
    """The unpacked width, if scales fit it."""
    width = find_format(format).width(packed.shape[-1])
    if group:
        torch._check(width % group == 0, lambda: f"group {group} does not divide {width}")
    groups = width // group if group else 1
    torch._check(scale.shape[-1] == groups, lambda: f"{scale.shape[-1]} scales where {groups} groups are")
    if rows != 1:
        blocks = -(-packed.shape[-2] // rows) if rows else 1
        torch._check(
            scale.shape[-2] == blocks, lambda: f"{scale.shape[-2]} rows of scales where {blocks} blocks are"
        )
    return width


def _dequantize_fake(
    packed: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    tensor_scale: Tensor | None,
    format: str,
    group: int,
    rows: int,
    dtype: torch.dtype,
) -> Tensor:
    width = _check_scale(packed, scale, format, group, rows)
    return packed.new_empty((*packed.shape[:-1], width), dtype=dtype)


def _quantize_activation_fake(
    x: Tensor, format: str, group: int, scale_format: str, tensor_scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    number, width = find_format(format), x.shape[-1]
    if group:
        torch._check(width % group == 0, lambda: f"group {group} does not divide {width}")
    groups = width // group if group else 1
    values = x.new_empty((*x.shape[:-1], number.packed_width(width)), dtype=number.storage)
    return values, x.new_empty((*x.shape[:-1], groups), dtype=SCALES[scale_format].dtype)


def _quantize_static_fake(x: Tensor, scale: Tensor, zero: Tensor | None, format: str) -> Tensor:
    number = find_format(format)
    return x.new_empty((*x.shape[:-1], number.packed_width(x.shape[-1])), dtype=number.storage)


def _quantized_linear_fake(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    tensor_scale: Tensor | None,
    bias: Tensor | None,
    format: str,
    group: int,
    rows: int,
    act_format: str,
    act_group: int,
    act_scale: str,
) -> Tensor:
    width = _check_scale(packed, scale, format, group, rows)
    torch._check(x.shape[-1] == width, lambda: f"quantized_linear: x {x.shape} for weights of width {width}")
    return x.new_empty((*x.shape[:-1], packed.shape[0]))


def _quantized_embedding_fake(
    ids: Tensor,
    packed: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    tensor_scale: Tensor | None,
    format: str,
    group: int,
    dtype: torch.dtype,
) -> Tensor:
    width = _check_scale(packed, scale, format, group, 1)
    return packed.new_empty((*ids.shape, width), dtype=dtype)


define(
    "dequantize(Tensor packed, Tensor scale, Tensor? zero, Tensor? tensor_scale, str format, int group, int rows, "
    "ScalarType dtype) -> Tensor",
    dequantize,
    _dequantize_fake,
)
define(
    "quantize_activation(Tensor x, str format, int group, str scale_format, Tensor? tensor_scale) -> (Tensor, Tensor)",
    quantize_activation,
    _quantize_activation_fake,
)
define(
    "quantize_static(Tensor x, Tensor scale, Tensor? zero, str format) -> Tensor",
    quantize_static,
    _quantize_static_fake,
)
define(
    "quantized_linear(Tensor x, Tensor packed, Tensor scale, Tensor? zero, Tensor? tensor_scale, Tensor? bias, "
    "str format, int group, int rows, str act_format, int act_group, str act_scale) -> Tensor",
    quantized_linear,
    _quantized_linear_fake,
)
define(
    "quantized_embedding(Tensor ids, Tensor packed, Tensor scale, Tensor? zero, Tensor? tensor_scale, str format, "
    "int group, ScalarType dtype) -> Tensor",
    quantized_embedding,
    _quantized_embedding_fake,
)
