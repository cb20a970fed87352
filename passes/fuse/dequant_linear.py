"""Join explicit dequantization with the operator that reads it, where kernels exist for the pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.pattern import Const, Match, Op, Var, Weight, either, op
from optcc.ir.rewrite import Rule
from optcc.passes.canonicalize._types import dtype
from optcc.pm.contract import EXACT, Contract
from optcc.pm.passes import RewritePass

_OPS = torch.ops.optcc


def _weight() -> Op:
    """`dequantize(packed, scale, zero, tensor_scale, format, group, rows, dtype)` of stored tensors."""
    zero, whole = either(None, Weight("zero")), either(None, Weight("tensor_scale"))
    layout = (Const("format"), Const("group"), Const("rows"), Const("dtype"))
    fields = (Weight("packed"), Weight("scale"), zero, whole, *layout)
    return op("optcc.dequantize.default", *fields, name="weight")


def _activation() -> Op:
    """`dequantize(quantize_activation(x))`."""
    layout = (Const("act_format"), Const("act_group"))
    pair = op(
        "optcc.quantize_activation.default", Var("x"), *layout, Const("act_scale"), None, name="quantized"
    )
    fields = (None, None, *layout, 1, Const("act_dtype"))
    return op("optcc.dequantize.default", op("getitem", pair, 0), op("getitem", pair, 1), *fields)


def _check_type(match: Match) -> str | None:
    if match["dtype"] != dtype(match.root):
        return f"the weight becomes {match['dtype']}, the result is {dtype(match.root)}"
    return None


def _check_linear(match: Match) -> str | None:
    if why := _check_type(match):
        return why
    if dtype(match.node("x")) != dtype(match.root):
        return f"x is {dtype(match.node('x'))}, the result is {dtype(match.root)}"
    if _is_static(match.node("x")):
        return "x has a static scale: a backend joins its rounding with the linear itself"
    bias = match["bias"]
    return None if bias is None or bias.op == "get_attr" else "the bias is computed"


def _is_static(x: fx.Node) -> bool:
    """Whether a value is `dequantize(quantize_static(...))`."""
    if x.target is not _OPS.dequantize.default:
        return False
    packed = x.args[0]
    return isinstance(packed, fx.Node) and packed.target is _OPS.quantize_static.default


def _linear(match: Match, build: Builder) -> fx.Node:
    stored = (*_stored(match), match["bias"])
    formats = (
        *(match[name] for name in ("format", "group", "rows")),
        match.values.get("act_format", ""),
        match.values.get("act_group", 0),
        match.values.get("act_scale", "float32"),
    )
    return build.call(_OPS.quantized_linear.default, match.node("x"), *stored, *formats)


def _embedding(match: Match, build: Builder) -> fx.Node:
    formats = (match["format"], match["group"], match["dtype"])
    return build.call(_OPS.quantized_embedding.default, match.node("ids"), *_stored(match), *formats)


def _stored(match: Match) -> tuple[fx.Node | None, ...]:
    return (match["packed"], match["scale"], match.values.get("zero"), match.values.get("tensor_scale"))


def _check_embedding(match: Match) -> str | None:
    if match["rows"] != 1:
        return "rows of the table share scales"
    return _check_type(match)


@dataclass(frozen=True)
class DequantLinear(RewritePass):
    """`linear(x, dequantize(w))` becomes `quantized_linear(x, w)`; likewise for embeddings.

    With `x = dequantize(quantize_activation(x'))` the linear quantizes x' itself (`act_format`, `act_group`,
    `act_scale`). A tied weight's readers are all converted, so the packed tensor stays stored once and is never
    expanded.

    Before: canonical, with explicit dequantize. After: no linear or embedding reads a dequantized stored
    tensor. Values are bit-identical.
    """

    contract: ClassVar[Contract] = EXACT

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "dequant-linear-activation",
            op("aten.linear.default", _activation(), _weight(), Var("bias")),
            _linear,
            _check_linear,
        ),
        Rule(
            "dequant-linear",
            op("aten.linear.default", Var("x"), _weight(), Var("bias")),
            _linear,
            _check_linear,
        ),
        Rule(
            "dequant-embedding",
            op("aten.embedding.default", _weight(), Var("ids")),
            _embedding,
            _check_embedding,
        ),
    )
