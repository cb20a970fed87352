"""Our own attention over pages: `optcc.PagedAttention`.

It takes queries, keys and values where a linear left them, all of a token in one row, and rotates and quantizes them
itself: what was emitted to do so is dead then.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

import optcc.ir.ops  # noqa: F401 - registers the operators
from optcc.backends.onnxruntime.lower.emit import Attributes, Emitter, Operand
from optcc.backends.onnxruntime.lower.types import dtype_of, shape_of
from optcc.backends.onnxruntime.native import DOMAIN
from optcc.ir.pattern import normalized

if TYPE_CHECKING:
    import onnx_ir as ir

ROPE = torch.ops.optcc.rope.default
QUANTIZE = torch.ops.optcc.quantize_activation.default
SPLIT = torch.ops.aten.split_with_sizes.default
RESHAPE = torch.ops.aten.reshape.default


def native_attention(emit: Emitter, operands: list[Any]) -> ir.Value:
    """Of an optcc.paged_attention node's operands; [T, H, C]."""
    q, k, v, k_pool, v_pool, _, starts, lengths, table, scale, window, softcap, *scales, sinks = operands
    heads, width = (int(d or 0) for d in shape_of(q)[-2:])
    kv_heads = int(shape_of(k)[-2] or 0)
    floats = [_unquantized(x, scale) for x, scale in zip((k, v), scales)]
    if None not in floats:
        k, v = floats
        scales[:2] = [None, None]
    # Keys that come in 8 bits were quantized after they were rotated.
    rope = _rotation(q, k) if dtype_of(k) == torch.float32 else None
    rows = [normalized(_base(x))[0][0] for x in (q, k)] + [v] if rope else [q, k, v]
    # An optional attribute of another type reads as absent, so 1 must be 1.0.
    attributes = {"scale": float(scale), "local_window_size": int(window), "softcap": float(softcap)}
    if rope:
        attributes["rotary_interleaved"] = int(rope[2])
    joined = _joined(rows, heads * width, kv_heads * width)
    inputs: list[Operand]
    if joined is not None:
        inputs = [emit.value(joined), None, None]
    else:
        inputs = [
            emit.reshape(emit.value(x), [-1, h, width]) for x, h in zip(rows, (heads, kv_heads, kv_heads))
        ]
    inputs += [emit.value(x) for x in (k_pool, v_pool)]
    inputs += [emit.cast(x, torch.int32) for x in (starts, lengths, table)]
    inputs += [None if x is None else emit.value(x) for x in scales]
    inputs += [emit.value(_table(x)) for x in rope[:2]] if rope else [None, None]
    inputs.append(None if sinks is None else emit.value(sinks))
    while inputs[-1] is None:
        inputs.pop()
    return _attention(emit, inputs, attributes, joined, heads, width)


def _attention(
    emit: Emitter,
    inputs: list[Operand],
    attributes: Attributes,
    joined: fx.Node | None,
    heads: int,
    width: int,
) -> ir.Value:
    import onnx_ir as ir

    result = emit.op("PagedAttention", inputs, attributes, DOMAIN)
    if joined is None:
        return result
    # As the rows came: what follows is mostly a linear, which wants rows again.
    leading = [d if d is not None else f"{result.name}/{i}" for i, d in enumerate(shape_of(joined)[:-1])]
    result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([*leading, heads * width])
    return emit.reshape(result, [-1, heads, width])


def _unquantized(levels: fx.Node, scale: fx.Node | None) -> fx.Node | None:
    """What keys or values were quantized from as the operator quantizes; None of any others."""
    if scale is None or not all(x.target is operator.getitem for x in (levels, scale)):
        return None
    source, index = levels.args
    if (
        not isinstance(source, fx.Node)
        or source.target is not QUANTIZE
        or index != 0
        or scale.args != (source, 1)
    ):
        return None
    x, form, group, scale_form, tensor_scale = normalized(source)[0]
    plain = (form, group, scale_form, tensor_scale) == ("int8", 0, "float32", None)
    return x if plain and dtype_of(x) == torch.float32 else None


def _base(node: fx.Node) -> fx.Node:
    """What a node is a reshape of."""
    while node.target is RESHAPE:
        node = node.args[0]  # type: ignore[assignment]
    return node


def _table(node: fx.Node) -> fx.Node:
    """Cosines or sines [T, D/2], or the same rows as they were made: [1, T, D/2], [1, T, 1, D/2]."""
    while node.target is RESHAPE:
        made = node.args[0]
        if not isinstance(made, fx.Node) or shape_of(made)[-1] != shape_of(node)[-1]:
            break
        if shape_of(made)[:-1].count(1) != len(shape_of(made)) - 2:
            break
        node = made
    return node


def _rotation(q: fx.Node, k: fx.Node) -> tuple[fx.Node, fx.Node, bool] | None:
    """Where queries and keys are rotated alike, a row of the tables a token: cos, sin, whether neighbours pair."""
    found = [normalized(_base(x))[0] for x in (q, k) if _base(x).target is ROPE]
    if len(found) != 2 or found[0][1:] != found[1][1:]:
        return None
    cos, sin, interleaved = found[0][1:]
    one_row = all(d == 1 for y in found for d in shape_of(y[0])[:-3])
    return (cos, sin, bool(interleaved)) if one_row and dtype_of(cos) == torch.float32 else None


def _joined(rows: list[fx.Node], queries: int, keys: int) -> fx.Node | None:
    """The node whose rows are cut into these three."""
    bases = [_base(x) for x in rows]
    if any(x.target is not operator.getitem or x.args[1] != i for i, x in enumerate(bases)):
        return None
    splits = {x.args[0] for x in bases}
    split = splits.pop()
    if splits or not isinstance(split, fx.Node) or split.target is not SPLIT:
        return None
    x, sizes, axis = normalized(split)[0]
    last = axis in (-1, len(shape_of(x)) - 1)
    return x if last and list(sizes) == [queries, keys, keys] and dtype_of(x) == torch.float32 else None
