"""Matrix products.

Weights stay [out, in] as they came and the product transposes them: measured equally fast as weights stored [in, out],
because ONNX Runtime packs either form when it opens the model, and a head tied to its embedding is one tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import fx

from optcc.backends.onnxruntime.lower.emit import MICROSOFT, Emitter
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.static import integer_product
from optcc.backends.onnxruntime.lower.types import dtype_of, rank_of

if TYPE_CHECKING:
    import onnx_ir as ir


def _refuse(node: fx.Node, operands: list[Any]) -> str | None:
    return None if dtype_of(node).is_floating_point else "matrix products of integers"


def product(emit: Emitter, x: ir.Value, rank: int, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
    """`x @ weight.T + bias` for x [..., K] of the given rank, weight [O, K], bias [O]."""
    if rank == 2:
        return emit.op("Gemm", [x, weight] if bias is None else [x, weight, bias], {"transB": 1})
    if rank == 1:
        row = emit.op("Unsqueeze", [x, emit.ints([0])])
        return emit.op("Squeeze", [product(emit, row, 2, weight, bias), emit.ints([0])])
    y = emit.op("FusedMatMul", [x, weight], {"transB": 1}, MICROSOFT)
    return y if bias is None else emit.op("Add", [y, bias])


@lowers("aten.linear.default", refuse=_refuse)
def linear(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`x @ w.T + b`."""
    x, weight, bias = operands
    joined = integer_product(emit, x, weight, bias)
    if joined is not None:
        return joined
    b = None if bias is None else emit.value(bias)
    return product(emit, emit.value(x), rank_of(x), emit.value(weight), b)


@lowers("aten.addmm.default", refuse=_refuse)
def addmm(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`beta * b + alpha * (x @ w)`."""
    b, x, w, beta, alpha = operands
    return emit.op(
        "Gemm", [emit.value(x), emit.value(w), emit.value(b)], {"alpha": float(alpha), "beta": float(beta)}
    )


@lowers("aten.matmul.default", "aten.mm.default", "aten.bmm.default", refuse=_refuse)
def matmul(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Batched product with broadcasting."""
    return emit.op("MatMul", [emit.value(operands[0]), emit.value(operands[1])])
