"""Elementwise operators, with torch's type promotion written out as casts."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from optcc.backends.onnxruntime.emit import CONTRIB, Emit
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.ir.pattern import normalized

_BINARY = {
    "aten.add.Tensor": "Add",
    "aten.add.Scalar": "Add",
    "aten.sub.Tensor": "Sub",
    "aten.sub.Scalar": "Sub",
    "aten.mul.Tensor": "Mul",
    "aten.mul.Scalar": "Mul",
    "aten.div.Tensor": "Div",
    "aten.div.Scalar": "Div",
    "aten.pow.Tensor_Tensor": "Pow",
    "aten.pow.Tensor_Scalar": "Pow",
    "aten.pow.Scalar": "Pow",
    "aten.maximum.default": "Max",
    "aten.minimum.default": "Min",
    "aten.remainder.Tensor": "Mod",
    "aten.remainder.Scalar": "Mod",
    "aten.logical_and.default": "And",
    "aten.logical_or.default": "Or",
    "aten.bitwise_and.Tensor": "And",
    "aten.bitwise_or.Tensor": "Or",
}
_COMPARE = {
    "aten.eq.Tensor": "Equal",
    "aten.eq.Scalar": "Equal",
    "aten.lt.Tensor": "Less",
    "aten.lt.Scalar": "Less",
    "aten.le.Tensor": "LessOrEqual",
    "aten.le.Scalar": "LessOrEqual",
    "aten.gt.Tensor": "Greater",
    "aten.gt.Scalar": "Greater",
    "aten.ge.Tensor": "GreaterOrEqual",
    "aten.ge.Scalar": "GreaterOrEqual",
}
_UNARY = {
    "aten.neg.default": "Neg",
    "aten.abs.default": "Abs",
    "aten.exp.default": "Exp",
    "aten.log.default": "Log",
    "aten.sqrt.default": "Sqrt",
    "aten.reciprocal.default": "Reciprocal",
    "aten.erf.default": "Erf",
    "aten.sin.default": "Sin",
    "aten.cos.default": "Cos",
    "aten.tanh.default": "Tanh",
    "aten.sigmoid.default": "Sigmoid",
    "aten.relu.default": "Relu",
    "aten.floor.default": "Floor",
    "aten.ceil.default": "Ceil",
    "aten.round.default": "Round",
    "aten.sign.default": "Sign",
    "aten.hardswish.default": "HardSwish",
    "aten.logical_not.default": "Not",
    "aten.bitwise_not.default": "Not",
}


def _typed(emit: Emit, operand: Any, dtype: torch.dtype) -> Any:
    """An operand, tensor or number, as `dtype`."""
    if isinstance(operand, fx.Node) and isinstance(operand.meta["val"], torch.Tensor):
        return emit.cast(emit.value(operand), operand.meta["val"].dtype, dtype)
    if isinstance(operand, fx.Node):
        return emit.cast(emit.op("Squeeze", [emit.value(operand)]), torch.int64, dtype)
    return emit.scalar(operand, dtype)


def _refuse_binary(node: fx.Node) -> str | None:
    dtype = node.meta["val"].dtype
    if _BINARY[str(node.target)] in ("And", "Or") and dtype != torch.bool:
        return "bitwise arithmetic on integers"
    return None


@lowers(*_BINARY, refuse=_refuse_binary)
def binary(emit: Emit, node: fx.Node) -> Any:
    """Both operands as the result's type."""
    operands, names, _ = normalized(node)
    dtype = node.meta["val"].dtype
    left, right = (_typed(emit, x, dtype) for x in operands[:2])
    if "alpha" in names and operands[names.index("alpha")] != 1:
        right = emit.op("Mul", [right, emit.scalar(operands[names.index("alpha")], dtype)])
    kind = _BINARY[str(node.target)]
    if kind == "Mod" and dtype.is_floating_point:
        quotient = emit.op("Floor", [emit.op("Div", [left, right])])
        return emit.op("Sub", [left, emit.op("Mul", [quotient, right])])
    return emit.op(kind, [left, right])


@lowers(*_COMPARE)
def compare(emit: Emit, node: fx.Node) -> Any:
    """Both operands as the type torch compares in."""
    left, right = node.args[:2]
    dtype = _common(left, right)
    return emit.op(_COMPARE[str(node.target)], [_typed(emit, left, dtype), _typed(emit, right, dtype)])


@lowers("aten.ne.Tensor", "aten.ne.Scalar")
def not_equal(emit: Emit, node: fx.Node) -> Any:
    """Not Equal."""
    dtype = _common(*node.args[:2])
    return emit.op("Not", [emit.op("Equal", [_typed(emit, x, dtype) for x in node.args[:2]])])


def _common(left: Any, right: Any) -> torch.dtype:
    sample = [x.meta["val"] if isinstance(x, fx.Node) else x for x in (left, right)]
    sample = [1 if isinstance(x, torch.SymInt) else x for x in sample]
    return torch.result_type(*sample)


@lowers(*_UNARY)
def unary(emit: Emit, node: fx.Node) -> Any:
    """One operand; integers are cast where the result is floating point."""
    dtype = node.meta["val"].dtype
    return emit.op(_UNARY[str(node.target)], [_typed(emit, node.args[0], dtype)])


@lowers("aten.rsqrt.default")
def rsqrt(emit: Emit, node: fx.Node) -> Any:
    """1 / sqrt(x)."""
    return emit.op("Reciprocal", [emit.op("Sqrt", [emit.value(node.args[0])])])


