"""Quantized weights and activations.

What our own operators take (`lower/tables.py`) goes to them where they were built, what the block kernels take
(`lower/blocks.py`) to these. Other 8-bit weights are dequantized when the model is
opened: small in the artifact, float32 in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from optcc.backends.onnxruntime.lower.blocks import Table, embedding_kernel, linear_kernel
from optcc.backends.onnxruntime.lower.emit import MICROSOFT, Emitter
from optcc.backends.onnxruntime.lower.linear import product
from optcc.backends.onnxruntime.lower.native_quantized import native_embedding, native_linear
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.static import dequantize_static, is_static
from optcc.backends.onnxruntime.lower.types import dtype_of, rank_of, shape_of

if TYPE_CHECKING:
    import onnx_ir as ir


def _why_not_opened(table: Table) -> str | None:
    """Why a weight can't be dequantized with plain operators, or None."""
    if table.format != "int8":
        return f"{table.format} weights: {table.why_no_kernel() or 'no kernel for this use of them'}"
    if table.rows != 1 or table.tensor_scale is not None:
        return "int8 weights whose rows share scales"
    return None


def _why_not_rounded(format: str, scale: str) -> str | None:
    """Why activations can't be quantized with plain operators, or None."""
    if format == "e4m3":
        return (
            "e4m3 activations, keys or values: no kernel for 8-bit floats on a CPU; int8 takes the same room"
        )
    return (
        None if format in ("", "int8") and scale == "float32" else f"{format} activations with {scale} scales"
    )


def _refuse_linear(node: fx.Node, given: list[Any]) -> str | None:
    if linear_kernel(node) is not None:
        return None
    act_format, act_group, act_scale = given[9:]
    table = Table.of(node)
    if table.format in ("int4", "ternary") and act_format == "int8" and act_group != table.group:
        return f"{table.format} weights in groups of {table.group} with activations in groups of {act_group}"
    return _why_not_opened(table) or _why_not_rounded(act_format, act_scale)


