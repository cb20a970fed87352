"""Linear layers, embeddings and matrix products in floating point."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from optcc.backends.onnxruntime.emit import CONTRIB, Emit
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.ir.pattern import normalized


@lowers("aten.linear.default")
def linear(emit: Emit, node: fx.Node) -> Any:
    """FusedMatMul with the weight as it is stored, [O, K]: no transposed copy, and a tied embedding reads the same bytes."""
    x, weight, bias = normalized(node)[0]
    out = emit.op("FusedMatMul", [emit.value(x), emit.value(weight)], CONTRIB, transB=1)
    return out if bias is None else emit.op("Add", [out, emit.value(bias)])


@lowers("aten.embedding.default")
def embedding(emit: Emit, node: fx.Node) -> Any:
    """Rows of the table."""
    return emit.op("Gather", [emit.value(node.args[0]), emit.value(node.args[1])], axis=0)


@lowers("aten.matmul.default", "aten.bmm.default", "aten.mm.default")
def matmul(emit: Emit, node: fx.Node) -> Any:
    """MatMul has torch's broadcasting."""
    return emit.op("MatMul", [emit.value(node.args[0]), emit.value(node.args[1])])


def _refuse_sdpa(node: fx.Node) -> str | None:
    mask, dropout, causal = normalized(node)[0][3:6]
    if dropout:
        return "attention with dropout"
    if causal and mask is not None:
        return "a causal flag and a mask at once"
    return None


@lowers("aten.scaled_dot_product_attention.default", refuse=_refuse_sdpa)
def scaled_dot_product_attention(emit: Emit, node: fx.Node) -> Any:
    """Written out: softmax(q kT * scale + mask) v; q [..., H, S, C], k and v [..., G, L, C]."""
    q, k, v, mask, _, causal, scale, grouped = normalized(node)[0]
    shape = q.meta["val"].shape
    scale = scale if scale is not None else float(shape[-1]) ** -0.5
    keys, values = emit.value(k), emit.value(v)
    if grouped:
        keys, values = (_repeat(emit, value, n, int(shape[-3])) for value, n in ((keys, k), (values, v)))
    rank = len(shape)
    turned = emit.op("Transpose", [keys], perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = emit.op("Mul", [emit.op("MatMul", [emit.value(q), turned]), emit.scalar(scale, q.meta["val"].dtype)])
    if causal:
        rows, columns = (emit.op("Shape", [x], start=rank - 2, end=rank - 1) for x in (emit.value(q), keys))
        ones = emit.op("Expand", [emit.const([1], "int64"), emit.op("Concat", [rows, columns], axis=0)])
        visible = emit.op("Cast", [emit.op("Trilu", [ones], upper=0)], to=9)
        scores = _masked(emit, scores, visible, q.meta["val"].dtype)
    elif mask is not None and mask.meta["val"].dtype == torch.bool:
        scores = _masked(emit, scores, emit.value(mask), q.meta["val"].dtype)
    elif mask is not None:
        scores = emit.op("Add", [scores, emit.value(mask)])
    return emit.op("MatMul", [emit.op("Softmax", [scores], axis=-1), values])


def _masked(emit: Emit, scores: Any, visible: Any, dtype: torch.dtype) -> Any:
    return emit.op("Where", [visible, scores, emit.scalar(torch.finfo(dtype).min, dtype)])


def _repeat(emit: Emit, value: Any, node: Any, heads: int) -> Any:
    """Each KV head `heads / G` times: [B, G, L, C] -> [B, H, L, C]."""
    groups = int(node.meta["val"].shape[-3])
    wide = emit.op("Unsqueeze", [value, emit.ints(2)])
    wide = emit.op("Expand", [wide, emit.ints(1, 1, heads // groups, 1, 1)])
    return emit.op("Reshape", [wide, emit.ints(0, heads, -1, int(node.meta["val"].shape[-1]))])
