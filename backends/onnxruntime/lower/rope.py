"""Rotary position embedding by ONNX Runtime's own kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import fx

from optcc.backends.onnxruntime.lower.emit import MICROSOFT, Emitter
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.types import rank_of, shape_of

if TYPE_CHECKING:
    import onnx_ir as ir


def _refuse(node: fx.Node, operands: list[Any]) -> str | None:
    if None in shape_of(operands[0])[-2:] or rank_of(operands[1]) != 2:
        return "rotary embedding of symbolic heads or with tables that are not [T, Dr/2]"
    return None


@lowers("optcc.rope.default", refuse=_refuse)
def rope(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """The tables' row t belongs to token t: positions are counted from a first position of 0."""
    x, cos, sin, interleaved = operands
    heads, width = (int(d or 0) for d in shape_of(x)[-2:])
    half = int(shape_of(cos)[-1] or 0)
    attributes = {"interleaved": int(interleaved), "num_heads": heads}
    if 2 * half < width:
        attributes["rotary_embedding_dim"] = 2 * half
    value = emit.value(x)
    single = all(d == 1 for d in shape_of(x)[:-3])
    if single:
        batched = emit.reshape(value, [1, -1, heads * width])
    else:
        batched = emit.op("Reshape", [value, _rows(emit, x, heads * width)])
    first = emit.constant(np.zeros(1, np.int64))
    turned = emit.op(
        "RotaryEmbedding", [batched, first, emit.value(cos), emit.value(sin)], attributes, MICROSOFT
    )
    if single:
        return emit.reshape(turned, [*[1] * (rank_of(x) - 3), -1, heads, width])
    return emit.op("Reshape", [turned, emit.op("Shape", [value])])


def _rows(emit: Emitter, x: fx.Node, width: int) -> ir.Value:
    """The shape [batch, T, heads * width] that the kernel wants."""
    tokens = emit.op("Slice", [emit.op("Shape", [emit.value(x)]), emit.ints([-3]), emit.ints([-2])])
    return emit.op("Concat", [emit.ints([-1]), tokens, emit.ints([width])], {"axis": 0})
