"""Remove what does nothing.

`x.to(x.dtype)`, `dropout(x)` in inference, `x * 1`, `x + 0`, `x[0:all]`, `cat([x])`, … become `x`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.pattern import Const, Match, Var, op
from optcc.ir.rewrite import Rule, cleanups
from optcc.passes.canonicalize._types import aten, dtype, is_tensor, names, reaches_output, same_type
from optcc.pm.contract import EXACT, Contract
from optcc.pm.passes import RewritePass

# These return their input whenever the result has the input's type.
_KEEPERS = """
    to.dtype to.device to.dtype_layout to.other type_as.default _to_copy.default alias.default detach.default
    detach_.default clone.default contiguous.default lift_fresh.default lift_fresh_copy.default expand.default
    expand_as.default slice.Tensor reshape.default view.default _unsafe_view.default flatten.using_ints
    narrow.default repeat.default conj.default resolve_conj.default resolve_neg.default positive.default
"""


def _keeps_type(match: Match) -> str | None:
    x = match["x"]
    if not isinstance(x, fx.Node) or not same_type(match.root, x):
        return "the result has another type"
    if x.op == "get_attr" and reaches_output(match.root):
        return "a weight can't be a result"
    return None


def _is_number(match: Match, name: str, number: float) -> bool:
    value = match[name]
    return isinstance(value, int | float) and not isinstance(value, bool) and value == number


def _neutral(number: float) -> Rule:
    """`x (op) number` with the operator's neutral element."""
    targets = (
        "aten.mul.Tensor | aten.div.Tensor | aten.pow.Tensor_Scalar"
        if number
        else "aten.add.Tensor | aten.sub.Tensor"
    )

    def check(match: Match) -> str | None:
        return _keeps_type(match) if _is_number(match, "c", number) else f"the number is not {number:g}"

    return Rule("neutral-one" if number else "neutral-zero", op(targets, Var("x"), Const("c")), _input, check)


def _input(match: Match, build: Builder) -> fx.Node:
    return match.node("x")


def _only_piece(match: Match) -> str | None:
    x = match["x"]
    return None if is_tensor(x) and same_type(match.root, x) else "the tensor is split in several"


def _widens(match: Match) -> str | None:
    """Casting to a type that holds every value, and on to a third, is one cast."""
    x = match["x"]
    if not is_tensor(x):
        return "not a tensor"
    narrow, wide = dtype(x), match["wide"]
    floats = narrow.is_floating_point and wide.is_floating_point
    keeps = floats and torch.finfo(wide).bits > torch.finfo(narrow).bits
    return None if keeps else f"{narrow} to {wide} may change values"


def _cast(match: Match, build: Builder) -> fx.Node:
    x = match.node("x")
    return x if match["dtype"] == dtype(x) else build.call(aten._to_copy.default, x, dtype=match["dtype"])


@dataclass(frozen=True)
class Identities(RewritePass):
    """Remove operators that return their input.

    `op(x) = x`: casts and copies to the same type, dropout outside training, `x * 1`, `x / 1`, `x ** 1`, `x +
    0`, `x - 0`, slices of everything, reshapes and expansions to the same shape, `cat` of one, the only piece
    of a split; `cast(cast(x, wider), t) = cast(x, t)`.

    Before: anything. After: none of these is left; values are bit-identical.
    """

    contract: ClassVar[Contract] = EXACT

    rules: ClassVar[tuple[Rule, ...]] = cleanups(
        Rule("same-type", op(names(_KEEPERS), Var("x"), ...), _input, _keeps_type),
        Rule("dropout", op("aten.dropout.default", Var("x"), Const("p"), False), _input, _keeps_type),
        _neutral(1.0),
        _neutral(0.0),
        Rule("cat-of-one", op("aten.cat.default", [Var("x")], ...), _input, _keeps_type),
        Rule(
            "only-piece",
            op("getitem", op("aten.split_with_sizes.default", Var("x"), ...), 0),
            _input,
            _only_piece,
        ),
        Rule(
            "cast-of-cast",
            op("aten._to_copy.default", op("aten._to_copy.default", Var("x"), Const("wide")), Const("dtype")),
            _cast,
            _widens,
        ),
    )
