"""Tensors from nothing but shapes and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from optcc.backends.onnxruntime.lower.emit import Emitter
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.types import dtype_of

if TYPE_CHECKING:
    import onnx_ir as ir


@lowers("aten.arange.default", "aten.arange.start", "aten.arange.start_step")
def arange(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`start, start + step, …` up to `end`."""
    kind = str(node.target).rsplit(".", 1)[1]
    start, end, step = {
        "default": (0, operands[0], 1),
        "start": (*operands[:2], 1),
        "start_step": tuple(operands[:3]),
    }[kind]
    # Counted in i64 where the numbers allow it: dims are i64, and ONNX has no Range of every type.
    whole = not any(isinstance(x, float) for x in (start, end, step))
    dtype = torch.int64 if whole else dtype_of(node)
    counted = emit.op("Range", [emit.cast(x, dtype) for x in (start, end, step)])
    return counted if dtype == dtype_of(node) else emit.to(counted, dtype_of(node))


_FILLED: dict[str, Any] = {"ones": 1, "zeros": 0}


@lowers("aten.full.default", "aten.ones.default", "aten.zeros.default")
def full(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """One number everywhere."""
    name = str(node.target).split(".")[1]
    value = emit.cast(operands[1] if name == "full" else _FILLED[name], dtype_of(node))
    return emit.op("Expand", [value, emit.dims(operands[0])]) if operands[0] else value


@lowers("aten.new_full.default", "aten.new_ones.default", "aten.new_zeros.default")
def new_full(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """One number everywhere, in the type of another tensor."""
    name = str(node.target).split(".")[1].removeprefix("new_")
    value = emit.cast(operands[2] if name == "full" else _FILLED[name], dtype_of(node))
    return emit.op("Expand", [value, emit.dims(operands[1])]) if operands[1] else value


@lowers("aten.full_like.default", "aten.ones_like.default", "aten.zeros_like.default")
def full_like(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """One number everywhere, in the shape of another tensor."""
    name = str(node.target).split(".")[1].removesuffix("_like")
    value = emit.cast(operands[1] if name == "full" else _FILLED[name], dtype_of(node))
    return emit.op("Expand", [value, emit.op("Shape", [emit.value(operands[0])])])


@lowers("aten.scalar_tensor.default")
def scalar_tensor(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """A number as a 0-d tensor."""
    return emit.cast(operands[0], dtype_of(node))


@lowers("aten.tril.default", "aten.triu.default")
def triangle(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """The lower or the upper triangle, zeros elsewhere."""
    x, diagonal = operands
    upper = int("triu" in str(node.target))
    return emit.op("Trilu", [emit.value(x), emit.number(diagonal, torch.int64)], {"upper": upper})
