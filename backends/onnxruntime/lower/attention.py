"""Attention in plain ONNX: new keys and values go to their pages first, then each request's pages are gathered.

So key j of a request always stands in column j. Queries of one step are padded to [R, Q] rows, Q the longest request;
index tensors and masks are computed once and shared by all layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from torch import fx

from optcc.backends.onnxruntime.emit import Emit
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.ir.pattern import normalized

_INT64 = int(ir.DataType.INT64)
_HIDDEN = np.float32(-1e30)  # added to the score of a key that must not be seen: its weight becomes exactly 0


class _Rows:
    """How the T tokens of a step fall into requests.

    Attributes:
        request: i64[T], which request a token belongs to.
        padded: i64[R, Q], the token in each padded row; a short request repeats its last token.
        inverse: i64[T], where token t stands in the flattened [R * Q].
        width: i64[1], Q.
    """

    def __init__(self, emit: Emit, starts: ir.Value) -> None:
        wide = emit.op("Cast", [starts], to=_INT64)
        first = emit.op("Slice", [wide, emit.ints(0), emit.ints(-1), emit.ints(0)])
        end = emit.op("Slice", [wide, emit.ints(1), emit.ints(np.iinfo(np.int64).max), emit.ints(0)])
        counts = emit.op("Sub", [end, first])
        self.width = emit.op("ReduceMax", [counts], keepdims=1)
        total = emit.op("Gather", [wide, emit.const(-1, np.int64)], axis=0)
        token = _range(emit, total)
        passed = emit.op("LessOrEqual", [_unsqueeze(emit, end, 0), _unsqueeze(emit, token, 1)])
        self.request = emit.op("ReduceSum", [emit.op("Cast", [passed], to=_INT64), emit.ints(1)], keepdims=0)
        place = emit.op("Sub", [token, emit.op("Gather", [first, self.request], axis=0)])
        self.inverse = emit.op("Add", [emit.op("Mul", [self.request, self.width]), place])
        column = _unsqueeze(emit, _range(emit, emit.op("Squeeze", [self.width])), 0)
        last = _unsqueeze(emit, emit.op("Sub", [counts, emit.ints(1)]), 1)
        self.place = emit.op("Min", [column, last])
        self.padded = emit.op("Add", [_unsqueeze(emit, first, 1), self.place])


def _range(emit: Emit, stop: ir.Value) -> ir.Value:
    return emit.op("Range", [emit.const(0, np.int64), stop, emit.const(1, np.int64)])


def _unsqueeze(emit: Emit, value: ir.Value, axis: int) -> ir.Value:
    return emit.op("Unsqueeze", [value, emit.ints(axis)])


def _rows(emit: Emit, starts: fx.Node) -> _Rows:
    key = ("rows", starts)
    if key not in emit.shared:
        emit.shared[key] = _Rows(emit, emit.value(starts))
    rows: _Rows = emit.shared[key]
    return rows


def _mask(emit: Emit, query: ir.Value, keys: ir.Value, window: int) -> ir.Value:
    """f32[R, 1, Q, L]: 0 where a query at position `query` [R, Q] sees key j < `keys`, else a very small number."""
    column = _range(emit, keys)
    at = _unsqueeze(emit, query, 2)
    visible = emit.op("LessOrEqual", [column, at])
    if window > 0:
        recent = emit.op("Greater", [column, emit.op("Sub", [at, emit.const(window, np.int64)])])
        visible = emit.op("And", [visible, recent])
    bias = emit.op("Where", [visible, emit.const(0, np.float32), emit.const(_HIDDEN, np.float32)])
    return _unsqueeze(emit, bias, 1)


def _attend(
    emit: Emit, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value | None, heads: int, groups: int, scale: float, cap: float
) -> ir.Value:
    """q [R,Q,H,C], k and v [R,L,G,C], mask broadcast to [R,H,Q,L] -> [R,Q,H,C]; heads of a group share one product."""
    merge, split = emit.ints(0, groups, -1, 0), emit.ints(0, heads, -1, 0)
    q = emit.op("Mul", [q, emit.const(scale, np.float32)])
    q = emit.op("Reshape", [emit.op("Transpose", [q], perm=[0, 2, 1, 3]), merge])
    scores = emit.op("MatMul", [q, emit.op("Transpose", [k], perm=[0, 2, 3, 1])])
    scores = emit.op("Reshape", [scores, split])
    if cap > 0:
        small = emit.op("Tanh", [emit.op("Div", [scores, emit.const(cap, np.float32)])])
        scores = emit.op("Mul", [small, emit.const(cap, np.float32)])
    if mask is not None:
        scores = emit.op("Add", [scores, mask])
    weights = emit.op("Reshape", [emit.op("Softmax", [scores], axis=-1), merge])
    out = emit.op("MatMul", [weights, emit.op("Transpose", [v], perm=[0, 2, 1, 3])])
    return emit.op("Transpose", [emit.op("Reshape", [out, split])], perm=[0, 2, 1, 3])


def _unpad(emit: Emit, out: ir.Value, rows: _Rows, heads: int, width: int) -> ir.Value:
    """[R,Q,H,C] -> [T,H,C]."""
    flat = emit.op("Reshape", [out, emit.ints(-1, heads, width)])
    return emit.op("Gather", [flat, rows.inverse], axis=0)


@lowers("optcc.attention.default")
def attention(emit: Emit, node: fx.Node) -> Any:
    """Stateless: the keys are the step's own."""
    q, k, v, starts, scale, window, cap = normalized(node)[0]
    rows = _rows(emit, starts)
    heads, width = (int(n) for n in q.meta["val"].shape[-2:])
    groups = int(k.meta["val"].shape[-2])
    key = ("mask", starts, window)
    if key not in emit.shared:
        emit.shared[key] = _mask(emit, rows.place, emit.op("Squeeze", [rows.width]), window)
    padded = [emit.op("Gather", [emit.value(x), rows.padded], axis=0) for x in (q, k, v)]
    out = _attend(emit, padded[0], padded[1], padded[2], emit.shared[key], heads, groups, scale, cap)
    return _unpad(emit, out, rows, heads, width)


