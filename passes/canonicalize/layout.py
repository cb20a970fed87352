"""Compose, cancel and postpone reshapes and transposes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.pattern import Const, Match, Op, Var, op
from optcc.ir.rewrite import Rule, cleanups
from optcc.ir.text import target_name
from optcc.passes.canonicalize._types import (
    BINARY,
    POINTWISE,
    aten,
    expression,
    is_tensor,
    order_of,
    rank,
    same_dims,
    same_type,
    shape,
    sizes_of,
    symbolic_count,
)
from optcc.pm.contract import Contract, tolerance
from optcc.pm.passes import RewritePass

_RESHAPE, _TRANSPOSE, _PERMUTE = "aten.reshape.default", "aten.transpose.int", "aten.permute.default"
_TURNS = f"{_TRANSPOSE} | {_PERMUTE}"
# Every row of the last dimension on its own.
_ROWWISE = "aten.linear.default | optcc.rms_norm.default | aten.layer_norm.default"


def _turn(build: Builder, x: fx.Node, order: list[int]) -> fx.Node:
    """Put the dimensions in this order, in the shortest spelling."""
    moved = [i for i, d in enumerate(order) if i != d]
    if not moved:
        return x
    if len(moved) == 2:
        return build.call(aten.transpose.int, x, *moved)
    return build.call(aten.permute.default, x, order)


def _compose(match: Match, build: Builder) -> fx.Node:
    outer, inner = order_of(match.root), order_of(match.node("inner"))
    return _turn(build, match.node("x"), [inner[d] for d in outer])


def _reshape_again(match: Match, build: Builder) -> fx.Node:
    x = match.node("x")
    return x if same_type(match.root, x) else build.reshape(x, list(match["shape"]))


def _plain_sizes(match: Match) -> str | None:
    sizes = match["shape"]
    return None if not any(isinstance(d, fx.Node) for d in sizes) else "a size is read from another tensor"


def _same_as_source(match: Match) -> str | None:
    x = match["x"]
    return None if is_tensor(x) and same_type(match.root, x) else "the shape differs from the start"


def _postponed(match: Match, build: Builder, value: fx.Node) -> fx.Node:
    """The reshape or transposition that stood before, after `value`."""
    move = match.node("move")
    if target_name(move) == _RESHAPE:
        return build.reshape(value, sizes_of(build, match.root))
    return _turn(build, value, order_of(move))


def _recall(match: Match, build: Builder, *operands: fx.Node) -> fx.Node:
    """The root's operator on other operands."""
    root = match.root
    assert callable(root.target)
    return build.call(root.target, *operands, *root.args[len(operands) :], **root.kwargs)


def _few_symbols(match: Match) -> str | None:
    if target_name(match.node("move")) != _RESHAPE or symbolic_count(shape(match.root)) <= 1:
        return None
    return "the reshape has several symbolic sizes"


def _unary(match: Match, build: Builder) -> fx.Node:
    return _postponed(match, build, _recall(match, build, match.node("x")))


def _check_rows(match: Match) -> str | None:
    """The move must leave the last dimension, and the operator must read no other."""
    x, move = match.node("x"), match.node("move")
    if target_name(match.root) == "aten.layer_norm.default" and len(_norm_shape(match.root)) != 1:
        return "the norm reads several dimensions"
    if target_name(move) == _RESHAPE:
        kept = rank(x) > 0 and expression(shape(x)[-1]) == expression(shape(move)[-1])
        return _few_symbols(match) if kept else "the reshape changes the last dimension"
    return None if order_of(move)[-1] == rank(move) - 1 else "the last dimension moves"


def _norm_shape(norm: fx.Node) -> Sequence[Any]:
    sizes = norm.args[1]
    assert isinstance(sizes, list | tuple)
    return sizes


def _check_pair(match: Match) -> str | None:
    """Both operands must have been moved alike, from the same shape to the same shape."""
    x, y, a, b = (match.node(n) for n in ("x", "y", "move", "other"))
    if (
        target_name(a) != target_name(b)
        or not same_dims(shape(a), shape(b))
        or not same_dims(shape(x), shape(y))
    ):
        return "the operands are moved in different ways"
    if target_name(a) != _RESHAPE and order_of(a) != order_of(b):
        return "the operands are moved in different ways"
    return _few_symbols(match)


