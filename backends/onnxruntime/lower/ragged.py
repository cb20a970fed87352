"""Which token of a ragged step stands where: small integer tensors, computed once per graph and shared by all layers.

Letters: T tokens, R requests, Q longest request of the step, H query heads, G KV heads, h = H / G heads that share a KV
head, C head width, K tokens per block, M blocks per table, L = columns that keys stand in.

Queries are padded to [R, G, h*Q, C] and gathered in one go from [T*H, C], keys to [R, G, L, C] from [X*G, C]: the index
tensors do the transposing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import fx

from optcc.backends.onnxruntime.lower.emit import Emitter

if TYPE_CHECKING:
    import onnx_ir as ir

_I64 = torch.int64


@dataclass(frozen=True)
class Queries:
    """Where the step's tokens stand.

    Attributes:
        token: i64[R, Q], the token at each padded place; behind a request's end, its last one.
        place: i64[R, Q], its place in its request's part of the step.
        row: i64[T], the request of each token.
        own: i64[T], its place in its request's part of the step.
        longest: i64[], Q.
    """

    token: ir.Value
    place: ir.Value
    row: ir.Value
    own: ir.Value
    longest: ir.Value


@dataclass(frozen=True)
class Keys:
    """Where keys stand.

    Attributes:
        slot: i64[R, L], the row of the key in [X, G, C]; key j of a request in column j.
        columns: i64[L], 0, 1, ….
        position: i64[R, Q], position of each padded query, counted as columns are.
    """

    slot: ir.Value
    columns: ir.Value
    position: ir.Value


def queries(emit: Emitter, query_starts: fx.Node) -> Queries:
    """From query_starts [R + 1]."""
    return emit.shared(
        ("queries", query_starts), lambda: emit.scoped("step", lambda: _queries(emit, query_starts))
    )


def _queries(emit: Emitter, query_starts: fx.Node) -> Queries:
    starts = emit.cast(query_starts, _I64)
    first = emit.op("Slice", [starts, emit.ints([0]), emit.ints([-1])])
    end = emit.op("Slice", [starts, emit.ints([1]), emit.ints([2**62])])
    longest = emit.op("ReduceMax", [emit.op("Sub", [end, first])], {"keepdims": 0})
    first_column, last_column = _column(emit, first), _column(emit, emit.op("Sub", [end, _one(emit)]))
    token = emit.op("Min", [emit.op("Add", [first_column, _ramp(emit, longest)]), last_column])
    tokens = _ramp(emit, emit.op("ReduceMax", [starts], {"keepdims": 0}))
    passed = emit.op("LessOrEqual", [emit.op("Unsqueeze", [end, emit.ints([0])]), _column(emit, tokens)])
    row = emit.op("ReduceSum", [emit.to(passed, _I64), emit.ints([1])], {"keepdims": 0})
    own = emit.op("Sub", [tokens, emit.op("Gather", [first, row])])
    return Queries(token, emit.op("Sub", [token, first_column]), row, own, longest)


def own_keys(emit: Emitter, query_starts: fx.Node) -> Keys:
    """Keys are the step's own tokens: column j of a request is its j-th token."""
    step = queries(emit, query_starts)

    def make() -> Keys:
        return emit.scoped("step", lambda: Keys(step.token, _ramp(emit, step.longest), step.place))

    return emit.shared(("own keys", query_starts), make)


def paged_keys(
    emit: Emitter,
    query_starts: fx.Node,
    positions: fx.Node,
    kv_lengths: fx.Node,
    block_table: fx.Node,
    block: int,
) -> Keys:
    """Keys stand in the pages of their request."""
    step = queries(emit, query_starts)
    key = ("paged keys", positions, kv_lengths, block_table, block)

    def make() -> Keys:
        table = emit.cast(block_table, _I64)
        width = emit.op("Squeeze", [emit.op("Shape", [table], {"start": 1}), emit.ints([0])])
        size = emit.number(block, _I64)
        # An unused column holds 0, somebody else's block: read the request's own first block in its place.
        used = emit.op(
            "Less", [emit.op("Mul", [_ramp(emit, width), size]), _column(emit, emit.cast(kv_lengths, _I64))]
        )
        own = emit.op("Slice", [table, emit.ints([0]), emit.ints([1]), emit.ints([1])])
        pages = emit.op("Mul", [emit.op("Where", [used, table, own]), size])
        offsets = emit.constant(np.arange(block, dtype=np.int64))
        slots = emit.op("Add", [emit.op("Unsqueeze", [pages, emit.ints([2])]), offsets])
        position = emit.op("Gather", [emit.cast(positions, _I64), step.token])
        return Keys(emit.reshape(slots, [0, -1]), _ramp(emit, emit.op("Mul", [width, size])), position)

    return emit.shared(key, lambda: emit.scoped("step", make))


