"""Quantized operators: MatMulNBits and GatherBlockQuantized on unsigned 8-bit blocks, and the explicit forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from optcc.backends.onnxruntime.emit import CONTRIB, DTYPES, Emit
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.ir.pattern import normalized

_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level: activations rounded to int8 per row and block
_FLOAT_ACTIVATIONS = 1


def _block(node: fx.Node) -> str | None:
    """Why a group can't be a kernel's block, or None."""
    bits, group = normalized(node)[0][-4:-2] if "linear" in str(node.target) else normalized(node)[0][-3:-1]
    if bits != 8:
        return f"{bits}-bit weights"
    if group and (group & (group - 1) or group < 16):
        return f"groups of {group}: the kernels take powers of two from 16"
    return None


def _refuse_linear(node: fx.Node) -> str | None:
    _, packed, _, zero, _, bits, group, act_bits, act_group = normalized(node)[0]
    if zero is not None:
        return "zero points"
    if packed.op != "get_attr":
        return "a packed weight that is computed"
    if act_bits and (act_bits, act_group) != (8, group):
        return f"{act_bits}-bit activations in groups of {act_group} with weights in groups of {group}: they must agree"
    if act_bits and group == 0:
        return "quantized activations with one scale per channel"
    return _block(node)


@lowers("optcc.quantized_linear.default", refuse=_refuse_linear)
def quantized_linear(emit: Emit, node: fx.Node) -> Any:
    """MatMulNBits; with one scale per channel, DequantizeLinear and a matrix product."""
    x, packed, scale, _, bias, _, group, act_bits, _ = normalized(node)[0]
    rows, width = (int(n) for n in packed.meta["val"].shape)
    if group:
        blocks = width // group
        data = emit.weight(str(packed.target), ir.DataType.UINT8, [rows, blocks, group])
        scales = emit.weight(str(scale.target), DTYPES[scale.meta["val"].dtype], [rows, blocks])
        out = emit.op(
            "MatMulNBits",
            [emit.value(x), data, _as_float(emit, scales, scale)],
            CONTRIB,
            K=width,
            N=rows,
            bits=8,
            block_size=group,
            accuracy_level=_INT8_ACTIVATIONS if act_bits else _FLOAT_ACTIVATIONS,
        )
    else:
        weight = _per_channel(emit, packed, scale)
        out = emit.op("FusedMatMul", [emit.value(x), weight], CONTRIB, transB=1)
    return out if bias is None else emit.op("Add", [out, emit.value(bias)])


def _as_float(emit: Emit, value: Any, node: fx.Node) -> Any:
    return emit.cast(value, node.meta["val"].dtype, torch.float32)


def _per_channel(emit: Emit, packed: fx.Node, scale: fx.Node) -> Any:
    rows, width = (int(n) for n in packed.meta["val"].shape)
    data = emit.weight(str(packed.target), ir.DataType.UINT8, [rows, width])
    scales = emit.weight(str(scale.target), DTYPES[scale.meta["val"].dtype], [rows])
    zeros = emit.const(np.full(rows, 128), np.uint8)
    return emit.op("DequantizeLinear", [data, _as_float(emit, scales, scale), zeros], axis=0)


def _refuse_embedding(node: fx.Node) -> str | None:
    _, packed, _, zero, *_ = normalized(node)[0]
    if zero is not None:
        return "zero points"
    return "a packed table that is computed" if packed.op != "get_attr" else _block(node)


@lowers("optcc.quantized_embedding.default", refuse=_refuse_embedding)
def quantized_embedding(emit: Emit, node: fx.Node) -> Any:
    """GatherBlockQuantized; with one scale per row, gathered values times gathered scales."""
    ids, packed, scale, _, _, group, dtype = normalized(node)[0]
    rows, width = (int(n) for n in packed.meta["val"].shape)
    data = emit.weight(str(packed.target), ir.DataType.UINT8, [rows, width])
    if group:
        scales = emit.weight(str(scale.target), DTYPES[scale.meta["val"].dtype], [rows, width // group])
        inputs = [data, emit.value(ids), _as_float(emit, scales, scale)]
        out = emit.op(
            "GatherBlockQuantized", inputs, CONTRIB, bits=8, block_size=group, gather_axis=0, quantize_axis=1
        )
        return emit.cast(out, torch.float32, dtype)
    scales = emit.weight(str(scale.target), DTYPES[scale.meta["val"].dtype], [rows, 1])
    values = emit.op("Cast", [emit.op("Gather", [data, emit.value(ids)], axis=0)], to=int(ir.DataType.FLOAT))
    values = emit.op("Sub", [values, emit.const(128, np.float32)])
    wide = emit.op("Gather", [_as_float(emit, scales, scale), emit.value(ids)], axis=0)
    return emit.cast(emit.op("Mul", [values, wide]), torch.float32, dtype)


def _refuse_quantize(node: fx.Node) -> str | None:
    return None if node.args[1] == 8 else f"{node.args[1]}-bit activations"


@lowers("optcc.quantize_activation.default", refuse=_refuse_quantize)
def quantize_activation(emit: Emit, node: fx.Node) -> Any:
    """Written out: round(x * 127 / max|x|) per group, ties to even, as the reference does."""
    x, _, group = normalized(node)[0]
    width = int(x.meta["val"].shape[-1])
    rank = len(x.meta["val"].shape)
    size = group or width
    grouped = emit.op("Reshape", [emit.value(x), emit.ints(*[0] * (rank - 1), width // size, size)])
    peak = emit.op("ReduceMax", [emit.op("Abs", [grouped]), emit.ints(-1)], keepdims=1)
    positive = emit.op("Greater", [peak, emit.const(0, np.float32)])
    inverse = emit.op("Div", [emit.const(127, np.float32), peak])
    inverse = emit.op("Where", [positive, inverse, emit.const(0, np.float32)])
    values = emit.op("Round", [emit.op("Mul", [grouped, inverse])])
    values = emit.op("Clip", [values, emit.const(-127, np.float32), emit.const(127, np.float32)])
    packed = emit.op("Cast", [values], to=int(ir.DataType.INT8))
    packed = emit.op("Reshape", [packed, emit.ints(*[0] * (rank - 1), width)])
    scale = emit.op("Squeeze", [emit.op("Div", [peak, emit.const(127, np.float32)]), emit.ints(-1)])
    return [packed, scale]


def _refuse_dequantize(node: fx.Node) -> str | None:
    packed, _, zero, bits, _, _ = normalized(node)[0]
    if bits != 8 or packed.meta["val"].dtype != torch.int8:
        return f"{bits}-bit values"
    return "zero points" if zero is not None else None


@lowers("optcc.dequantize.default", refuse=_refuse_dequantize)
def dequantize(emit: Emit, node: fx.Node) -> Any:
    """Written out: values times scales, group by group."""
    packed, scale, _, _, group, dtype = normalized(node)[0]
    shape = packed.meta["val"].shape
    width, rank = int(shape[-1]), len(shape)
    values = emit.op("Cast", [emit.value(packed)], to=int(ir.DataType.FLOAT))
    values = emit.op("Reshape", [values, emit.ints(*[0] * (rank - 1), width // (group or width), group or width)])
    wide = emit.op("Unsqueeze", [_as_float(emit, emit.value(scale), scale), emit.ints(-1)])
    out = emit.op("Reshape", [emit.op("Mul", [values, wide]), emit.ints(*[0] * (rank - 1), width)])
    return emit.cast(out, torch.float32, dtype)
