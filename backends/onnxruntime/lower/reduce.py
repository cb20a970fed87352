"""Reductions, and what is computed along one dim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from optcc.backends.onnxruntime.lower.emit import Emitter
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.types import axis_of, dtype_of, rank_of

if TYPE_CHECKING:
    import onnx_ir as ir

_REDUCE = {"mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax", "amin": "ReduceMin"}


@lowers(
    "aten.mean.dim",
    "aten.sum.dim_IntList",
    "aten.amax.default",
    "aten.amin.default",
    "aten.mean.default",
    "aten.sum.default",
)
def reduce(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Over some dims, or all of them when none are given."""
    kind = _REDUCE[str(node.target).split(".")[1]]
    x, axes, keep = operands[0], None, False
    if str(node.target) not in ("aten.mean.default", "aten.sum.default"):
        axes, keep = operands[1], bool(operands[2])
    return _over(emit, kind, emit.cast(x, dtype_of(node)), axes, keep)


def _over(emit: Emitter, kind: str, x: ir.Value, axes: Any, keep: bool) -> ir.Value:
    listed = [axes] if isinstance(axes, int) else axes
    inputs = [x, emit.ints(listed)] if listed else [x]
    return emit.op(kind, inputs, {"keepdims": int(keep)})


@lowers("aten.any.dim", "aten.any.default", "aten.all.dim", "aten.all.default")
def truth(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Whether one is true, or all are."""
    kind = "ReduceMax" if ".any." in str(node.target) else "ReduceMin"
    bits = emit.to(emit.cast(operands[0], torch.bool), torch.int32)
    axes, keep = (operands[1], bool(operands[2])) if len(operands) == 3 else (None, False)
    return emit.to(_over(emit, kind, bits, axes, keep), torch.bool)


def _refuse_norm(node: fx.Node, operands: list[Any]) -> str | None:
    return None if operands[1] in (1, 2) else f"vector norm of order {operands[1]}"


@lowers("aten.linalg_vector_norm.default", refuse=_refuse_norm)
def vector_norm(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Length of order 1 or 2."""
    x, order, axes, keep = operands[:4]
    kind = "ReduceL1" if order == 1 else "ReduceL2"
    return _over(emit, kind, emit.cast(x, dtype_of(node)), axes, bool(keep))


@lowers("aten.argmax.default", "aten.argmin.default")
def argmax(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Place of the largest or smallest; the first of several."""
    x, axis, keep = operands
    kind = "ArgMax" if "argmax" in str(node.target) else "ArgMin"
    value = emit.value(x)
    if axis is None:
        value, axis = emit.reshape(value, [-1]), 0
    return emit.op(kind, [value], {"axis": int(axis), "keepdims": int(bool(keep))})


@lowers("aten.softmax.int", "aten._softmax.default", "aten.log_softmax.int", "aten._log_softmax.default")
def softmax(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Along one dim."""
    kind = "LogSoftmax" if "log" in str(node.target) else "Softmax"
    return emit.op(
        kind, [emit.cast(operands[0], dtype_of(node))], {"axis": axis_of(operands[1], rank_of(node))}
    )


@lowers("aten.cumsum.default")
def cumsum(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Running sum along one dim; integers count in i64."""
    axis = axis_of(operands[1], rank_of(node))
    return emit.op("CumSum", [emit.cast(operands[0], dtype_of(node)), emit.number(axis, torch.int64)])
