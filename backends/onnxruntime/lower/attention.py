"""Attention: over the step's own tokens, over pages, over a padded batch, and torch's own.

Scores and results are two batched products; grouped query heads share a KV head by standing in the same matrix, so keys
and values are never repeated. The indices that place ragged tokens are in `ragged`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from optcc.backends.onnxruntime import native
from optcc.backends.onnxruntime.lower import ragged
from optcc.backends.onnxruntime.lower.emit import MICROSOFT, Emitter
from optcc.backends.onnxruntime.lower.native_attention import native_attention
from optcc.backends.onnxruntime.lower.ragged import Keys, bias, causal_bias
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.types import dtype_of, rank_of, shape_of

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class KeysValues:
    """Keys and values: floats, float16 if `narrow`, or int8 levels with their scales.

    In rows: k and v [X, C], scales [X]. Where queries meet them: k and v [..., L, C], scales [..., 1, L].
    """

    k: ir.Value
    v: ir.Value
    k_scale: ir.Value | None = None
    v_scale: ir.Value | None = None
    narrow: bool = field(default=False, kw_only=True)

    def gathered(self, emit: Emitter, index: ir.Value) -> KeysValues:
        """The rows at i64[R, G, L]; they become float32 only here, and only those that are read."""
        k, v = (emit.op("Gather", [x, index]) for x in (self.k, self.v))
        if self.narrow:
            return KeysValues(emit.to(k, torch.float32), emit.to(v, torch.float32))
        if self.k_scale is None or self.v_scale is None:
            return KeysValues(k, v)
        scales = [
            emit.op("Unsqueeze", [emit.op("Gather", [x, index]), emit.ints([2])])
            for x in (self.k_scale, self.v_scale)
        ]
        return KeysValues(emit.to(k, torch.float32), emit.to(v, torch.float32), *scales)


def attend(
    emit: Emitter,
    q: ir.Value,
    held: KeysValues,
    mask: ir.Value | None,
    scale: float,
    softcap: float,
    sinks: ir.Value | None = None,
) -> ir.Value:
    """Q [..., A, C], k and v [..., L, C], mask added to the scores [..., A, L], sinks [..., A, 1] -> [..., A, C].

    A key's scale multiplies its scores and a value's scale its weights: one product per key instead of one per channel.
    """
    factor = scale / softcap if softcap > 0 else scale
    scores = emit.op("FusedMatMul", [q, held.k], {"transB": 1, "alpha": float(factor)}, MICROSOFT)
    if held.k_scale is not None:
        scores = emit.op("Mul", [scores, held.k_scale])
    if softcap > 0:
        scores = emit.op("Mul", [emit.op("Tanh", [scores]), emit.number(softcap, torch.float32)])
    if mask is not None:
        scores = emit.op("Add", [scores, mask])
    if sinks is None:
        weights = emit.op("Softmax", [scores], {"axis": -1})
    else:
        together = emit.op("Softmax", [emit.op("Concat", [scores, sinks], {"axis": -1})], {"axis": -1})
        weights = emit.op("Slice", [together, emit.ints([0]), emit.ints([-1]), emit.ints([-1])])
    if held.v_scale is not None:
        weights = emit.op("Mul", [weights, held.v_scale])
    return emit.op("MatMul", [weights, held.v])


def _refuse(node: fx.Node, operands: list[Any], floats: int = 3) -> str | None:
    """The first `floats` of q, k and v must be float32."""
    if any(None in shape_of(x)[-2:] for x in operands[:3]):
        return "attention with symbolic heads or head width"
    if any(dtype_of(x) != torch.float32 for x in operands[:floats]):
        return "attention in another type than float32"
    return None


def _ragged(
    emit: Emitter,
    q: fx.Node,
    keys: Keys,
    rows: KeysValues,
    query_starts: fx.Node,
    kv_heads: int,
    options: tuple[float, int, float],
    sinks: fx.Node | None,
) -> ir.Value:
    """Q [T, H, C] over keys and values in rows, X*G of them, sinks [H] or none -> [T, H, C]."""
    heads, width = (int(d or 0) for d in shape_of(q)[-2:])
    scale, window, softcap = options
    asked = ragged.query_index(emit, query_starts, heads, kv_heads)
    held = rows.gathered(emit, ragged.key_index(emit, keys, kv_heads))
    mask = causal_bias(emit, keys, heads // kv_heads, window)
    queries = emit.op("Gather", [emit.reshape(emit.value(q), [-1, width]), asked])
    column = None if sinks is None else ragged.of_heads(emit, emit.value(sinks), asked, heads)
    result = emit.reshape(attend(emit, queries, held, mask, scale, softcap, column), [-1, width])
    return emit.op("Gather", [result, ragged.result_index(emit, query_starts, heads)])


@lowers("optcc.attention.default", refuse=_refuse)
def attention(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Causal over the step's own tokens."""
    q, k, v, starts, scale, window, softcap, sinks = operands
    kv_heads, width = (int(d or 0) for d in shape_of(k)[-2:])
    keys = ragged.own_keys(emit, starts)
    rows = KeysValues(*(emit.reshape(emit.value(x), [-1, width]) for x in (k, v)))
    return _ragged(emit, q, keys, rows, starts, kv_heads, (scale, window, softcap), sinks)


