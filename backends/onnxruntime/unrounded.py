"""The same graph with activations as they are: what a check compares where roundings would hide small mistakes."""

from __future__ import annotations

from pathlib import Path

from optcc.backends.onnxruntime.session import MODEL

_ROUNDS = frozenset({"Round", "QuantizeLinear", "DynamicQuantizeLinear"})
"""Operators that a graph rounds with where no kernel does so inside."""
_FLOATS = 1
"""accuracy_level of MatMulNBits: products in float32."""


_SUMS = frozenset({"MatMul", "Gemm", "FusedMatMul", "MatMulNBits"})
"""ONNX Runtime's products, which sum in another order for another number of rows."""


def rows_alike(root: Path) -> bool:
    """Whether no rounding can tell how many rows stood beside one: nothing rounds, or all products are our own."""
    import onnx

    nodes = onnx.load_model(root / MODEL, load_external_data=False).graph.node
    kinds = {node.op_type for node in nodes}
    return not (kinds & _SUMS and kinds & {*_ROUNDS, "QuantizedLinear", "MatMulNBits"})


def unrounded(root: Path) -> bytes | None:
    """An artifact's graph whose quantized linears leave their input alone; None if something else rounds.

    Everything else is the same: weights, operators, attributes, order.
    """
    import onnx

    model = onnx.load_model(root / MODEL, load_external_data=False)
    for node in model.graph.node:
        if node.op_type in _ROUNDS:
            return None
        for attribute in node.attribute:
            if node.op_type == "QuantizedLinear" and attribute.name == "quantize_input":
                attribute.i = 0
            elif node.op_type == "MatMulNBits" and attribute.name == "accuracy_level":
                attribute.i = _FLOATS
    data: bytes = model.SerializeToString()
    return data