@lowers("optcc.quantized_linear.default", refuse=_refuse_linear)
def quantized_linear(emit: Emitter, node: fx.Node, given: list[Any]) -> ir.Value:
    """The block kernel, or a float product."""
    x, packed, bias, act_format, act_group = given[0], given[1], given[5], given[9], given[10]
    b = None if bias is None else emit.value(bias)
    if native := emit.native.get(str(packed.target)):
        return native_linear(emit, node, native, x, b)
    table, level = Table.of(node), linear_kernel(node)
    if level is None:
        value = emit.value(x)
        if act_format:
            values, scales = _quantize(emit, value, rank_of(x), int(shape_of(x)[-1] or 0), act_group)
            value = _scaled(emit, emit.to(values, torch.float32), rank_of(x), scales, act_group)
        return product(emit, value, rank_of(x), _opened(emit, table).dequantized(emit, 2, table.group), b)
    rows, width, group, bits = int(shape_of(packed)[0] or 0), table.width, table.group, table.bits
    block = emit.stored(str(packed.target), torch.uint8, [rows, width // group, group * bits // 8])
    attributes = {"K": width, "N": rows, "bits": bits, "block_size": group, "accuracy_level": level}
    scales, zero = emit.cast(table.scale, torch.float32), _zero_fields(emit, table)
    operands = [emit.value(x), block, scales, zero, None, b]
    while operands[-1] is None:
        operands.pop()
    return emit.op("MatMulNBits", operands, attributes, MICROSOFT)


def _refuse_embedding(node: fx.Node, given: list[Any]) -> str | None:
    return None if embedding_kernel(node) else _why_not_opened(Table.of(node))


@lowers("optcc.quantized_embedding.default", refuse=_refuse_embedding)
def quantized_embedding(emit: Emitter, node: fx.Node, given: list[Any]) -> ir.Value:
    """Rows, dequantized after they are picked."""
    index, packed, dtype = emit.value(given[0]), given[1], given[7]
    if native := emit.native.get(str(packed.target)):
        return native_embedding(emit, node, native, index)
    table = Table.of(node)
    if embedding_kernel(node) and (table.format != "int8" or packed.target in emit.repackings):
        values = emit.stored(str(packed.target), torch.uint8, [int(d or 0) for d in shape_of(packed)])
        attributes = {"bits": table.bits, "block_size": table.group, "gather_axis": 0, "quantize_axis": 1}
        operands = [values, index, emit.cast(table.scale, torch.float32), _zero_fields(emit, table)]
        if operands[-1] is None:
            operands.pop()
        return emit.op("GatherBlockQuantized", operands, attributes, MICROSOFT)
    wide = _opened(emit, table).rows(emit, index).dequantized(emit, rank_of(node), table.group)
    return wide if dtype == torch.float32 else emit.to(wide, dtype)


def _zero_fields(emit: Emitter, table: Table) -> ir.Value | None:
    """Zero points as the block kernels read them."""
    if table.zero is None:
        return None
    name = str(table.zero.target)
    return emit.stored(name, torch.uint8, emit.repackings[name].shape)


def _refuse_dequantize(node: fx.Node, given: list[Any]) -> str | None:
    table = Table.of(node)
    if table.packed.op == "get_attr":
        return _why_not_opened(table)
    scale = str(dtype_of(table.scale)).removeprefix("torch.")
    return _why_not_rounded(table.format, scale) or _why_not_opened(table)


@lowers("optcc.dequantize.default", refuse=_refuse_dequantize)
def dequantize(emit: Emitter, node: fx.Node, given: list[Any]) -> ir.Value:
    """`(level - zero) * scale`."""
    table, dtype = Table.of(node), given[7]
    if is_static(node) and dtype == torch.float32:
        return dequantize_static(emit, node)
    wide = _opened(emit, table).dequantized(emit, rank_of(node), table.group)
    return wide if dtype == torch.float32 else emit.to(wide, dtype)


def _refuse_activation(node: fx.Node, given: list[Any]) -> str | None:
    return _why_not_rounded(given[1], given[3] if given[4] is None else "two-level")


@lowers("optcc.quantize_activation.default", refuse=_refuse_activation)
def quantize_activation(emit: Emitter, node: fx.Node, given: list[Any]) -> list[ir.Value]:
    """Values and scales."""
    x, group = given[0], given[2]
    return list(_quantize(emit, emit.cast(x, torch.float32), rank_of(x), int(shape_of(x)[-1] or 0), group))


def _quantize(emit: Emitter, x: ir.Value, rank: int, width: int, group: int) -> tuple[ir.Value, ir.Value]:
    """i8[..., K] and f32[..., K/group], rounded as the reference rounds."""
    limit = emit.number(127, torch.float32)
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
class _Opened:
    """Stored 8-bit values; what is subtracted from all of them; scale and zero by group."""

    values: ir.Value
    offset: float
    scale: ir.Value
    zero: ir.Value | None

    def rows(self, emit: Emitter, index: ir.Value) -> _Opened:
        """Some rows of it."""
        zero = None if self.zero is None else emit.op("Gather", [self.zero, index])
        picked = emit.op("Gather", [self.values, index]), emit.op("Gather", [self.scale, index])
        return _Opened(picked[0], self.offset, picked[1], zero)

    def dequantized(self, emit: Emitter, rank: int, group: int) -> ir.Value:
        """f32[..., K]."""
        wide = emit.to(self.values, torch.float32)
        if self.offset:
            wide = emit.op("Sub", [wide, emit.number(self.offset, torch.float32)])
        zero = None if self.zero is None else emit.to(self.zero, torch.float32)
        return _scaled(emit, wide, rank, self.scale, group, zero)


def _opened(emit: Emitter, table: Table) -> _Opened:
    scales = emit.cast(table.scale, torch.float32)
    zero = None if table.zero is None else emit.value(table.zero)
    if table.packed.op == "get_attr" and table.packed.target in emit.repackings:
        # A block kernel reads it too: values and zero points both have 128 added.
        shape = [int(d or 0) for d in shape_of(table.packed)]
        values = emit.stored(str(table.packed.target), torch.uint8, shape)
        return _Opened(values, 0.0 if table.zero is not None else 128.0, scales, zero)
    return _Opened(emit.value(table.packed), 0.0, scales, zero)


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
