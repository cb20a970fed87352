"""Our own operators over packed tables: `optcc.QuantizedLinear` and `optcc.QuantizedEmbedding`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import fx

from optcc.backends.onnxruntime.lower.emit import Emitter
from optcc.backends.onnxruntime.lower.tables import NativeTable
from optcc.backends.onnxruntime.lower.types import dtype_of, shape_of
from optcc.backends.onnxruntime.native import DOMAIN
from optcc.ir.pattern import normalized

if TYPE_CHECKING:
    import onnx_ir as ir


def native_linear(
    emit: Emitter, node: fx.Node, table: NativeTable, x: ir.Value, bias: ir.Value | None
) -> ir.Value:
    """The product, with x quantized inside where the node says so."""
    attributes = table.packing.attributes() | {"quantize_input": int(bool(normalized(node)[0][9]))}
    operands = [x, _stored(emit, table)] + ([] if bias is None else [bias])
    return _typed(emit, node, emit.op("QuantizedLinear", operands, attributes, DOMAIN))


def native_embedding(emit: Emitter, node: fx.Node, table: NativeTable, ids: ir.Value) -> ir.Value:
    """Rows of the table that the head multiplies with."""
    if dtype_of(normalized(node)[0][0]) != torch.int64:
        ids = emit.to(ids, torch.int64)
    operands = [ids, _stored(emit, table)]
    value = emit.op("QuantizedEmbedding", operands, table.packing.attributes(), DOMAIN)
    return _typed(emit, node, value)


def _stored(emit: Emitter, table: NativeTable) -> ir.Value:
    return emit.stored(table.packed, torch.uint8, table.packing.shape)


def _typed(emit: Emitter, node: fx.Node, value: ir.Value) -> ir.Value:
    """ONNX Runtime can't infer shapes through operators it doesn't know; its own optimizations ask for them."""
    import onnx_ir as ir

    value.type = ir.TensorType(ir.DataType.FLOAT)
    known = shape_of(node)
    value.shape = ir.Shape([d if d is not None else f"{value.name}/{i}" for i, d in enumerate(known)])
    return value
