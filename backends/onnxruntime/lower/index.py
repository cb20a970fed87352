"""Picking rows by number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from optcc.backends.onnxruntime.lower.emit import Emitter
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.types import axis_of, dtype_of, rank_of

if TYPE_CHECKING:
    import onnx_ir as ir


def _refuse_index(node: fx.Node, operands: list[Any]) -> str | None:
    found = [i for i in operands[1] if i is not None]
    if len(found) != 1 and operands[1][: len(found)] != found:
        return f"indexing with {len(found)} tensors at once behind a dim that stays"
    return (
        "indexing with a mask gives a shape that depends on data"
        if any(dtype_of(i) in (torch.bool, torch.uint8) for i in found)
        else None
    )


@lowers("aten.index.Tensor", refuse=_refuse_index)
def index(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`x[:, …, i, …]` with one tensor of integers, or `x[i, j, …]` with several, which broadcast."""
    x, indices = operands
    found = [emit.cast(i, torch.int64) for i in indices if i is not None]
    if len(found) > 1:
        shape = emit.op("Shape", [emit.op("Max", found)])
        last = emit.ints([-1])
        columns = [emit.op("Unsqueeze", [emit.op("Expand", [i, shape]), last]) for i in found]
        return emit.op("GatherND", [emit.value(x), emit.op("Concat", columns, {"axis": -1})])
    axis = next(d for d, i in enumerate(indices) if i is not None)
    return emit.op("Gather", [emit.value(x), emit.value(indices[axis])], {"axis": axis})


@lowers("aten.index_select.default")
def index_select(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Some slices along one dim."""
    x, axis, rows = operands
    return emit.op("Gather", [emit.value(x), emit.value(rows)], {"axis": axis_of(axis, rank_of(x))})


@lowers("aten.select.int")
def select(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """One slice along one dim, which goes away."""
    x, axis, place = operands
    if x in emit.taken_in:
        return emit.value(x)
    return emit.op(
        "Gather", [emit.value(x), emit.cast(place, torch.int64)], {"axis": axis_of(axis, rank_of(x))}
    )


@lowers("aten.gather.default")
def gather(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """An element of its own for every place."""
    x, axis, places = operands[:3]
    return emit.op("GatherElements", [emit.value(x), emit.value(places)], {"axis": axis_of(axis, rank_of(x))})


@lowers("aten.embedding.default")
def embedding(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Rows of a table."""
    return emit.op("Gather", [emit.value(operands[0]), emit.value(operands[1])])