def write_slots(
    emit: Emitter, query_starts: fx.Node, positions: fx.Node, block_table: fx.Node, block: int
) -> ir.Value:
    """i64[T, 2]: block and offset that each token's key and value are written to."""
    step = queries(emit, query_starts)

    def make() -> ir.Value:
        position, size = emit.cast(positions, _I64), emit.number(block, _I64)
        column = emit.op("Div", [position, size])
        cell = emit.op("Concat", [_column(emit, step.row), _column(emit, column)], {"axis": 1})
        page = emit.op("GatherND", [emit.cast(block_table, _I64), cell])
        return emit.op(
            "Concat", [_column(emit, page), _column(emit, emit.op("Mod", [position, size]))], {"axis": 1}
        )

    return emit.shared(("slots", positions, block_table, block), lambda: emit.scoped("step", make))


def query_index(emit: Emitter, query_starts: fx.Node, heads: int, kv_heads: int) -> ir.Value:
    """i64[R, G, h*Q]: rows of [T*H, C] in padded order."""
    step = queries(emit, query_starts)

    def make() -> ir.Value:
        of_token = emit.op("Mul", [step.token, emit.number(heads, _I64)])
        head = np.arange(heads, dtype=np.int64).reshape(1, kv_heads, heads // kv_heads, 1)
        index = emit.op("Add", [emit.op("Unsqueeze", [of_token, emit.ints([1, 2])]), emit.constant(head)])
        return emit.reshape(index, [0, kv_heads, -1])

    return emit.shared(("query index", query_starts, heads, kv_heads), lambda: emit.scoped("step", make))


def of_heads(emit: Emitter, values: ir.Value, asked: ir.Value, heads: int) -> ir.Value:
    """f32[R, G, h*Q, 1]: of a value for each head, [H], that of the head of each padded query."""
    head = emit.op("Mod", [asked, emit.number(heads, _I64)])
    return emit.op("Unsqueeze", [emit.op("Gather", [values, head]), emit.ints([3])])


def result_index(emit: Emitter, query_starts: fx.Node, heads: int) -> ir.Value:
    """i64[T, H]: rows of [R*G*h*Q, C] in the order of tokens."""
    step = queries(emit, query_starts)

    def make() -> ir.Value:
        of_row = _column(emit, emit.op("Mul", [step.row, emit.number(heads, _I64)]))
        rows = emit.op("Add", [of_row, emit.constant(np.arange(heads, dtype=np.int64))])
        return emit.op("Add", [emit.op("Mul", [rows, step.longest]), _column(emit, step.own)])

    return emit.shared(("result index", query_starts, heads), lambda: emit.scoped("step", make))


def key_index(emit: Emitter, keys: Keys, kv_heads: int) -> ir.Value:
    """i64[R, G, L]: rows of [X*G, C]."""

    def make() -> ir.Value:
        of_key = emit.op("Mul", [keys.slot, emit.number(kv_heads, _I64)])
        head = emit.constant(np.arange(kv_heads, dtype=np.int64).reshape(1, -1, 1))
        return emit.op("Add", [emit.op("Unsqueeze", [of_key, emit.ints([1])]), head])

    return emit.shared(("key index", keys.slot.name, kv_heads), lambda: emit.scoped("step", make))


def causal_bias(emit: Emitter, keys: Keys, shared_heads: int, window: int) -> ir.Value:
    """f32[R, 1, h*Q, L]: 0 where a query sees a key, minus infinity elsewhere."""

    def make() -> ir.Value:
        tiled = emit.op("Tile", [keys.position, emit.ints([1, shared_heads])])
        position = emit.op("Unsqueeze", [tiled, emit.ints([1, 3])])
        visible = emit.op("LessOrEqual", [keys.columns, position])
        if window > 0:
            near = emit.op("Greater", [keys.columns, emit.op("Sub", [position, emit.number(window, _I64)])])
            visible = emit.op("And", [visible, near])
        return bias(emit, visible)

    name = keys.position.name
    return emit.shared(("bias", name, shared_heads, window), lambda: emit.scoped("step", make))


def bias(emit: Emitter, visible: ir.Value) -> ir.Value:
    """What is added to scores: 0 where visible, minus infinity elsewhere."""
    numbers = [emit.number(x, torch.float32) for x in (0.0, float("-inf"))]
    return emit.op("Where", [visible, *numbers])


def _ramp(emit: Emitter, end: ir.Value) -> ir.Value:
    return emit.op("Range", [emit.number(0, _I64), end, _one(emit)])


def _one(emit: Emitter) -> ir.Value:
    return emit.number(1, _I64)


def _column(emit: Emitter, row: ir.Value) -> ir.Value:
    return emit.op("Unsqueeze", [row, emit.ints([1])])
