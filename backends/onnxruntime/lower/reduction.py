"""Reductions."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from optcc.backends.onnxruntime.emit import Emit
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.ir.pattern import normalized

_KINDS = {
    "aten.mean.dim": "ReduceMean",
    "aten.mean.default": "ReduceMean",
    "aten.sum.dim_IntList": "ReduceSum",
    "aten.sum.default": "ReduceSum",
    "aten.amax.default": "ReduceMax",
    "aten.amin.default": "ReduceMin",
}


@lowers(*_KINDS)
def reduce(emit: Emit, node: fx.Node) -> Any:
    """Over some dimensions, or all."""
    operands, names, _ = normalized(node)
    given = dict(zip(names, operands, strict=True))
    x = given["self"]
    value = emit.cast(emit.value(x), x.meta["val"].dtype, node.meta["val"].dtype)
    dims = given.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or [])
    axes = [emit.ints(*dims)] if dims else []
    return emit.op(_KINDS[str(node.target)], [value, *axes], keepdims=int(bool(given.get("keepdim"))))


@lowers("aten.argmax.default")
def argmax(emit: Emit, node: fx.Node) -> Any:
    """The first largest element's index."""
    x, axis, keep = normalized(node)[0]
    if axis is None:
        flat = emit.op("Reshape", [emit.value(x), emit.ints(-1)])
        return emit.op("ArgMax", [flat], axis=0, keepdims=0)
    return emit.op("ArgMax", [emit.value(x)], axis=axis, keepdims=int(keep))


@lowers("aten.cumsum.default")
def cumsum(emit: Emit, node: fx.Node) -> Any:
    """Running sum along one dimension."""
    x, axis = node.args[:2]
    dtype = node.meta["val"].dtype
    value = emit.cast(emit.value(x), x.meta["val"].dtype, dtype)  # type: ignore[union-attr]
    return emit.op("CumSum", [value, emit.const(axis, np.int64)])


def _refuse_norm(node: fx.Node) -> str | None:
    order = normalized(node)[0][1]
    return None if order in (None, 1, 2) else f"a vector norm of order {order}"


@lowers("aten.linalg_vector_norm.default", "aten.norm.ScalarOpt_dim", refuse=_refuse_norm)
def vector_norm(emit: Emit, node: fx.Node) -> Any:
    """Sum of absolutes, or root of the sum of squares."""
    x, order, dims, keep = normalized(node)[0][:4]
    kind = "ReduceL1" if order == 1 else "ReduceL2"
    axes = [emit.ints(*([dims] if isinstance(dims, int) else dims))] if dims else []
    return emit.op(kind, [emit.value(x), *axes], keepdims=int(bool(keep)))
