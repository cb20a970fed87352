"""Recognize root-mean-square norms that a model writes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.pattern import Const, Match, Pattern, Var, either, op
from optcc.ir.rewrite import Rule
from optcc.ir.text import target_name
from optcc.passes.canonicalize._types import (
    aten,
    dtype,
    is_last,
    is_tensor,
    rank,
    same_dims,
    same_type,
    shape,
)
from optcc.pm.contract import Contract, tolerance
from optcc.pm.passes import RewritePass

_OPS = torch.ops.optcc
_MUL, _CAST = "aten.mul.Tensor", "aten._to_copy.default"
_X, _W = Var("x"), Var("w")

_SQUARE = either(op("aten.pow.Tensor_Scalar", _X, 2), op(_MUL, _X, _X), op("aten.square.default", _X))
_MEAN = op("aten.add.Tensor", op("aten.mean.dim", _SQUARE, Const("dims"), True), Const("eps"))
_ROOT = either(op("aten.sqrt.default", _MEAN), op("aten.pow.Tensor_Scalar", _MEAN, 0.5))
_INVERSE = either(
    op("aten.rsqrt.default", _MEAN),
    op("aten.pow.Tensor_Scalar", _MEAN, -0.5),
    op("aten.reciprocal.default", _ROOT),
)
_BY_PRODUCT = op(_MUL, _X, _INVERSE, name="core")
_BY_QUOTIENT = op("aten.div.Tensor", _X, _ROOT, name="core")
_CORE = either(_BY_PRODUCT, _BY_QUOTIENT)
_CAST_CORE: Pattern = either(op(_CAST, _CORE, Const("narrow")), _CORE)


def _check_core(match: Match) -> str | None:
    x, dims = match["x"], list(match["dims"])
    if not is_tensor(x) or not isinstance(match["eps"], float | int):
        return "no tensor is normalized, or eps is not a number"
    return (
        None
        if len(dims) == 1 and is_last(dims[0], x)
        else f"the mean is over dims {dims}, not over the last one"
    )


def _is_scale(value: object, x: fx.Node) -> bool:
    """Whether a value is one number per channel of x."""
    return isinstance(value, fx.Node) and is_tensor(value) and same_dims(shape(value), shape(x)[-1:])


def _check_weighted(match: Match) -> str | None:
    if why := _check_core(match):
        return why
    return None if _is_scale(match["w"], match.node("x")) else "the factor is not one number per channel"


def _scaled_later(node: fx.Node, x: fx.Node) -> bool:
    """Whether the only use of a bare norm is, after a cast perhaps, a product with one number per channel."""
    if len(node.users) != 1:
        return False
    user = next(iter(node.users))
    if target_name(user) == _CAST:
        return _scaled_later(user, x)
    return target_name(user) == _MUL and any(a is not node and _is_scale(a, x) for a in user.args)


def _check_bare(match: Match) -> str | None:
    if why := _check_core(match):
        return why
    waits = _scaled_later(match.root, match.node("x"))
    return "its product with a weight is the norm" if waits else None


def _before_cast(x: fx.Node) -> fx.Node:
    """The value before it was widened for the norm."""
    if target_name(x) != _CAST:
        return x
    narrow = x.args[0]
    assert isinstance(narrow, fx.Node)
    floats = dtype(narrow).is_floating_point and dtype(x) == torch.float32
    return narrow if floats and torch.finfo(dtype(narrow)).bits < 32 else x


def _norm(match: Match, build: Builder, weight: fx.Node) -> fx.Node:
    """The operator computes in float32 whatever its input is: casts around it go where types allow."""
    x, want = match.node("x"), dtype(match.root)
    source = next((v for v in (_before_cast(x), x) if dtype(v) == want), x)
    result = build.call(_OPS.rms_norm.default, source, weight, float(match["eps"]))
    return result if dtype(source) == want else build.call(aten._to_copy.default, result, dtype=want)


def _weighted(match: Match, build: Builder) -> fx.Node:
    return _norm(match, build, match.node("w"))


def _ones(build: Builder, width: int, kind: torch.dtype) -> fx.Node:
    """The weight of a norm that has none; one per width and type."""
    name = f"ones.{width}.{str(kind).removeprefix('torch.')}"
    return (
        build.weight(name)
        if name in build.module.weights
        else build.new_weight(name, torch.ones(width, dtype=kind))
    )


def _bare(match: Match, build: Builder) -> fx.Node:
    x = match.node("x")
    return _norm(match, build, _ones(build, int(shape(x)[-1]), dtype(x)))


def _check_aten(match: Match) -> str | None:
    size = match["shape"]
    return None if len(size) == 1 else f"it normalizes {len(size)} dimensions together"


def _from_aten(match: Match, build: Builder) -> fx.Node:
    x, w, eps = match.node("x"), match["w"], match["eps"]
    weight = w if w is not None else _ones(build, int(match["shape"][0]), dtype(x))
    return build.call(
        _OPS.rms_norm.default, x, weight, float(eps if eps is not None else torch.finfo(dtype(x)).eps)
    )


def _check_narrow(match: Match) -> str | None:
    x, wide = match.node("x"), match.node("wide")
    if dtype(match.root) != dtype(x):
        return "the result has another type than the operand"
    return (
        None
        if rank(wide) and _before_cast(wide) is x and same_type(match.root, x)
        else "the cast changes values"
    )


def _narrow(match: Match, build: Builder) -> fx.Node:
    return build.call(_OPS.rms_norm.default, match.node("x"), match["w"], match["eps"])


@dataclass(frozen=True)
class Norm(RewritePass):
    """`x / sqrt(mean(x^2) + eps) * w` becomes `optcc.rms_norm(x, w, eps)`.

    All of transformers' forms: weight before or after the cast back, rsqrt, pow(-0.5), a quotient, squares as
    a product, per head or per token; without a weight it is one of ones. Casts to float32 around the norm go,
    because the operator computes in float32 itself.

    Before: constants are folded (Gemma's `1 + w` is one weight), identities gone. After: no such expression
    and no `aten.rms_norm` over the last dimension is left.
    """

    contract: ClassVar[Contract] = tolerance()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("rms-norm", op(_MUL, _CAST_CORE, _W), _weighted, _check_weighted),
        Rule("rms-norm-bare", _BY_PRODUCT, _bare, _check_bare),
        Rule("rms-norm-quotient", _BY_QUOTIENT, _bare, _check_bare),
        Rule(
            "rms-norm-operator",
            op("aten.rms_norm.default", _X, Const("shape"), _W, Const("eps")),
            _from_aten,
            _check_aten,
        ),
        Rule(
            "rms-norm-narrow",
            op(
                _CAST,
                op("optcc.rms_norm.default", op(_CAST, _X, torch.float32, name="wide"), _W, Const("eps")),
                Const("t"),
            ),
            _narrow,
            _check_narrow,
        ),
    )
