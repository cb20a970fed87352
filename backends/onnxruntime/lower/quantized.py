"""Quantized weights and activations.

With 8-bit activations in the weight's own groups, MatMulNBits at accuracy level 4 computes exactly what
`optcc::quantized_linear` says: it rounds each group of a token to nearest even by `127 / max|x|`. With float
activations that kernel is forty times slower than a plain product, so there weights are dequantized when the model is
opened: small in the artifact, float32 in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from optcc.backends.onnxruntime.lower.emit import MICROSOFT, Emitter
from optcc.backends.onnxruntime.lower.linear import product
from optcc.backends.onnxruntime.lower.registry import lowers, operands
from optcc.backends.onnxruntime.lower.types import dtype_of, rank_of, shape_of

if TYPE_CHECKING:
    import onnx_ir as ir


def is_block_size(group: int) -> bool:
    """Whether the block kernels take groups of this size: a power of two from 16."""
    return group >= 16 and group & (group - 1) == 0


def takes_block_kernel(node: fx.Node) -> bool:
    """Whether a quantized_linear becomes MatMulNBits."""
    _, packed, scale, zero, _, bits, group, act_bits, act_group = operands(node)
    constant = isinstance(packed, fx.Node) and packed.op == "get_attr" and scale.op == "get_attr"
    activations = act_bits == 8 and act_group == group
    signed = dtype_of(packed) == (torch.int8 if bits == 8 else torch.uint8)
    return constant and activations and zero is None and bits in (4, 8) and signed and is_block_size(group)


def stored_offset(graphs: list[fx.Graph]) -> frozenset[str]:
    """Names of 8-bit weights that a block kernel reads: they are stored as uint8, with 128 added."""
    calls = [n for g in graphs for n in g.nodes if n.target is torch.ops.optcc.quantized_linear.default]
    return frozenset(
        str(operands(n)[1].target) for n in calls if operands(n)[5] == 8 and takes_block_kernel(n)
    )


def _refuse_linear(node: fx.Node, given: list[Any]) -> str | None:
    if takes_block_kernel(node):
        return None
    return None if given[5] == 8 else f"{given[5]}-bit weights without 8-bit activations in the same groups"


@lowers("optcc.quantized_linear.default", refuse=_refuse_linear)
def quantized_linear(emit: Emitter, node: fx.Node, given: list[Any]) -> ir.Value:
    """The block kernel, or a float product."""
    x, packed, scale, zero, bias, bits, group, act_bits, act_group = given
    b = None if bias is None else emit.value(bias)
    if not takes_block_kernel(node):
        value = emit.value(x)
        if act_bits:
            values, scales = _quantize(
                emit, value, rank_of(x), int(shape_of(x)[-1] or 0), act_bits, act_group
            )
            value = _scaled(emit, emit.to(values, torch.float32), rank_of(x), scales, act_group)
        return product(emit, value, rank_of(x), _dequantized(emit, packed, scale, zero, group), b)
    rows, width = (int(d or 0) for d in shape_of(packed))
    inputs = width * 8 // bits
    block = emit.stored(str(packed.target), torch.uint8, [rows, inputs // group, group * bits // 8])
    attributes = {"K": inputs, "N": rows, "bits": bits, "block_size": group, "accuracy_level": 4}
    ins = [emit.value(x), block, emit.value(scale)]
    return emit.op("MatMulNBits", ins if b is None else [*ins, None, None, b], attributes, MICROSOFT)


def _refuse_embedding(node: fx.Node, given: list[Any]) -> str | None:
    bits = given[4]
    return None if bits == 8 or _gathers_blocks(given) else f"an embedding of {bits} bits"


def _gathers_blocks(given: list[Any]) -> bool:
    _, packed, scale, zero, bits, group, dtype = given
    constant = packed.op == "get_attr" and scale.op == "get_attr" and zero is None and dtype == torch.float32
    return constant and is_block_size(group) and bits in (4, 8)


@lowers("optcc.quantized_embedding.default", refuse=_refuse_embedding)
def quantized_embedding(emit: Emitter, node: fx.Node, given: list[Any]) -> ir.Value:
    """Rows, dequantized after they are picked."""
    ids, packed, scale, zero, bits, group, dtype = given
    index = emit.value(ids)
    if _gathers_blocks(given) and (bits == 4 or packed.target in emit.offset128):
        table = emit.stored(str(packed.target), torch.uint8, [int(d or 0) for d in shape_of(packed)])
        attributes = {"bits": bits, "block_size": group, "gather_axis": 0, "quantize_axis": 1}
        return emit.op("GatherBlockQuantized", [table, index, emit.value(scale)], attributes, MICROSOFT)
    wide = _packed(emit, packed, scale, zero).rows(emit, index).dequantized(emit, rank_of(node), group)
    return wide if dtype == torch.float32 else emit.to(wide, dtype)


def _refuse_dequantize(node: fx.Node, given: list[Any]) -> str | None:
    return None if given[3] == 8 else f"unpacking {given[3]}-bit values in the graph"


@lowers("optcc.dequantize.default", refuse=_refuse_dequantize)
def dequantize(emit: Emitter, node: fx.Node, given: list[Any]) -> ir.Value:
    """`(value - zero) * scale`."""
    packed, scale, zero, _, group, dtype = given
    wide = _dequantized(emit, packed, scale, zero, group)
    return wide if dtype == torch.float32 else emit.to(wide, dtype)


@lowers("optcc.quantize_activation.default")
def quantize_activation(emit: Emitter, node: fx.Node, given: list[Any]) -> list[ir.Value]:
    """Values and scales."""
    x, bits, group = given
    return list(
        _quantize(emit, emit.cast(x, torch.float32), rank_of(x), int(shape_of(x)[-1] or 0), bits, group)
    )


def _quantize(
    emit: Emitter, x: ir.Value, rank: int, width: int, bits: int, group: int
) -> tuple[ir.Value, ir.Value]:
    """i8[..., K] and f32[..., K/group], rounded as the reference rounds."""
    limit = emit.number((1 << (bits - 1)) - 1, torch.float32)
    size = group or width
    keep = [0] * (rank - 1)
    grouped = emit.reshape(x, [*keep, width // size, size])
    peak = emit.op("ReduceMax", [emit.op("Abs", [grouped]), emit.ints([-1])], {"keepdims": 1})
    zero = emit.number(0.0, torch.float32)
    inverse = emit.op("Where", [emit.op("Greater", [peak, zero]), emit.op("Div", [limit, peak]), zero])
    rounded = emit.op("Round", [emit.op("Mul", [grouped, inverse])])
    clipped = emit.op("Clip", [rounded, emit.op("Neg", [limit]), limit])
    values = emit.reshape(emit.to(clipped, torch.int8), [*keep, width])
    return values, emit.op("Squeeze", [emit.op("Div", [peak, limit]), emit.ints([-1])])


@dataclass(frozen=True)
class _Packed:
    """Stored values; what is subtracted from all of them; scale and zero by group."""

    values: ir.Value
    offset: float
    scale: ir.Value
    zero: ir.Value | None

    def rows(self, emit: Emitter, index: ir.Value) -> _Packed:
        """Some rows of it."""
        zero = None if self.zero is None else emit.op("Gather", [self.zero, index])
        picked = emit.op("Gather", [self.values, index]), emit.op("Gather", [self.scale, index])
        return _Packed(picked[0], self.offset, picked[1], zero)

    def dequantized(self, emit: Emitter, rank: int, group: int) -> ir.Value:
        """f32[..., K]."""
        wide = emit.to(self.values, torch.float32)
        if self.offset:
            wide = emit.op("Sub", [wide, emit.number(self.offset, torch.float32)])
        zero = None if self.zero is None else emit.to(self.zero, torch.float32)
        return _scaled(emit, wide, rank, self.scale, group, zero)


def _packed(emit: Emitter, packed: fx.Node, scale: fx.Node, zero: fx.Node | None) -> _Packed:
    scales = emit.cast(scale, torch.float32)
    zeros = None if zero is None else emit.value(zero)
    if packed.op == "get_attr" and packed.target in emit.offset128:
        shape = [int(d or 0) for d in shape_of(packed)]
        return _Packed(emit.stored(str(packed.target), torch.uint8, shape), 128.0, scales, zeros)
    centred = dtype_of(packed) == torch.int8 or zero is not None
    return _Packed(emit.value(packed), 0.0 if centred else 128.0, scales, zeros)


def _dequantized(
    emit: Emitter, packed: fx.Node, scale: fx.Node, zero: fx.Node | None, group: int
) -> ir.Value:
    return _packed(emit, packed, scale, zero).dequantized(emit, rank_of(packed), group)


def _scaled(
    emit: Emitter, values: ir.Value, rank: int, scale: ir.Value, group: int, zero: ir.Value | None = None
) -> ir.Value:
    """`(values - zero) * scale`, f32[..., K], with one scale and zero per group of the last dim."""
    if group == 0:
        return emit.op("Mul", [values if zero is None else emit.op("Sub", [values, zero]), scale])
    keep = [0] * (rank - 1)
    last = emit.ints([-1])
    grouped = emit.reshape(values, [*keep, -1, group])
    if zero is not None:
        grouped = emit.op("Sub", [grouped, emit.op("Unsqueeze", [zero, last])])
    return emit.reshape(emit.op("Mul", [grouped, emit.op("Unsqueeze", [scale, last])]), [*keep, -1])
