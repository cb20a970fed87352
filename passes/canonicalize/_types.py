"""Questions about types that passes ask: shapes, ranks, whether two values have the same type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from optcc.ir.builder import Builder

aten = torch.ops.aten


def names(short: str) -> str:
    """Several ATen operators for a pattern: `silu.default relu.default` in full."""
    return " | ".join(f"aten.{name}" for name in short.split())


POINTWISE = names(
    "neg.default silu.default gelu.default relu.default tanh.default sigmoid.default exp.default "
    "rsqrt.default sqrt.default abs.default erf.default _to_copy.default pow.Tensor_Scalar"
)
"""Operators on every element by itself, for a pattern."""
BINARY = names("mul.Tensor add.Tensor sub.Tensor div.Tensor")
"""Operators on two tensors' elements, broadcast."""


def shape(node: fx.Node) -> tuple[Any, ...]:
    """The sizes of a node's tensor; symbolic ones are SymInt."""
    return tuple(node.meta["val"].shape)


def rank(node: fx.Node) -> int:
    """How many dimensions a node's tensor has."""
    return len(node.meta["val"].shape)


def dtype(node: fx.Node) -> torch.dtype:
    """Element type of a node's tensor."""
    found: torch.dtype = node.meta["val"].dtype
    return found


def is_tensor(value: object) -> bool:
    """Whether an operand is a node that holds one tensor."""
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def expression(dim: Any) -> object:
    """Something equal for equal dims: an int or the symbolic expression; comparing SymInts adds guards."""
    return dim.node.expr if isinstance(dim, torch.SymInt) else int(dim)


def same_dims(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two shapes are equal for every value of the named dims."""
    return len(a) == len(b) and all(expression(x) == expression(y) for x, y in zip(a, b, strict=True))


def same_type(a: fx.Node, b: fx.Node) -> bool:
    """Whether two nodes hold tensors of equal dtype and shape."""
    return is_tensor(a) and is_tensor(b) and dtype(a) == dtype(b) and same_dims(shape(a), shape(b))


def is_last(dim: int, node: fx.Node) -> bool:
    """Whether `dim`, counted from either end, is the last dimension of the node's tensor."""
    return dim % rank(node) == rank(node) - 1 if rank(node) else False


def is_static(dim: object) -> bool:
    """Whether a size is a plain number."""
    return isinstance(dim, int)


def symbolic_count(sizes: Sequence[Any]) -> int:
    """How many sizes are not plain numbers."""
    return sum(not is_static(d) for d in sizes)


def size_of(build: Builder, value: fx.Node, dim: int) -> Any:
    """One size as an operand: a number, or a node that reads it."""
    size = shape(value)[dim]
    return size if is_static(size) else build.call(aten.sym_size.int, value, dim)


def sizes_of(build: Builder, value: fx.Node) -> list[Any]:
    """A value's shape as operands for a reshape: with one symbolic size at most, that one is -1."""
    sizes = shape(value)
    if symbolic_count(sizes) <= 1:
        return [d if is_static(d) else -1 for d in sizes]
    return [size_of(build, value, i) for i in range(len(sizes))]


def reaches_output(node: fx.Node) -> bool:
    """Whether a node is a result of its graph; results are computed values, never weights."""
    return any(user.op == "output" for user in node.users)


def order_of(turn: fx.Node) -> list[int]:
    """Which dimension of the operand each dimension of the result is."""
    size = rank(turn)
    if turn.target is aten.permute.default:
        return [int(d) % size for d in turn.args[1]]  # type: ignore[union-attr,arg-type]
    order = list(range(size))
    a, b = (int(d) % size for d in turn.args[1:3])  # type: ignore[arg-type]
    order[a], order[b] = order[b], order[a]
    return order