def _pair(match: Match, build: Builder) -> fx.Node:
    return _postponed(match, build, _recall(match, build, match.node("x"), match.node("y")))


def _scalar(match: Match) -> str | None:
    plain = isinstance(match["c"], int | float)
    return _few_symbols(match) if plain else "the second operand is not a number"


def _piece(match: Match, build: Builder) -> fx.Node:
    """Split before turning: `turn(x)[piece i of dim d]` is the turn of piece i of the dim that d was."""
    x, move = match.node("x"), match.node("move")
    dim = order_of(move)[int(match["dim"])]
    sizes = list(match["sizes"])
    known = next((u for u in x.users if _is_split(u, sizes, dim) and u < match.root), None)
    pieces = known or build.call(aten.split_with_sizes.default, x, sizes, dim)
    return _turn(build, build.item(pieces, match["i"]), order_of(move))


def _is_split(user: fx.Node, sizes: list[int], dim: int) -> bool:
    return user.target is aten.split_with_sizes.default and list(user.args[1:]) == [sizes, dim]


def _cut(match: Match, build: Builder) -> fx.Node:
    x, move, root = match.node("x"), match.node("move"), match.root
    dim = order_of(move)[int(match["dim"])]
    return _turn(build, build.call(aten.slice.Tensor, x, dim, *root.args[2:]), order_of(move))


_X = Var("x")
_MOVED = op(f"{_RESHAPE} | {_TURNS}", _X, ..., name="move")
_OTHER = op(f"{_RESHAPE} | {_TURNS}", Var("y"), ..., name="other")
_TURNED = op(_TURNS, _X, ..., name="move")


def _undo(name: str, pattern: Op) -> Rule:
    return Rule(name, pattern, lambda match, build: match.node("x"), _same_as_source)


@dataclass(frozen=True)
class Layout(RewritePass):
    """Reshapes and transposes compose, cancel, and move behind the operators that don't mind them.

    `reshape(reshape(x)) = reshape(x)`, `transpose(transpose(x)) = x`; `f(move(x)) = move(f(x))` for f that
    works on every element, `linear`, `rms_norm` and `layer_norm` where the last dimension stays; likewise for
    pieces and slices. So the transposes around heads meet and cancel, and query, key and value reach
    attention as plain reshapes.

    Before: reshape is the only spelling of views, dims count from the front. After: no two moves follow each
    other, and none stands before such an operator. Values are bit-identical except that a linear may see its
    rows in another shape.
    """

    contract: ClassVar[Contract] = tolerance()

    rules: ClassVar[tuple[Rule, ...]] = cleanups(
        _undo("reshape-nothing", op(_RESHAPE, _X, ...)),
        Rule(
            "reshape-twice", op(_RESHAPE, op(_RESHAPE, _X, ...), Const("shape")), _reshape_again, _plain_sizes
        ),
        Rule("turn-twice", op(_TURNS, op(_TURNS, _X, ..., name="inner"), ...), _compose),
        Rule(
            "turn-nothing", op(_TURNS, _X, ...), lambda m, b: m.node("x"), lambda m: _identity_order(m.root)
        ),
        _undo("squeeze-unsqueeze", op("aten.squeeze.dim", op("aten.unsqueeze.default", _X, ...), ...)),
        Rule("unary", op(POINTWISE, _MOVED, ...), _unary, _few_symbols),
        Rule("scaled", op(BINARY, _MOVED, Const("c")), _unary, _scalar),
        Rule("pair", op(BINARY, _MOVED, _OTHER), _pair, _check_pair),
        Rule("rows", op(_ROWWISE, _MOVED, ...), _unary, _check_rows),
        Rule(
            "piece",
            op(
                "getitem",
                op("aten.split_with_sizes.default", _TURNED, Const("sizes"), Const("dim")),
                Const("i"),
            ),
            _piece,
        ),
        Rule("cut", op("aten.slice.Tensor", _TURNED, Const("dim"), ...), _cut),
    )


def _identity_order(turn: fx.Node) -> str | None:
    order = order_of(turn)
    return None if order == sorted(order) else "dimensions move"
