"""How a rotation's operands lie, and the operator in canonical layout."""

from __future__ import annotations

import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.pattern import Match
from optcc.passes.canonicalize._types import (
    aten,
    dtype,
    expression,
    is_static,
    is_tensor,
    rank,
    same_dims,
    shape,
    symbolic_count,
)


def layout_of(x: fx.Node, cos: object, sin: object) -> tuple[int, str | None]:
    """Which dimension of x holds positions, and why it is not a rotation that the operator can do.

    The tables must hold one row per position: all their other dimensions but the last are 1 after
    broadcasting to x. The dimension is rank-3 for [..., T, H, C] and rank-2 for [..., H, T, C].
    """
    if not (is_tensor(cos) and is_tensor(sin)):
        return -1, "cos and sin are not tables"
    assert isinstance(cos, fx.Node)
    assert isinstance(sin, fx.Node)
    if not same_dims(shape(cos), shape(sin)):
        return -1, "cos and sin have different shapes"
    sizes = shape(cos)
    if rank(x) < 3 or rank(cos) > rank(x) or 2 * sizes[-1] > shape(x)[-1]:
        return -1, "the tables don't fit the heads"
    offset = rank(x) - rank(cos)
    long = [i for i, d in enumerate(sizes[:-1]) if not (is_static(d) and d == 1)]
    if len(long) != 1 or symbolic_count(sizes) > 1:
        return -1, "the tables hold more than one row per position"
    position = long[0] + offset
    if expression(sizes[long[0]]) != expression(shape(x)[position]):
        return -1, "the tables have another length than x"
    if position not in (rank(x) - 3, rank(x) - 2):
        return -1, "positions are neither before nor after the heads"
    return position, None


def rotate(match: Match, build: Builder, x: fx.Node, interleaved: bool) -> fx.Node:
    """`optcc.rope` of x, with transposes around where heads stand before positions."""
    position, _ = layout_of(x, match["cos"], match["sin"])
    want, size = dtype(match.root), rank(x)
    tables = [_table(build, match.node(name), want) for name in ("cos", "sin")]
    turned = position == size - 2
    value = x if dtype(x) == want else build.call(aten._to_copy.default, x, dtype=want)
    if turned:
        value = build.call(aten.transpose.int, value, size - 3, size - 2)
    flag = (True,) if interleaved else ()
    result = build.call(torch.ops.optcc.rope.default, value, *tables, *flag)
    return build.call(aten.transpose.int, result, size - 3, size - 2) if turned else result


def _table(build: Builder, table: fx.Node, want: torch.dtype) -> fx.Node:
    sizes = shape(table)
    rows = next(d for d in sizes[:-1] if not (is_static(d) and d == 1))
    flat = build.reshape(table, [rows if is_static(rows) else -1, int(sizes[-1])])
    return flat if dtype(flat) == want else build.call(aten._to_copy.default, flat, dtype=want)