def _refuse_paged(node: fx.Node, operands: list[Any]) -> str | None:
    pools = [x for x in (*operands[3:5], *operands[14:16]) if x is not None]
    if any(x.op != "placeholder" or len(x.users) > 1 for x in pools):
        return "a KV pool that is no input, or that more than one attention writes to"
    kinds = tuple(dtype_of(x) for x in pools)
    plain = ((torch.float32,) * 2, (torch.float16,) * 2)
    if kinds not in (*plain, (torch.int8,) * 2 + (torch.float32,) * 2):
        return f"KV pools of {', '.join(str(k).removeprefix('torch.') for k in kinds)}"
    return _refuse(node, operands, floats=1)


@lowers("optcc.paged_attention.default", refuse=_refuse_paged, half=True)
def paged_attention(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Write first, then attend over the pages.

    The native operator writes through its inputs. ONNX Runtime's own ones give each pool a result, and the executor the
    two the same memory.
    """
    if native.status().ok:
        return native_attention(emit, operands)
    q, k, v, k_pool, v_pool, positions, starts, lengths, table, scale, window, softcap, *quantized, sinks = (
        operands
    )
    k_scale, v_scale, k_scale_pool, v_scale_pool = quantized
    block, kv_heads, width = (int(d or 0) for d in shape_of(k_pool)[-3:])
    slots = ragged.write_slots(emit, starts, positions, table, block)

    def write(pool: fx.Node, new: fx.Node, row: list[int]) -> ir.Value:
        """The pool after the step, in rows."""
        written = emit.op("ScatterND", [emit.value(pool), slots, emit.cast(new, dtype_of(pool))])
        written.name = f"{pool.name}.out"
        written.type, written.shape = emit.value(pool).type, emit.value(pool).shape
        emit.extra_outputs.append(written)
        return emit.reshape(written, row)

    pools = write(k_pool, k, [-1, width]), write(v_pool, v, [-1, width])
    rows = KeysValues(*pools, narrow=dtype_of(k_pool) == torch.float16)
    if k_scale is not None:
        scales = write(k_scale_pool, k_scale, [-1]), write(v_scale_pool, v_scale, [-1])
        rows = KeysValues(rows.k, rows.v, *scales)
    keys = ragged.paged_keys(emit, starts, positions, lengths, table, block)
    return _ragged(emit, q, keys, rows, starts, kv_heads, (scale, window, softcap), sinks)


@lowers("optcc.masked_attention.default", refuse=_refuse)
def masked_attention(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Bidirectional over a padded batch [B, S, H, C]."""
    q, k, v, mask, scale, softcap = operands
    heads, width = (int(d or 0) for d in shape_of(q)[-2:])
    kv_heads = int(shape_of(k)[-2] or 0)
    turned = [emit.op("Transpose", [emit.value(x)], {"perm": [0, 2, 1, 3]}) for x in (q, k, v)]
    queries = turned[0] if heads == kv_heads else emit.reshape(turned[0], [0, kv_heads, -1, width])

    def seen() -> ir.Value:
        return bias(emit, emit.op("Unsqueeze", [emit.cast(mask, torch.bool), emit.ints([1, 2])]))

    added = None if mask is None else emit.shared(("masked", mask), lambda: emit.scoped("step", seen))
    result = attend(emit, queries, KeysValues(turned[1], turned[2]), added, scale, softcap)
    if heads != kv_heads:
        result = emit.op("Reshape", [result, emit.op("Shape", [turned[0]])])
    return emit.op("Transpose", [result], {"perm": [0, 2, 1, 3]})


def _refuse_torch(node: fx.Node, operands: list[Any]) -> str | None:
    q, k, _, _, dropout, _, _, grouped = operands
    if dropout or (grouped and shape_of(q)[-3] != shape_of(k)[-3]):
        return "scaled_dot_product_attention with dropout or grouped heads"
    return None if dtype_of(q) == torch.float32 else "attention in another type than float32"


@lowers("aten.scaled_dot_product_attention.default", refuse=_refuse_torch)
def torch_attention(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Torch's own, [..., S, C]."""
    q, k, v, mask, _, causal, scale, _ = operands
    factor = 1 / math.sqrt(int(shape_of(q)[-1] or 1)) if scale is None else float(scale)
    added = None
    if causal:
        extents = [
            emit.op("Shape", [emit.value(x)], {"start": rank_of(x) - 2, "end": rank_of(x) - 1})
            for x in (q, k)
        ]
        ones = emit.op("Expand", [emit.number(1.0, torch.float32), emit.op("Concat", extents, {"axis": 0})])
        added = bias(emit, emit.to(emit.op("Trilu", [ones], {"upper": 0}), torch.bool))
    elif mask is not None:
        added = (
            bias(emit, emit.value(mask)) if dtype_of(mask) == torch.bool else emit.cast(mask, torch.float32)
        )
    return attend(emit, emit.value(q), KeysValues(emit.value(k), emit.value(v)), added, factor, 0.0)
