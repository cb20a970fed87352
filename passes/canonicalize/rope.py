"""Recognize rotary position embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.pattern import Const, Match, Op, Pattern, Var, op
from optcc.ir.rewrite import Rule, cleanups
from optcc.ir.text import target_name
from optcc.passes.canonicalize._rope import layout_of, rotate
from optcc.passes.canonicalize._types import aten, expression, is_last, is_tensor, rank, same_dims, shape
from optcc.pm.contract import Contract, tolerance
from optcc.pm.passes import RewritePass

_MUL, _ADD, _SUB, _CAT, _SLICE = (
    "aten.mul.Tensor",
    "aten.add.Tensor",
    "aten.sub.Tensor",
    "aten.cat.default",
    "aten.slice.Tensor",
)
_X, _DIM = Var("x"), Const("dim")
_LATER = "aten.cos.default | aten.sin.default | aten._to_copy.default"
_SHAPED = "aten.reshape.default | aten.unsqueeze.default"


def _twin(inner: Pattern, name: str | None = None) -> tuple[Op, Op]:
    """A table whose second half repeats the first (`cat`), or whose columns come in equal pairs."""
    return op(_CAT, [inner, inner], Const("twin"), name=name), op(
        "aten.repeat_interleave.self_int", inner, 2, Const("twin"), ..., name=name
    )


def _sink(name: str, later: Op, repeat: Op) -> Rule:
    """`f(twin(a)) = twin(f(a))` for f that works on every element alone, or keeps the last dimension."""

    def check(match: Match) -> str | None:
        a = match["a"]
        if not is_tensor(a) or not is_last(match["twin"], a):
            return "the halves are not side by side in the last dimension"
        same = expression(shape(match.root)[-1]) == expression(shape(match.node("both"))[-1])
        return None if same else "the last dimension changes"

    def replace(match: Match, build: Builder) -> fx.Node:
        root, a = match.root, match.node("a")
        args = (a, *root.args[1:])
        if target_name(root) == "aten.reshape.default":
            sizes = list(root.args[1])  # type: ignore[arg-type]
            args = (a, [*sizes[:-1], int(shape(a)[-1])])
        assert callable(root.target)
        half = build.call(root.target, *args, **root.kwargs)
        last = rank(half) - 1
        if target_name(match.node("both")) == _CAT:
            return build.call(aten.cat.default, [half, half], last)
        return build.call(aten.repeat_interleave.self_int, half, 2, last)

    return Rule(name, Op(later.targets, (repeat, *later.args)), replace, check)


def _rotated(x: Pattern) -> Op:
    """`cat(-x2, x1)` of the halves x1, x2."""
    first = op(_SLICE, x, _DIM, 0, Const("half"))
    second = op(_SLICE, x, _DIM, Const("half"), Const("end"))
    return op(_CAT, [op("aten.neg.default", second), first], _DIM)


_PAIRED = op(
    "aten.reshape.default",
    op(
        "aten.stack.default",
        [
            op("aten.neg.default", op(_SLICE, _X, _DIM, 1, Const("end"), 2)),
            op(_SLICE, _X, _DIM, 0, Const("end"), 2),
        ],
        Const("pair"),
    ),
    Const("flat"),
)
_COS_HALVES, _COS_PAIRS = _twin(Var("cos"))
_SIN_HALVES, _SIN_PAIRS = _twin(Var("sin"))
_BY_HALVES = op(_ADD, op(_MUL, _X, _COS_HALVES), op(_MUL, _rotated(_X), _SIN_HALVES))
_BY_PAIRS = op(_ADD, op(_MUL, _X, _COS_PAIRS), op(_MUL, _PAIRED, _SIN_PAIRS))
_X1, _X2 = Var("x1"), Var("x2")
_SPLIT = op(
    _CAT,
    [
        op(_SUB, op(_MUL, _X1, Var("cos")), op(_MUL, _X2, Var("sin"))),
        op(_ADD, op(_MUL, _X2, Var("cos")), op(_MUL, _X1, Var("sin"))),
    ],
    _DIM,
)


def _check_halves(match: Match) -> str | None:
    x = match["x"]
    if not is_tensor(x) or not is_last(match["dim"], x):
        return "the rotated dimension is not the last"
    width = shape(x)[-1]
    if 2 * match["half"] != width or match["end"] < width:
        return f"the halves don't cover the {width} channels"
    return layout_of(x, match["cos"], match["sin"])[1]


def _check_pairs(match: Match) -> str | None:
    x = match["x"]
    if not is_tensor(x) or not is_last(match["dim"], x) or match["end"] < shape(x)[-1]:
        return "the rotated dimension is not the last, or not covered"
    if match["pair"] % (rank(x) + 1) != rank(x) or not same_dims(shape(match.root), shape(x)):
        return "the pairs are not put back where they came from"
    return layout_of(x, match["cos"], match["sin"])[1]


def _source_of_halves(match: Match) -> fx.Node | None:
    """The value whose two halves are x1 and x2, by two slices or one split."""
    x1, x2 = match["x1"], match["x2"]
    if not (is_tensor(x1) and is_tensor(x2)) or x1.args[0] is not x2.args[0]:
        return None
    if target_name(x1) == target_name(x2) == "getitem" and (x1.args[1], x2.args[1]) == (0, 1):
        split = x1.args[0]
        halves = target_name(split) == "aten.split_with_sizes.default" and len(split.meta["val"]) == 2
        x = split.args[0] if halves and is_last(split.args[2] if len(split.args) > 2 else 0, x1) else None
        return x if isinstance(x, fx.Node) else None
    if target_name(x1) != _SLICE or target_name(x2) != _SLICE:
        return None
    x, half = x1.args[0], shape(x1)[-1]
    assert isinstance(x, fx.Node)
    spans = list(x1.args[2:4]) == [0, half] and x2.args[2] == half and shape(x2)[-1] == half
    return (
        x
        if spans and is_last(x1.args[1], x) and is_last(x2.args[1], x) and shape(x)[-1] == 2 * half
        else None
    )


def _check_split(match: Match) -> str | None:
    x = _source_of_halves(match)
    if x is None or not is_last(match["dim"], match.root):
        return "the two parts are not the halves of one value"
    return layout_of(x, match["cos"], match["sin"])[1]


def _halves(match: Match, build: Builder) -> fx.Node:
    return rotate(match, build, match.node("x"), interleaved=False)


def _pairs(match: Match, build: Builder) -> fx.Node:
    return rotate(match, build, match.node("x"), interleaved=True)


def _parts(match: Match, build: Builder) -> fx.Node:
    x = _source_of_halves(match)
    assert x is not None
    return rotate(match, build, x, interleaved=False)


_ROTATE = "optcc.rope.default"
_FIRST = op(_SLICE, _X, _DIM, 0, Const("width"))
_REST = op(_SLICE, _X, _DIM, Const("width"), Const("end"))
_TABLES = (Var("cos"), Var("sin"), ...)
_STRAIGHT = op(_CAT, [op(_ROTATE, _FIRST, *_TABLES, name="rope"), _REST], _DIM)
_TURNED = op(
    _CAT,
    [
        op(
            "aten.transpose.int",
            op(_ROTATE, op("aten.transpose.int", _FIRST, Const("a"), Const("b")), *_TABLES, name="rope"),
            Const("a"),
            Const("b"),
        ),
        _REST,
    ],
    _DIM,
)


def _check_partial(match: Match) -> str | None:
    x = match.node("x")
    if not is_last(match["dim"], x) or match["end"] < shape(x)[-1]:
        return "the two parts are not all channels"
    return None


def _partial(match: Match, build: Builder) -> fx.Node:
    x, old = match.node("x"), match.node("rope")
    if "a" not in match.values:
        return build.call(torch.ops.optcc.rope.default, x, *old.args[1:])
    a, b = match["a"], match["b"]
    turned = build.call(aten.transpose.int, x, a, b)
    return build.call(
        aten.transpose.int, build.call(torch.ops.optcc.rope.default, turned, *old.args[1:]), a, b
    )


def _sinks() -> tuple[Rule, ...]:
    found = []
    for repeat in _twin(Var("a"), name="both"):
        found += [
            _sink("table-function", op(_LATER, ...), repeat),
            _sink("table-scale", op(_MUL, Const("factor")), repeat),
            _sink("table-shape", op(_SHAPED, Const("shape")), repeat),
        ]
    return cleanups(*found)


@dataclass(frozen=True)
class Rope(RewritePass):
    """Write `x cos + rotate_half(x) sin` as `optcc.rope(x, cos, sin)` on [..., T, H, C], tables [T, Dr/2].

    Halves (Llama, NeoX), explicit halves (`x1 cos - x2 sin`), pairs (GPT-J, Cohere), and all of them on the
    first Dr channels only. Tables that repeat themselves, `cos(cat(f, f))`, become `cos(f)`; a factor on them
    (attention scaling) stays a factor. Where a model rotates [..., H, T, C], transposes are put around;
    canonicalize.layout removes them.

    Before: reshape is the only spelling of views, dims count from the front. After: no such expression is
    left.
    """

    contract: ClassVar[Contract] = tolerance()

    rules: ClassVar[tuple[Rule, ...]] = (
        *_sinks(),
        Rule("rope", _BY_HALVES, _halves, _check_halves),
        Rule("rope-pairs", _BY_PAIRS, _pairs, _check_pairs),
        Rule("rope-parts", _SPLIT, _parts, _check_split),
        Rule("rope-partial", _STRAIGHT, _partial, _check_partial),
        Rule("rope-partial-turned", _TURNED, _partial, _check_partial),
    )