@lowers("optcc.paged_attention.default")
def paged_attention(emit: Emit, node: fx.Node) -> Any:
    """Over pages. The written pools become outputs; the executor binds them to the inputs' own memory."""
    q, k, v, k_pool, v_pool, positions, starts, _, table, scale, window, cap = normalized(node)[0]
    rows = _rows(emit, starts)
    heads, width = (int(n) for n in q.meta["val"].shape[-2:])
    block, groups = (int(n) for n in k_pool.meta["val"].shape[1:3])
    pages = _pages(emit, table)
    slots = _slots(emit, rows, positions, pages, block)
    key = ("mask", table, window)
    if key not in emit.shared:
        columns = emit.op("Squeeze", [emit.op("Shape", [pages], start=1, end=2)])
        columns = emit.op("Mul", [columns, emit.const(block, np.int64)])
        emit.shared[key] = _mask(emit, emit.op("Gather", [emit.value(positions), rows.padded], axis=0), columns, window)
    gathered = []
    for pool, new in ((k_pool, k), (v_pool, v)):
        written = emit.op("ScatterND", [emit.value(pool), slots, emit.value(new)])
        emit.extra_outputs[f"{pool.name}.out"] = written
        own = emit.op("Gather", [written, pages], axis=0)
        gathered.append(emit.op("Reshape", [own, emit.ints(0, -1, groups, width)]))
    padded = emit.op("Gather", [emit.value(q), rows.padded], axis=0)
    out = _attend(emit, padded, gathered[0], gathered[1], emit.shared[key], heads, groups, scale, cap)
    return _unpad(emit, out, rows, heads, width)


def _pages(emit: Emit, table: fx.Node) -> ir.Value:
    if ("pages", table) not in emit.shared:
        emit.shared["pages", table] = emit.op("Cast", [emit.value(table)], to=_INT64)
    pages: ir.Value = emit.shared["pages", table]
    return pages


def _slots(emit: Emit, rows: _Rows, positions: fx.Node, pages: ir.Value, block: int) -> ir.Value:
    """i64[T, 2]: block and offset of every token."""
    key = ("slots", positions, block)
    if key not in emit.shared:
        position, size = emit.value(positions), emit.const(block, np.int64)
        column = emit.op("Div", [position, size])
        offset = emit.op("Mod", [position, size])
        place = emit.op("Concat", [_unsqueeze(emit, rows.request, 1), _unsqueeze(emit, column, 1)], axis=1)
        page = emit.op("GatherND", [pages, place])
        emit.shared[key] = emit.op("Concat", [_unsqueeze(emit, page, 1), _unsqueeze(emit, offset, 1)], axis=1)
    slots: ir.Value = emit.shared[key]
    return slots


@lowers("optcc.masked_attention.default")
def masked_attention(emit: Emit, node: fx.Node) -> Any:
    """Bidirectional; padding is never seen."""
    q, k, v, mask, scale, cap = normalized(node)[0]
    heads, groups = int(q.meta["val"].shape[-2]), int(k.meta["val"].shape[-2])
    bias = None
    if mask is not None:
        key = ("padding", mask)
        if key not in emit.shared:
            hidden = emit.const(_HIDDEN, np.float32)
            chosen = emit.op("Where", [emit.value(mask), emit.const(0, np.float32), hidden])
            emit.shared[key] = emit.op("Unsqueeze", [chosen, emit.ints(1, 2)])
        bias = emit.shared[key]
    return _attend(emit, emit.value(q), emit.value(k), emit.value(v), bias, heads, groups, scale, cap)
