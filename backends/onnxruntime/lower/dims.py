"""Dims as values, and arithmetic on them: 0-d i64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from optcc.backends.onnxruntime.lower.emit import Emitter
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.types import axis_of, rank_of

if TYPE_CHECKING:
    import onnx_ir as ir

_ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "sym_max": "Max", "sym_min": "Min", "mod": "Mod"}


@lowers("aten.sym_size.int")
def sym_size(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """One extent of a tensor."""
    x, axis = operands
    extents = emit.op("Shape", [emit.value(x)])
    return emit.op("Gather", [extents, emit.number(axis_of(axis, rank_of(x)), torch.int64)])


@lowers(*_ARITHMETIC, "floordiv", "neg")
def arithmetic(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Of integers; division rounds down."""
    name = str(getattr(node.target, "__name__", node.target))
    a, *rest = [emit.cast(x, torch.int64) for x in operands]
    if name == "neg":
        return emit.op("Neg", [a])
    if name == "floordiv":
        return emit.op("Div", [emit.op("Sub", [a, emit.op("Mod", [a, rest[0]])]), rest[0]])
    return emit.op(_ARITHMETIC[name], [a, rest[0]])
