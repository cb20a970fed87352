"""Moving elements without computing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import fx

from optcc.backends.onnxruntime.lower.emit import Emitter
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.types import axis_of, dtype_of, rank_of, shape_of

if TYPE_CHECKING:
    import onnx_ir as ir

_END = 2**63 - 1


@lowers("aten.reshape.default", "aten.view.default", "aten._unsafe_view.default")
def reshape(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Another shape of as many elements."""
    return emit.reshape_like(emit.value(operands[0]), node, operands[1])


def _refuse_flatten(node: fx.Node, operands: list[Any]) -> str | None:
    return "flatten to more than one symbolic dim" if shape_of(node).count(None) > 1 else None


@lowers("aten.flatten.using_ints", "aten.unflatten.int", refuse=_refuse_flatten)
def flatten(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Dims joined or divided."""
    return emit.reshape_like(emit.value(operands[0]), node, ())


@lowers("aten.transpose.int", "aten.t.default")
def transpose(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Two dims exchanged."""
    rank = rank_of(node)
    a, b = (axis_of(d, rank) for d in operands[1:]) if len(operands) == 3 else (0, 1)
    order = list(range(rank))
    if rank > 1:
        order[a], order[b] = order[b], order[a]
    return emit.op("Transpose", [emit.value(operands[0])], {"perm": order})


@lowers("aten.permute.default")
def permute(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Dims in another order."""
    rank = rank_of(node)
    return emit.op("Transpose", [emit.value(operands[0])], {"perm": [axis_of(d, rank) for d in operands[1]]})


@lowers("aten.unsqueeze.default")
def unsqueeze(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """A new dim of 1."""
    return emit.op("Unsqueeze", [emit.value(operands[0]), emit.ints([axis_of(operands[1], rank_of(node))])])


@lowers("aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze.default")
def squeeze(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Dims of 1 dropped; others stay, as in torch."""
    x = operands[0]
    shape = shape_of(x)
    given = operands[1] if len(operands) > 1 else range(len(shape))
    axes = [axis_of(d, len(shape)) for d in ([given] if isinstance(given, int) else given)]
    ones = sorted(d for d in axes if shape[d] == 1)
    return emit.op("Squeeze", [emit.value(x), emit.ints(ones)]) if ones else emit.value(x)


@lowers("aten.expand.default")
def expand(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Broadcast; -1 keeps a dim."""
    sizes = [1 if s == -1 else s for s in operands[1]]
    return emit.op("Expand", [emit.value(operands[0]), emit.dims(sizes)])


@lowers("aten.repeat.default")
def repeat(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Copies side by side; missing dims are put in front."""
    x, counts = operands
    value = emit.value(x)
    missing = len(counts) - rank_of(x)
    if missing:
        value = emit.op("Unsqueeze", [value, emit.ints(range(missing))])
    return emit.op("Tile", [value, emit.dims(counts)])


@lowers("aten.split_with_sizes.default")
def split_with_sizes(emit: Emitter, node: fx.Node, operands: list[Any]) -> list[ir.Value]:
    """Pieces of given extents."""
    x, sizes, axis = operands
    return _split(emit, x, sizes, axis)


@lowers("aten.split.Tensor", "aten.chunk.default", "aten.unbind.int")
def split(emit: Emitter, node: fx.Node, operands: list[Any]) -> list[ir.Value]:
    """Pieces of the extents that the node's type has."""
    x, axis = operands[0], operands[-1]
    pieces = node.meta["val"]
    if "unbind" in str(node.target):
        cut = _split(emit, x, [1] * len(pieces), axis)
        return [emit.op("Squeeze", [p, emit.ints([axis_of(axis, rank_of(x))])]) for p in cut]
    return _split(emit, x, [int(p.shape[axis]) for p in pieces], axis)


def _split(emit: Emitter, x: fx.Node, sizes: Sequence[Any], axis: int) -> list[ir.Value]:
    attributes = {"axis": axis_of(axis, rank_of(x))}
    return list(emit.ops("Split", [emit.value(x), emit.dims(sizes)], attributes, outputs=len(sizes)))


@lowers("aten.slice.Tensor")
def slice_(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`x[..., start:end:step, ...]` along one dim."""
    x, axis, start, end, step = operands
    bounds = [emit.dims([0 if start is None else start]), emit.dims([_END if end is None else end])]
    return emit.op(
        "Slice", [emit.value(x), *bounds, emit.ints([axis_of(axis, rank_of(x))]), emit.dims([step])]
    )


@lowers("aten.flip.default")
def flip(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Backwards along some dims."""
    x, axes = operands
    count = len(axes)
    ends = [emit.ints([-1] * count), emit.ints([-(2**63)] * count)]
    where = emit.ints([axis_of(a, rank_of(x)) for a in axes])
    return emit.op("Slice", [emit.value(x), *ends, where, emit.ints([-1] * count)])


@lowers("aten.cat.default")
def cat(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Laid end to end, promoted to one type. torch lets an empty 1-d tensor join anything."""
    parts = [p for p in operands[0] if shape_of(p) != (0,) or rank_of(node) == 1]
    values = [emit.cast(p, dtype_of(node)) for p in parts]
    return emit.op("Concat", values, {"axis": axis_of(operands[1], rank_of(node))})


@lowers("aten.stack.default")
def stack(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Laid beside each other along a new dim."""
    axis = axis_of(operands[1], rank_of(node))
    rows = [emit.op("Unsqueeze", [emit.cast(p, dtype_of(node)), emit.ints([axis])]) for p in operands[0]]
    return emit.op("Concat", rows, {"axis": axis})


@lowers("getitem")
def getitem(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """One of an operator's results."""
    found: ir.Value = emit.values[operands[0]][operands[1]]
    return found
