"""Rotary embedding."""

from __future__ import annotations

from typing import Any

from torch import fx

from optcc.backends.onnxruntime.emit import CONTRIB, Emit
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.ir.pattern import normalized


def _refuse(node: fx.Node) -> str | None:
    shape = normalized(node)[0][0].meta["val"].shape
    if len(shape) == 4 and shape[0] != 1:
        return "rope of several sequences at once"
    return None if len(shape) in (3, 4) else f"rope of {len(shape)} dimensions"


@lowers("optcc.rope.default", refuse=_refuse)
def rope(emit: Emit, node: fx.Node) -> Any:
    """RotaryEmbedding on [1, T, H*C]. Its cache is this step's table [T, Dr/2], so token t reads row t: position 0 on."""
    x, cos, sin, interleaved = normalized(node)[0]
    shape = x.meta["val"].shape
    heads, width = int(shape[-2]), int(shape[-1])
    half = int(cos.meta["val"].shape[-1])
    flat = emit.op("Reshape", [emit.value(x), emit.ints(1, -1, heads * width)])
    out = emit.op(
        "RotaryEmbedding",
        [flat, emit.ints(0), emit.value(cos), emit.value(sin)],
        CONTRIB,
        num_heads=heads,
        rotary_embedding_dim=2 * half if 2 * half < width else 0,
        interleaved=int(interleaved),
    )
    return emit.op("Reshape", [out, emit.ints(*([1] if len(shape) == 4 else []), -1, heads, width)])
