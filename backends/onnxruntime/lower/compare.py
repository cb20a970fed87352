"""Comparisons, logic and choices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from optcc.backends.onnxruntime.lower.emit import Emitter
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.types import dtype_of, promoted

if TYPE_CHECKING:
    import onnx_ir as ir

_COMPARE = {
    "eq": "Equal",
    "ne": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
}
_LOGIC = {"and": "And", "or": "Or", "xor": "Xor"}


@lowers(*(f"aten.{name}.{kind}" for name in _COMPARE for kind in ("Tensor", "Scalar")))
def compare(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Compared in the type both operands promote to."""
    name = str(node.target).split(".")[1]
    common = promoted(operands[0], operands[1])
    result = emit.op(_COMPARE[name], [emit.cast(operands[0], common), emit.cast(operands[1], common)])
    return emit.op("Not", [result]) if name == "ne" else result


def _refuse_bits(node: fx.Node, operands: list[Any]) -> str | None:
    return None if dtype_of(node) == torch.bool else "bits of integers"


@lowers(
    *(f"aten.bitwise_{name}.{kind}" for name in _LOGIC for kind in ("Tensor", "Scalar")),
    *(f"aten.logical_{name}.default" for name in _LOGIC),
    *(f"aten.__{name}__.Tensor" for name in _LOGIC),
    refuse=_refuse_bits,
)
def logic(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Of truth values."""
    name = str(node.target).split(".")[1].strip("_").rsplit("_", 1)[-1]
    return emit.op(_LOGIC[name], [emit.cast(operands[0], torch.bool), emit.cast(operands[1], torch.bool)])


@lowers("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def where(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """The first where the condition holds, else the second."""
    condition, a, b = operands
    dtype = dtype_of(node)
    return emit.op("Where", [emit.cast(condition, torch.bool), emit.cast(a, dtype), emit.cast(b, dtype)])


@lowers("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """A number where the mask holds."""
    x, mask, value = operands
    return emit.op("Where", [emit.cast(mask, torch.bool), emit.cast(value, dtype_of(node)), emit.value(x)])
