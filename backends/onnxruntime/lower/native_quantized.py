"""Our own operators over packed tables: `optcc.QuantizedLinear` and `optcc.QuantizedEmbedding`."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import fx

import optcc.ir.ops  # noqa: F401 - registers the operators
from optcc.backends.onnxruntime.lower.emit import Attributes, Emitter, Operand
from optcc.backends.onnxruntime.lower.tables import NativeTable
from optcc.backends.onnxruntime.lower.types import dtype_of, shape_of, val
from optcc.backends.onnxruntime.native import DOMAIN
from optcc.backends.onnxruntime.native.packing import TILE
from optcc.ir.pattern import normalized

if TYPE_CHECKING:
    import onnx_ir as ir

RMS_NORM = torch.ops.optcc.rms_norm.default
ADD_RMS_NORM = torch.ops.optcc.add_rms_norm.default
GATED = torch.ops.optcc.gated_activation.default
GATES = ("silu", "gelu_tanh")
"""Activations that the operator computes."""


def native_linear(
    emit: Emitter, node: fx.Node, table: NativeTable, x: fx.Node, bias: ir.Value | None
) -> ir.Value:
    """The product, with x quantized inside where the node says so.

    A norm or a gated activation of x that nothing else reads is computed inside as well, a row at a time: what was
    emitted for it is dead then. So is a gated activation that alone reads the product, where its halves are whole
    tiles: then the result is that activation's, and its own lowering hands it on. So too where only the first of one
    matrix is read, as logits are: the product is made without that dim, and copied nowhere.
    """
    before = _norm_before(emit, x) or _gate_before(emit, x) or Before([emit.value(x)])
    gate = _gate_after(node, table)
    only = _only_matrix(node)
    operands = [before.operands[0], _stored(emit, table), bias, *before.operands[1:]]
    while operands[-1] is None:
        operands.pop()
    attributes: Attributes = {
        **table.packing.attributes(),
        "quantize_input": int(bool(normalized(node)[0][9])),
        **before.attributes,
        **({} if gate is None else {"activation": normalized(gate)[0][1]}),
        **({} if only is None else {"flatten": 1}),
    }
    count = 1 if before.total is None else 2
    results = emit.ops("QuantizedLinear", operands, attributes, DOMAIN, outputs=count)
    if before.total is not None:
        total = _typed_as(results[1], x)
        emit.values[before.total][1] = total
        for user in before.total.users:
            if user.args[1] == 1 and user in emit.values:
                emit.values[user] = total
    behind = gate or only
    if behind is None:
        return _typed_as(results[0], node)
    emit.taken_in.add(node)
    return _typed_as(results[0], behind)


def _only_matrix(node: fx.Node) -> fx.Node | None:
    """The selection of all there is, of one matrix [1, rows, N], that alone reads a product."""
    if len(node.users) != 1 or dtype_of(node) != torch.float32:
        return None
    (reader,) = node.users
    if reader.target is not torch.ops.aten.select.int or normalized(reader)[0][1:] != [0, 0]:
        return None
    shape = shape_of(node)
    return reader if len(shape) == 3 and shape[0] == 1 else None


def _gate_after(node: fx.Node, table: NativeTable) -> fx.Node | None:
    """The gated activation that alone reads a product."""
    if len(node.users) != 1 or dtype_of(node) != torch.float32:
        return None
    (reader,) = node.users
    if reader.target is not GATED or table.packing.outputs % (2 * TILE) != 0:
        return None
    return reader if normalized(reader)[0][1] in GATES else None


@dataclass(frozen=True)
class Before:
    """What a linear does to its rows first.

    Attributes:
        operands: x, and what comes behind the bias.
        attributes: of the operator.
        total: the add_rms_norm node whose sum it gives as well.
    """

    operands: list[Operand]
    attributes: Attributes = field(default_factory=dict)
    total: fx.Node | None = None


def _norm_before(emit: Emitter, x: fx.Node) -> Before | None:
    """Of a norm, or of the norm of a sum, that is read by this linear alone."""
    if len(x.users) != 1:
        return None
    node = x.args[0] if x.target is operator.getitem and x.args[1] == 0 else x
    if not isinstance(node, fx.Node) or node.target not in (RMS_NORM, ADD_RMS_NORM):
        return None
    given = normalized(node)[0]
    floats = [y for y in given if isinstance(y, fx.Node)]
    if any(dtype_of(y) != torch.float32 for y in floats):
        return None
    attributes: Attributes = {"prepare": "rms_norm", "epsilon": float(given[-1])}
    if node.target is RMS_NORM:
        return Before([emit.value(given[0]), emit.value(given[1])], attributes)
    if [str(d) for d in val(given[0]).shape] != [str(d) for d in val(given[1]).shape]:
        return None
    return Before([emit.value(given[0]), emit.value(given[2]), emit.value(given[1])], attributes, node)


def _gate_before(emit: Emitter, x: fx.Node) -> Before | None:
    """Of a gated activation that is read by this linear alone."""
    if x.target is not GATED or len(x.users) != 1:
        return None
    gate_up, kind = normalized(x)[0]
    if kind not in GATES or dtype_of(gate_up) != torch.float32 or gate_up in emit.taken_in:
        return None
    return Before([emit.value(gate_up)], {"prepare": kind})


def native_embedding(emit: Emitter, node: fx.Node, table: NativeTable, ids: ir.Value) -> ir.Value:
    """Rows of the table that the head multiplies with."""
    if dtype_of(normalized(node)[0][0]) != torch.int64:
        ids = emit.to(ids, torch.int64)
    operands = [ids, _stored(emit, table)]
    value = emit.op("QuantizedEmbedding", operands, table.packing.attributes(), DOMAIN)
    return _typed_as(value, node)


def _stored(emit: Emitter, table: NativeTable) -> ir.Value:
    return emit.stored(table.packed, torch.uint8, table.packing.shape)


def _typed_as(value: ir.Value, node: fx.Node) -> ir.Value:
    """ONNX Runtime can't infer shapes through operators it doesn't know; its own optimizations ask for them."""
    import onnx_ir as ir

    value.type = ir.TensorType(ir.DataType.FLOAT)
    known = shape_of(node)
    value.shape = ir.Shape([d if d is not None else f"{value.name}/{i}" for i, d in enumerate(known)])
    return value
