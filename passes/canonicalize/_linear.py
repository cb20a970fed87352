"""Rules that write every matrix product with a weight as `aten.linear`."""

from __future__ import annotations

from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.pattern import Match, Var, Weight, op
from optcc.ir.rewrite import Rule
from optcc.ir.text import target_name
from optcc.passes.canonicalize._types import aten, is_last, is_tensor, rank, shape

_PRODUCTS = ("aten.addmm.default", "aten.mm.default", "aten.matmul.default")


def _flipped(build: Builder, w: fx.Node) -> fx.Node:
    """Weight [K, N] as [N, K]: stored anew, once, if only products read it; else a transpose of it."""
    name = str(w.target)
    if not all(_is_product_with(user, w) for user in w.users):
        return build.call(aten.transpose.int, w, 0, 1)
    known = f"{name}.transposed"
    if known in build.module.weights:
        return build.weight(known)
    return build.new_weight(known, build.module.weights[name].t())


def _is_product_with(user: fx.Node, w: fx.Node) -> bool:
    return target_name(user) in _PRODUCTS and user.args[-1] is w and not user.kwargs


def _check_matrix(match: Match) -> str | None:
    x = match["x"]
    if not is_tensor(x) or rank(x) < 2:
        return "x is a vector"
    return None if len(match.shape("w")) == 2 else "the weight is not a matrix"


def _bias(match: Match) -> tuple[fx.Node, ...]:
    return (match.node("b"),) if "b" in match.values else ()


def _check_addmm(match: Match) -> str | None:
    if why := _check_matrix(match):
        return why
    return None if len(match.shape("b")) == 1 else "the addend is not a bias"


def _stored_by_input(match: Match, build: Builder) -> fx.Node:
    return build.call(aten.linear.default, match.node("x"), _flipped(build, match.node("w")), *_bias(match))


def _stored_by_output(match: Match, build: Builder) -> fx.Node:
    return build.call(aten.linear.default, match.node("x"), match.node("w"), *_bias(match))


def _check_turned(match: Match) -> str | None:
    if why := _check_matrix(match):
        return why
    if "b" in match.values and len(match.shape("b")) != 1:
        return "the addend is not a bias"
    turned = match.node("turned")
    if target_name(turned) == "aten.t.default":
        return None
    dims = {d % 2 for d in turned.args[1:3] if isinstance(d, int)}
    return None if dims == {0, 1} else "no transpose"


def _check_bias(match: Match) -> str | None:
    linear = match.node("linear")
    if len(linear.users) != 1:
        return f"%{linear.name} is read by others too"
    b = match.shape("b")
    if len(b) != 1 or b[0] != shape(linear)[-1] or not is_last(-1, linear):
        return "the addend is not a bias"
    return None


_WEIGHT = Weight("w")
_TURNED = op("aten.t.default | aten.transpose.int", _WEIGHT, ..., name="turned")

LINEAR_RULES = (
    Rule(
        "addmm-weight", op("aten.addmm.default", Var("b"), Var("x"), _WEIGHT), _stored_by_input, _check_addmm
    ),
    Rule(
        "addmm-transposed",
        op("aten.addmm.default", Var("b"), Var("x"), _TURNED),
        _stored_by_output,
        _check_turned,
    ),
    Rule(
        "mm-weight",
        op("aten.mm.default | aten.matmul.default", Var("x"), _WEIGHT),
        _stored_by_input,
        _check_matrix,
    ),
    Rule(
        "mm-transposed",
        op("aten.mm.default | aten.matmul.default", Var("x"), _TURNED),
        _stored_by_output,
        _check_turned,
    ),
    Rule(
        "linear-bias",
        op("aten.add.Tensor", op("aten.linear.default", Var("x"), _WEIGHT, name="linear"), Weight("b")),
        _stored_by_output,
        _check_bias,
    ),
    Rule(
        "mm",
        op("aten.mm.default", Var("x"), Var("y")),
        lambda match, build: build.call(aten.matmul.default, match.node("x"), match.node("y")),
    ),
)
