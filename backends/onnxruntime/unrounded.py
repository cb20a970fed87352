"""The same graph with activations, keys and values as they are, where roundings would hide small mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from optcc.backends.onnxruntime.lower.chain import LINEAR, LINEARS
from optcc.backends.onnxruntime.lower.pools import ATTENTION, SCALE_PORTS
from optcc.backends.onnxruntime.session import MODEL

_ROUNDS = frozenset({"Round", "QuantizeLinear", "DynamicQuantizeLinear"})
"""Operators that a graph rounds with where no kernel does so inside."""
if TYPE_CHECKING:
    import onnx

_FLOATS = 1
"""accuracy_level of MatMulNBits: products in float32."""


_SUMS = frozenset({"MatMul", "Gemm", "FusedMatMul", "MatMulNBits"})
"""ONNX Runtime's products, which sum in another order for another number of rows."""


def rows_alike(root: Path) -> bool:
    """Whether no rounding can tell how many rows stood beside one: nothing rounds, or all products are our own."""
    import onnx

    graph = onnx.load_model(root / MODEL, load_external_data=False).graph
    kinds = {node.op_type for node in graph.node}
    rounds = kinds & {*_ROUNDS, LINEAR, LINEARS, "MatMulNBits"} or _narrow_pools(graph)
    return not (kinds & _SUMS and rounds)


def unrounded(root: Path) -> bytes | None:
    """An artifact's graph whose quantized linears leave their input alone, and whose pools are of float32.

    None if something else rounds.

    Everything else is the same: weights, operators, attributes, order.
    """
    import onnx

    model = onnx.load_model(root / MODEL, load_external_data=False)
    for node in model.graph.node:
        if node.op_type in _ROUNDS:
            return None
        for attribute in node.attribute:
            if node.op_type in (LINEAR, LINEARS) and attribute.name.startswith("quantize_input"):
                attribute.i = 0
            elif node.op_type == "MatMulNBits" and attribute.name == "accuracy_level":
                attribute.i = _FLOATS
    if _narrow_pools(model.graph):
        _widen_pools(model.graph)
    data: bytes = model.SerializeToString()
    return data


def _narrow_pools(graph: onnx.GraphProto) -> bool:
    from onnx import TensorProto

    narrow = (TensorProto.FLOAT16, TensorProto.INT8)
    return any(value.type.tensor_type.elem_type in narrow for value in graph.input)


def _widen_pools(graph: onnx.GraphProto) -> None:
    """Keys and values are cached as they come: in float32, without scales, and nothing on its way there is
    cast to half.

    Other casts stay: what computes in float16 by mistake is what a check looks for.
    """
    from onnx import TensorProto

    half, wide = TensorProto.FLOAT16, TensorProto.FLOAT
    scales = _drop_scale_pools(graph)
    inputs = [value for value in graph.input if value.name not in scales]
    del graph.input[:]
    graph.input.extend(inputs)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in (half, TensorProto.INT8):
            value.type.tensor_type.elem_type = wide
    # What lies between is inferred anew.
    kept = [value for value in graph.value_info if value.type.tensor_type.elem_type != half]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    written = {node.input[2] for node in graph.node if node.op_type == "ScatterND"}
    for node in graph.node:
        for attribute in node.attribute:
            if (
                node.op_type == "Cast"
                and node.output[0] in written
                and attribute.name == "to"
                and attribute.i == half
            ):
                attribute.i = wide


def _drop_scale_pools(graph: onnx.GraphProto) -> set[str]:
    """Takes the scales of int8 pools from our attention, which then caches floats. Their names."""
    found: set[str] = set()
    for node in graph.node:
        if node.op_type != ATTENTION:
            continue
        for i in SCALE_PORTS:
            if i < len(node.input) and node.input[i]:
                found.add(node.input[i])
                node.input[i] = ""
        while not node.input[-1]:
            node.input.pop()
    return found
