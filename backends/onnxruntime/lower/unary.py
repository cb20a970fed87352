"""Element by element, one operand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from optcc.backends.onnxruntime.lower.emit import MICROSOFT, Emitter
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.types import dtype_of

if TYPE_CHECKING:
    import onnx_ir as ir

_SAME = {
    "abs": "Abs",
    "ceil": "Ceil",
    "cos": "Cos",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "neg": "Neg",
    "reciprocal": "Reciprocal",
    "relu": "Relu",
    "round": "Round",
    "sigmoid": "Sigmoid",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}
"""Operators that ONNX has too; ties round to even in both."""


@lowers(*(f"aten.{name}.default" for name in _SAME))
def same(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """One operator for one; integers are widened first where torch does."""
    name = str(node.target).split(".")[1]
    return emit.op(_SAME[name], [emit.cast(operands[0], dtype_of(node))])


@lowers("aten.rsqrt.default")
def rsqrt(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`1 / sqrt(x)`."""
    return emit.op("Reciprocal", [emit.op("Sqrt", [emit.cast(operands[0], dtype_of(node))])])


@lowers("aten.gelu.default")
def gelu(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Both forms."""
    x, approximate = operands
    return activation(emit, emit.value(x), "gelu_tanh" if approximate == "tanh" else "gelu")


@lowers("aten.silu.default")
def silu(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`x * sigmoid(x)`."""
    return activation(emit, emit.value(operands[0]), "silu")


def activation(emit: Emitter, x: ir.Value, kind: str) -> ir.Value:
    """One of the activations of `optcc::gated_activation`."""
    if kind == "silu":
        return emit.op("QuickGelu", [x], {"alpha": 1.0}, MICROSOFT)
    if kind == "relu":
        return emit.op("Relu", [x])
    return emit.op("Gelu", [x], {"approximate": "tanh" if kind == "gelu_tanh" else "none"})


@lowers("optcc.gated_activation.default")
def gated(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`act(first half) * second half`, unless what gives both halves did it."""
    if operands[0] in emit.taken_in:
        return emit.value(operands[0])
    gate, up = emit.ops("Split", [emit.value(operands[0])], {"axis": -1, "num_outputs": 2}, outputs=2)
    return emit.op("Mul", [activation(emit, gate, operands[1]), up])


@lowers(
    "aten.alias.default",
    "aten.clone.default",
    "aten.contiguous.default",
    "aten.detach.default",
    "aten.lift_fresh_copy.default",
)
def identity(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Nothing."""
    return emit.value(operands[0])


def _refuse_dropout(node: fx.Node, operands: list[Any]) -> str | None:
    return "dropout in training mode" if operands[2] and operands[1] else None


@lowers("aten.dropout.default", refuse=_refuse_dropout)
def dropout(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Nothing, in inference."""
    return emit.value(operands[0])


@lowers("aten._to_copy.default", "aten.to.dtype", "aten.type_as.default", half=True)
def cast(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Another element type."""
    return emit.cast(operands[0], dtype_of(node))


@lowers("aten.bitwise_not.default", "aten.logical_not.default")
def logical_not(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`not x`; for integers the bits are flipped."""
    if str(node.target) == "aten.bitwise_not.default" and dtype_of(node) != torch.bool:
        return emit.op("BitwiseNot", [emit.value(operands[0])])
    return emit.op("Not", [emit.cast(operands[0], torch.bool)])
