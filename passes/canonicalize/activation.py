"""Recognize activations that a model writes out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.pattern import Const, Match, Op, Pattern, Var, either, op
from optcc.ir.rewrite import Rule, cleanups
from optcc.passes.canonicalize._types import aten
from optcc.pm.contract import Contract, tolerance
from optcc.pm.passes import RewritePass

_MUL, _ADD = "aten.mul.Tensor", "aten.add.Tensor"
_X = Var("x")


def _numbers(**expected: float) -> Callable[[Match], str | None]:
    """A check that the bound numbers are these, up to rounding to float32."""

    def check(match: Match) -> str | None:
        for name, number in expected.items():
            if not math.isclose(float(match[name]), number, rel_tol=1e-6):
                return f"{match[name]} stands where {number:.7g} is expected"
        return None

    return check


def _halves(inner: Pattern) -> tuple[Op, ...]:
    """`0.5 x (1 + inner)` with either association."""
    plus = op(_ADD, inner, 1.0)
    return (
        op(_MUL, op(_MUL, _X, 0.5), plus),
        op(_MUL, op(_MUL, _X, plus), 0.5),
        op(_MUL, _X, op(_MUL, plus, 0.5)),
    )


def _gelu_tanh(match: Match, build: Builder) -> fx.Node:
    return build.call(aten.gelu.default, match.node("x"), approximate="tanh")


def _gelu(match: Match, build: Builder) -> fx.Node:
    return build.call(aten.gelu.default, match.node("x"))


def _silu(match: Match, build: Builder) -> fx.Node:
    return build.call(aten.silu.default, match.node("x"))


def _clamp(match: Match, build: Builder) -> fx.Node:
    low, high = match.values.get("low", 0.0), match.values.get("high", 6.0)
    return build.call(aten.clamp.default, match.node("x"), low, high)


_SQUARE = either(op("aten.pow.Tensor_Scalar", _X, 2), op(_MUL, _X, _X))
_CUBE = either(op("aten.pow.Tensor_Scalar", _X, 3), op(_MUL, _SQUARE, _X))
# sqrt(2/pi) (x + 0.044715 x^3)
_SUM = op(_MUL, op(_ADD, _X, op(_MUL, _CUBE, Const("cubic"))), Const("root"))
# x sqrt(2/pi) (1 + 0.044715 x x)
_PRODUCT = op(
    _MUL,
    op(_MUL, _X, Const("root")),
    op(_ADD, either(op(_MUL, op(_MUL, _X, Const("cubic")), _X), op(_MUL, _SQUARE, Const("cubic"))), 1.0),
)
_TANH = op("aten.tanh.default", either(_SUM, _PRODUCT))
_ERF = op("aten.erf.default", either(op("aten.div.Tensor", _X, Const("two")), op(_MUL, _X, Const("half"))))


def _check_erf(match: Match) -> str | None:
    if "two" in match.values:
        return _numbers(two=math.sqrt(2.0))(match)
    return _numbers(half=math.sqrt(0.5))(match)


def _rules(
    name: str,
    inner: Pattern,
    replace: Callable[[Match, Builder], fx.Node],
    check: Callable[[Match], str | None],
) -> tuple[Rule, ...]:
    return tuple(Rule(name, pattern, replace, check) for pattern in _halves(inner))


@dataclass(frozen=True)
class Activation(RewritePass):
    """Write activations as the operator they are.

    `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = gelu_tanh(x)` in the forms of GPT-2, gelu_new and
    gelu_fast; `0.5 x (1 + erf(x / sqrt(2))) = gelu(x)`; `x sigmoid(x) = silu(x)`. The sigmoid approximation
    `x sigmoid(1.702 x)` is a function of its own and stays. `relu6(x) = clamp(x, 0, 6)`, and hardtanh is a clamp too.

    Before: identities are gone. After: these forms are `aten.gelu`, `aten.silu` and `aten.clamp`.
    """

    contract: ClassVar[Contract] = tolerance()

    rules: ClassVar[tuple[Rule, ...]] = cleanups(
        *_rules("gelu-tanh", _TANH, _gelu_tanh, _numbers(cubic=0.044715, root=math.sqrt(2.0 / math.pi))),
        *_rules("gelu-erf", _ERF, _gelu, _check_erf),
        Rule("silu", op(_MUL, _X, op("aten.sigmoid.default", _X)), _silu),
        Rule("relu6", op("aten.relu6.default", _X), _clamp),
        Rule("hardtanh", op("aten.hardtanh.default", _X, Const("low"), Const("high")), _clamp),
    )