def activation(emit: Emit, x: Any, kind: str) -> Any:
    """silu, gelu, gelu_tanh or relu of a value."""
    if kind == "silu":
        return emit.op("QuickGelu", [x], CONTRIB, alpha=1.0)
    if kind == "relu":
        return emit.op("Relu", [x])
    return emit.op("Gelu", [x], approximate="tanh" if kind == "gelu_tanh" else "none")


@lowers("aten.silu.default")
def silu(emit: Emit, node: fx.Node) -> Any:
    """x * sigmoid(x)."""
    return activation(emit, emit.value(node.args[0]), "silu")


@lowers("aten.gelu.default")
def gelu(emit: Emit, node: fx.Node) -> Any:
    """The exact form, or the tanh approximation."""
    x, approximate = normalized(node)[0]
    return activation(emit, emit.value(x), "gelu_tanh" if approximate == "tanh" else "gelu")


@lowers("optcc.gated_activation.default")
def gated_activation(emit: Emit, node: fx.Node) -> Any:
    """act(first half) * second half."""
    x, kind = node.args
    half = int(x.meta["val"].shape[-1]) // 2  # type: ignore[union-attr]
    gate, up = emit.ops("Split", [emit.value(x), emit.ints(half, half)], 2, axis=-1)
    return emit.op("Mul", [activation(emit, gate, str(kind)), up])


@lowers("aten.where.self")
def where(emit: Emit, node: fx.Node) -> Any:
    """Condition, then both choices as the result's type."""
    condition, left, right = node.args
    dtype = node.meta["val"].dtype
    return emit.op("Where", [emit.value(condition), _typed(emit, left, dtype), _typed(emit, right, dtype)])


@lowers("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(emit: Emit, node: fx.Node) -> Any:
    """A value where the mask is true."""
    x, mask, value = node.args
    dtype = node.meta["val"].dtype
    return emit.op("Where", [emit.value(mask), _typed(emit, value, dtype), emit.value(x)])


@lowers("aten.clamp.default", "aten.clamp_min.default", "aten.clamp_max.default", "aten.hardtanh.default")
def clamp(emit: Emit, node: fx.Node) -> Any:
    """Between two bounds, either of which may be absent."""
    operands, names, _ = normalized(node)
    dtype = node.meta["val"].dtype
    bounds = {n.removesuffix("_val"): v for n, v in zip(names[1:], operands[1:], strict=True)}
    low, high = bounds.get("min"), bounds.get("max")
    x = _typed(emit, operands[0], dtype)
    limits = [None if b is None else emit.scalar(b, dtype) for b in (low, high)]
    return emit.op("Clip", [x, *limits])


@lowers("aten._to_copy.default")
def to_copy(emit: Emit, node: fx.Node) -> Any:
    """A cast."""
    source = node.args[0].meta["val"].dtype  # type: ignore[union-attr]
    return emit.cast(emit.value(node.args[0]), source, node.meta["val"].dtype)


@lowers("aten.softmax.int", "aten._softmax.default")
def softmax(emit: Emit, node: fx.Node) -> Any:
    """Along one dimension."""
    return emit.op("Softmax", [_typed(emit, node.args[0], node.meta["val"].dtype)], axis=int(node.args[1]))  # type: ignore[arg-type]


@lowers("aten.isnan.default")
def isnan(emit: Emit, node: fx.Node) -> Any:
    """Elementwise."""
    return emit.op("IsNaN", [emit.value(node.args[0])])


@lowers(
    "aten.full.default",
    "aten.zeros.default",
    "aten.ones.default",
    "aten.full_like.default",
    "aten.zeros_like.default",
    "aten.ones_like.default",
    "aten.new_zeros.default",
    "aten.new_ones.default",
)
def full(emit: Emit, node: fx.Node) -> Any:
    """One number everywhere."""
    name = str(node.target)
    value: Any = 0.0 if "zeros" in name else 1.0
    if "full" in name:
        value = node.args[1]
    like = "like" in name
    first = node.args[1] if "new_" in name else node.args[0]
    shape = emit.op("Shape", [emit.value(node.args[0])]) if like else emit.dims(list(first))  # type: ignore[arg-type]
    return emit.op("Expand", [_typed(emit, value, node.meta["val"].dtype), shape])


@lowers("aten.arange.default", "aten.arange.start", "aten.arange.start_step")
def arange(emit: Emit, node: fx.Node) -> Any:
    """Numbers from start up to stop."""
    numbers = list(node.args)
    start, stop, step = (0, numbers[0], 1) if len(numbers) == 1 else (*numbers, 1)[:3]
    dtype = node.meta["val"].dtype
    return emit.op("Range", [_typed(emit, x, dtype) for x in (start, stop, step)])


@lowers("add", "sub", "mul", "floordiv", "mod")
def dim_arithmetic(emit: Emit, node: fx.Node) -> Any:
    """Sizes, as int64 vectors of one element."""
    name = node.target.__name__  # type: ignore[union-attr]
    kind = {"add": "Add", "sub": "Sub", "mul": "Mul", "floordiv": "Div", "mod": "Mod"}[name]
    return emit.op(kind, [emit.dim(x) for x in node.args])


@lowers("neg")
def dim_negation(emit: Emit, node: fx.Node) -> Any:
    """A size, negated."""
    return emit.op("Neg", [emit.dim(node.args[0])])


@lowers("getitem")
def getitem(emit: Emit, node: fx.Node) -> Any:
    """One result of several."""
    source, index = node.args
    assert isinstance(source, fx.Node) and isinstance(index, int)
    return emit.values[source][index]
