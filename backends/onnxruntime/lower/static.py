"""Activations with scales found by calibration, and the integer kernels around them.

A value rounded to the grid is QuantizeLinear and DequantizeLinear with a zero point of uint8: ONNX Runtime moves these
pairs through the graph when it opens it and joins them with the operator between: QLinearConv, QLinearAdd. Kernels
for uint8 activations and int8 weights are the only fast ones on x86, so a level is stored with 128 added, which is
exact. A linear is MatMulIntegerToFloat right away: its result and bias stay in float.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx

from optcc.backends.onnxruntime.lower.blocks import Table
from optcc.backends.onnxruntime.lower.emit import MICROSOFT, Emitter
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.types import rank_of, shape_of
from optcc.ir.pattern import normalized

if TYPE_CHECKING:
    import onnx_ir as ir

QUANTIZE = torch.ops.optcc.quantize_static.default
DEQUANTIZE = torch.ops.optcc.dequantize.default
_RESHAPE = torch.ops.aten.reshape.default


def _refuse_quantize(node: fx.Node, given: list[Any]) -> str | None:
    _, scale, zero, format = given
    if format != "int8":
        return f"static {format} activations"
    if any(part is not None and part.op != "get_attr" for part in (scale, zero)):
        return "a static scale that is computed"
    return None


@lowers("optcc.quantize_static.default", refuse=_refuse_quantize)
def quantize_static(emit: Emitter, node: fx.Node, given: list[Any]) -> ir.Value:
    """Levels as int8; only read where they are a result themselves."""
    x, scale, zero, _ = given
    step, shift = _number(emit, scale), _zero(emit, zero)
    return emit.op("QuantizeLinear", [emit.value(x), step, emit.constant(np.array(shift, np.int8))])


def _number(emit: Emitter, scale: fx.Node) -> ir.Value:
    """The scale as a 0-d value: with [1] ONNX takes it for one per channel."""
    return emit.constant(np.array(emit.module.weights[str(scale.target)].item(), np.float32))


def _zero(emit: Emitter, zero: fx.Node | None) -> int:
    return 0 if zero is None else int(emit.module.weights[str(zero.target)].item())


def is_static(node: Any) -> bool:
    """Whether a value is `dequantize(quantize_static(x))`, both with the same scale and zero point."""
    if not isinstance(node, fx.Node) or node.target is not DEQUANTIZE:
        return False
    packed, scale, zero = normalized(node)[0][:3]
    if not isinstance(packed, fx.Node) or packed.target is not QUANTIZE:
        return False
    given = normalized(packed)[0]
    return given[1] is scale and given[2] is zero and not _refuse_quantize(packed, given)


def _levels(emit: Emitter, node: fx.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Levels u8[...], scale f32[] and zero point u8[] of a value for which `is_static` holds."""
    packed = node.args[0]
    assert isinstance(packed, fx.Node)
    x, scale, zero, _ = normalized(packed)[0]
    step, shift = _number(emit, scale), emit.constant(np.array(_zero(emit, zero) + 128, np.uint8))

    def make() -> ir.Value:
        return emit.op("QuantizeLinear", [emit.value(x), step, shift])

    return emit.shared(("levels", packed), make), step, shift


def dequantize_static(emit: Emitter, node: fx.Node) -> ir.Value:
    """The pair that ONNX Runtime joins with what reads it."""
    return emit.op("DequantizeLinear", list(_levels(emit, node)))


def _stored_int8(node: Any) -> Table | None:
    """The table of an int8 weight with one scale per row and no zero point, if `node` dequantizes one."""
    if not isinstance(node, fx.Node) or node.target is not DEQUANTIZE:
        return None
    table = Table.of(node)
    parts = (table.packed, table.scale)
    plain = table.format == "int8" and table.zero is None and table.tensor_scale is None
    whole = table.group in (0, table.width) and table.rows == 1
    return table if plain and whole and all(p.op == "get_attr" for p in parts) else None


def conv_weight(emit: Emitter, x: Any, weight: fx.Node) -> ir.Value:
    """A convolution's weight: dequantized per output channel where its input is quantized too, so that the two join."""
    table = _stored_int8(weight.args[0]) if weight.target is _RESHAPE else None
    if table is None or not is_static(x):
        return emit.value(weight)
    shape = [int(d or 0) for d in shape_of(weight)]
    values = emit.stored(str(table.packed.target), torch.int8, shape)
    scales = emit.stored(str(table.scale.target), torch.float32, shape[:1])
    return emit.op("DequantizeLinear", [values, scales], {"axis": 0})


def integer_product(emit: Emitter, x: Any, weight: Any, bias: Any) -> ir.Value | None:
    """`linear(x, weight, bias)` over integers, or None where x or the weight is not quantized that way."""
    table = _stored_int8(weight)
    if table is None or not is_static(x) or rank_of(x) < 2:
        return None
    levels, step, shift = _levels(emit, x)
    rows, width = (int(d or 0) for d in shape_of(table.packed))
    values = emit.op("Transpose", [emit.stored(str(table.packed.target), torch.int8, [rows, width])])
    scales = emit.stored(str(table.scale.target), torch.float32, [rows])
    b = None if bias is None else emit.value(bias)
    operands = [levels, values, step, scales, shift, None, b]
    return emit.op("MatMulIntegerToFloat", operands if b is not None else operands[:5], domain=MICROSOFT)
