"""Operators that move elements without computing."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import fx

from optcc.backends.onnxruntime.emit import Emit
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.ir.pattern import normalized


def _rank(node: Any) -> int:
    return len(node.meta["val"].shape)


@lowers("aten.reshape.default", "aten.view.default", "aten._unsafe_view.default")
def reshape(emit: Emit, node: fx.Node) -> Any:
    """Sizes may be computed."""
    x, shape = node.args
    return emit.op("Reshape", [emit.value(x), emit.dims(list(shape))], allowzero=0)  # type: ignore[arg-type]


@lowers("aten.flatten.using_ints")
def flatten(emit: Emit, node: fx.Node) -> Any:
    """Dimensions start..end become one."""
    x, start, end = normalized(node)[0]
    rank = _rank(x)
    start, end = start % rank, end % rank
    shape = [d if isinstance(d, int) else None for d in x.meta["val"].shape]
    sizes = [*(0 if s is None else s for s in shape[:start]), -1]
    tail = shape[end + 1 :]
    if any(s is None for s in tail):
        after = emit.op("Shape", [emit.value(x)], start=end + 1)
        return emit.op("Reshape", [emit.value(x), emit.op("Concat", [emit.ints(*sizes), after], axis=0)])
    return emit.op("Reshape", [emit.value(x), emit.ints(*sizes, *tail)])


@lowers("aten.transpose.int")
def transpose(emit: Emit, node: fx.Node) -> Any:
    """Swap two dimensions."""
    x, a, b = node.args
    order = list(range(_rank(x)))
    order[a], order[b] = order[b], order[a]  # type: ignore[index]
    return emit.op("Transpose", [emit.value(x)], perm=order)


@lowers("aten.permute.default")
def permute(emit: Emit, node: fx.Node) -> Any:
    """Any order of dimensions."""
    x, order = node.args
    return emit.op("Transpose", [emit.value(x)], perm=[int(d) % _rank(x) for d in order])  # type: ignore[union-attr, arg-type]


@lowers("aten.unsqueeze.default")
def unsqueeze(emit: Emit, node: fx.Node) -> Any:
    """A dimension of size 1."""
    return emit.op("Unsqueeze", [emit.value(node.args[0]), emit.ints(int(node.args[1]))])  # type: ignore[arg-type]


@lowers("aten.squeeze.dim", "aten.squeeze.dims")
def squeeze(emit: Emit, node: fx.Node) -> Any:
    """Only dimensions that are 1 go away."""
    x, dims = node.args
    wanted = [dims] if isinstance(dims, int) else list(dims)  # type: ignore[arg-type]
    shape = x.meta["val"].shape  # type: ignore[union-attr]
    gone = [int(d) for d in wanted if shape[d] == 1]
    return emit.op("Squeeze", [emit.value(x), emit.ints(*gone)]) if gone else emit.value(x)


@lowers("aten.split_with_sizes.default")
def split(emit: Emit, node: fx.Node) -> Any:
    """Parts of given sizes."""
    x, sizes, axis = normalized(node)[0]
    return emit.ops("Split", [emit.value(x), emit.dims(list(sizes))], len(sizes), axis=axis)


@lowers("aten.slice.Tensor")
def slice_(emit: Emit, node: fx.Node) -> Any:
    """start:end:step along one dimension."""
    x, axis, start, end, step = normalized(node)[0]
    first = emit.dim(start if start is not None else 0)
    last = emit.dim(end if end is not None else sys.maxsize)
    return emit.op("Slice", [emit.value(x), first, last, emit.ints(axis), emit.ints(step)])


@lowers("aten.select.int")
def select(emit: Emit, node: fx.Node) -> Any:
    """One index of a dimension."""
    x, axis, index = node.args
    return emit.op("Gather", [emit.value(x), emit.const(int(index), "int64")], axis=int(axis))  # type: ignore[arg-type]


@lowers("aten.cat.default")
def cat(emit: Emit, node: fx.Node) -> Any:
    """Joined along one dimension, as the result's type."""
    parts, axis = normalized(node)[0]
    dtype = node.meta["val"].dtype
    return emit.op("Concat", [emit.cast(emit.value(p), p.meta["val"].dtype, dtype) for p in parts], axis=axis)


@lowers("aten.stack.default")
def stack(emit: Emit, node: fx.Node) -> Any:
    """Joined along a new dimension."""
    parts, axis = normalized(node)[0]
    axis = axis % (_rank(parts[0]) + 1)
    return emit.op("Concat", [emit.op("Unsqueeze", [emit.value(p), emit.ints(axis)]) for p in parts], axis=axis)


def _refuse_index(node: fx.Node) -> str | None:
    indices = [i for i in node.args[1] if i is not None]  # type: ignore[union-attr]
    if len(indices) != 1:
        return "indexing with several tensors at once"
    return "indexing with a mask" if indices[0].meta["val"].dtype == torch.bool else None  # type: ignore[union-attr]


@lowers("aten.index.Tensor", refuse=_refuse_index)
def index(emit: Emit, node: fx.Node) -> Any:
    """One tensor of indices along one dimension."""
    x, indices = node.args
    axis, chosen = next((i, v) for i, v in enumerate(indices) if v is not None)  # type: ignore[arg-type]
    return emit.op("Gather", [emit.value(x), emit.value(chosen)], axis=axis)


@lowers("aten.index_select.default")
def index_select(emit: Emit, node: fx.Node) -> Any:
    """Rows by number."""
    x, axis, chosen = node.args
    return emit.op("Gather", [emit.value(x), emit.value(chosen)], axis=int(axis))  # type: ignore[arg-type]


@lowers("aten.gather.default")
def gather(emit: Emit, node: fx.Node) -> Any:
    """Elements by number."""
    x, axis, chosen = node.args[:3]
    return emit.op("GatherElements", [emit.value(x), emit.value(chosen)], axis=int(axis))  # type: ignore[arg-type]


@lowers("aten.expand.default")
def expand(emit: Emit, node: fx.Node) -> Any:
    """Sizes of -1 stay; ONNX says 1 for that."""
    x, sizes = node.args[:2]
    return emit.op("Expand", [emit.value(x), emit.dims([1 if s == -1 else s for s in sizes])])  # type: ignore[union-attr]


@lowers("aten.repeat.default")
def repeat(emit: Emit, node: fx.Node) -> Any:
    """The whole tensor several times along each dimension."""
    x, times = node.args
    missing = len(times) - _rank(x)  # type: ignore[arg-type]
    value = emit.value(x)
    if missing:
        value = emit.op("Unsqueeze", [value, emit.ints(*range(missing))])
    return emit.op("Tile", [value, emit.dims(list(times))])  # type: ignore[arg-type]


@lowers("aten.sym_size.int")
def sym_size(emit: Emit, node: fx.Node) -> Any:
    """A size, as an int64 vector of one element."""
    x, axis = node.args
    axis = int(axis) % _rank(x)  # type: ignore[arg-type]
    return emit.op("Shape", [emit.value(x)], start=axis, end=axis + 1)


@lowers("aten.tril.default", "aten.triu.default")
def triangle(emit: Emit, node: fx.Node) -> Any:
    """The lower or upper triangle."""
    x, diagonal = normalized(node)[0]
    upper = int("triu" in str(node.target))
    return emit.op("Trilu", [emit.value(x), emit.const(diagonal, "int64")], upper=upper)
