"""Arithmetic of two operands, promoted as torch promotes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from optcc.backends.onnxruntime.lower.emit import Emitter
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.types import dtype_of

if TYPE_CHECKING:
    import onnx_ir as ir


def _pair(emit: Emitter, node: fx.Node, a: Any, b: Any) -> list[ir.Value]:
    """Both operands in the result's type."""
    return [emit.cast(a, dtype_of(node)), emit.cast(b, dtype_of(node))]


def _refuse_bool(node: fx.Node, operands: list[Any]) -> str | None:
    return "arithmetic of truth values" if dtype_of(node) == torch.bool else None


@lowers(
    "aten.add.Tensor",
    "aten.add.Scalar",
    "aten.sub.Tensor",
    "aten.sub.Scalar",
    "aten.rsub.Scalar",
    refuse=_refuse_bool,
)
def add(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`a + alpha * b`, `a - alpha * b`, and `b - alpha * a` for rsub."""
    a, b, alpha = operands
    name = str(node.target).split(".")[1]
    if name == "rsub":
        a, b = b, a
    left, right = _pair(emit, node, a, b)
    if alpha != 1:
        right = emit.op("Mul", [right, emit.number(alpha, dtype_of(node))])
    return emit.op("Add" if name == "add" else "Sub", [left, right])


@lowers("aten.mul.Tensor", "aten.mul.Scalar")
def mul(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`a * b`."""
    if dtype_of(node) == torch.bool:
        return emit.op("And", _pair(emit, node, operands[0], operands[1]))
    return emit.op("Mul", _pair(emit, node, operands[0], operands[1]))


@lowers("aten.div.Tensor", "aten.div.Scalar")
def div(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`a / b`, always in floating point."""
    return emit.op("Div", _pair(emit, node, operands[0], operands[1]))


def _refuse_mode(node: fx.Node, operands: list[Any]) -> str | None:
    mode = operands[2]
    return None if mode in (None, "floor") else f"division with rounding_mode={mode!r}"


@lowers("aten.div.Tensor_mode", "aten.div.Scalar_mode", refuse=_refuse_mode)
def div_mode(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`a / b`, rounded down when asked to."""
    if operands[2] is None:
        return div(emit, node, operands)
    return floor_divide(emit, node, operands)


@lowers("aten.floor_divide.default")
def floor_divide(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Rounds down; ONNX divides integers towards zero, so the remainder of the divisor's sign is taken off first."""
    a, b = _pair(emit, node, operands[0], operands[1])
    if dtype_of(node).is_floating_point:
        return emit.op("Floor", [emit.op("Div", [a, b])])
    return emit.op("Div", [emit.op("Sub", [a, emit.op("Mod", [a, b])]), b])


@lowers("aten.remainder.Tensor", "aten.remainder.Scalar")
def remainder(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """The remainder of the divisor's sign."""
    a, b = _pair(emit, node, operands[0], operands[1])
    if not dtype_of(node).is_floating_point:
        return emit.op("Mod", [a, b])
    return emit.op("Sub", [a, emit.op("Mul", [b, emit.op("Floor", [emit.op("Div", [a, b])])])])


@lowers("aten.maximum.default", "aten.minimum.default")
def extremum(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """The larger or the smaller."""
    kind = "Max" if "maximum" in str(node.target) else "Min"
    return emit.op(kind, _pair(emit, node, operands[0], operands[1]))


@lowers("aten.clamp.default", "aten.clamp_min.default", "aten.clamp_max.default")
def clamp(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Between two numbers, either of which may be missing."""
    name = str(node.target).split(".")[1]
    low = operands[1] if name != "clamp_max" else None
    high = {"clamp": operands[-1], "clamp_min": None, "clamp_max": operands[1]}[name]
    x = emit.cast(operands[0], dtype_of(node))
    if low is not None:
        x = emit.op("Max", [x, emit.cast(low, dtype_of(node))])
    return x if high is None else emit.op("Min", [x, emit.cast(high, dtype_of(node))])


@lowers("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar")
def power(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`a ** b`; the common exponents without a call of the power function."""
    a, b = operands
    if not isinstance(b, fx.Node) and isinstance(a, fx.Node):
        x = emit.cast(a, dtype_of(node))
        if b == 1:
            return x
        if b == 2:
            return emit.op("Mul", [x, x])
        if b == 3:
            return emit.op("Mul", [emit.op("Mul", [x, x]), x])
        if dtype_of(node).is_floating_point and b in (0.5, -0.5, -1):
            root = x if b == -1 else emit.op("Sqrt", [x])
            return root if b == 0.5 else emit.op("Reciprocal", [root])
    return emit.op("Pow", _pair(emit, node, a, b))
