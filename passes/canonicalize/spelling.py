"""Write each thing one way: reshape, transpose, split_with_sizes, _to_copy, linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.pattern import Const, Match, Var, op
from optcc.ir.rewrite import Rule, cleanups
from optcc.passes.canonicalize._linear import LINEAR_RULES
from optcc.passes.canonicalize._types import (
    aten,
    dtype,
    is_static,
    names,
    rank,
    same_type,
    shape,
    size_of,
    sizes_of,
    symbolic_count,
)
from optcc.pm.contract import Contract, tolerance
from optcc.pm.passes import RewritePass


def _cast(match: Match, build: Builder) -> fx.Node:
    x = match.node("x")
    return x if same_type(match.root, x) else build.call(aten._to_copy.default, x, dtype=dtype(match.root))


def _view(match: Match, build: Builder) -> fx.Node:
    return build.reshape(match.node("x"), list(match["shape"]))


def _one_symbol(match: Match) -> str | None:
    return None if symbolic_count(shape(match.root)) <= 1 else "the result has several symbolic sizes"


def _by_result(match: Match, build: Builder) -> fx.Node:
    return build.reshape(match.node("x"), sizes_of(build, match.root))


def _flatten(match: Match, build: Builder) -> fx.Node:
    """Merge dims start..end: the sizes around them stay, the merged one is -1."""
    x, size = match.node("x"), rank(match.node("x"))
    start, end = match["start"] % size, match["end"] % size
    kept = [
        size_of(build, x, i) if i < start or i > end else -1 for i in range(size) if i <= start or i > end
    ]
    return build.reshape(x, kept)


def _unflatten(match: Match, build: Builder) -> fx.Node:
    x = match.node("x")
    dim = match["dim"] % rank(x)
    sizes: list[Any] = [size_of(build, x, i) for i in range(rank(x))]
    return build.reshape(x, [*sizes[:dim], *match["sizes"], *sizes[dim + 1 :]])


def _check_pieces(match: Match) -> str | None:
    pieces = match.root.meta["val"]
    dim = _piece_dim(match)
    return None if all(is_static(p.shape[dim]) for p in pieces) else "pieces of symbolic size"


def _piece_dim(match: Match) -> int:
    return int(match["dim"]) % rank(match.node("x"))


def _split(match: Match, build: Builder) -> fx.Node:
    dim = _piece_dim(match)
    sizes = [int(p.shape[dim]) for p in match.root.meta["val"]]
    return build.call(aten.split_with_sizes.default, match.node("x"), sizes, dim)


def _turn(match: Match, build: Builder) -> fx.Node:
    x = match.node("x")
    return x if rank(x) < 2 else build.call(aten.transpose.int, x, 0, 1)


def _swapped(match: Match) -> tuple[int, ...]:
    """The dims that a permutation moves."""
    order = [d % rank(match.node("x")) for d in match["dims"]]
    return tuple(i for i, d in enumerate(order) if i != d)


def _swap(match: Match, build: Builder) -> fx.Node:
    x, moved = match.node("x"), _swapped(match)
    return build.call(aten.transpose.int, x, *moved) if moved else x


def _expand_to(match: Match, build: Builder) -> fx.Node:
    """`expand` to another tensor's sizes, read from it."""
    y = match.node("y")
    return build.call(aten.expand.default, match.node("x"), [size_of(build, y, i) for i in range(rank(y))])


def _tensor_form(name: str) -> Rule:
    """`x (op) number` is spelled with the overload for tensors, which takes numbers too."""
    target = getattr(aten, name).Tensor

    def replace(match: Match, build: Builder) -> fx.Node:
        return build.call(target, match.node("x"), match["c"])

    return Rule(f"{name}-scalar", op(f"aten.{name}.Scalar", Var("x"), Const("c")), replace)


def _select(match: Match, build: Builder) -> fx.Node:
    return build.call(aten.select.int, match.node("x"), match["dim"], match["i"])


_CASTS = names("to.dtype to.device to.dtype_layout to.other type_as.default")
_ONE_STEP = " | ".join(
    f"aten.{n}" for n in ("squeeze.default", "squeeze.dim", "squeeze.dims", "unsqueeze.default")
)


@dataclass(frozen=True)
class Spelling(RewritePass):
    """Replace synonyms by the spelling that later passes and backends know.

    view, flatten, unflatten, squeeze, unsqueeze -> reshape; t, swapping permute -> transpose; chunk, split ->
    split_with_sizes; picking from unbind -> select; `.to`, type_as -> _to_copy; expand_as -> expand;
    `addmm(b, x, w) = linear(x, w^T, b)` and the like -> linear, where a transposed weight is stored once.

    Before: anything. After: those synonyms are gone; squeezes and unsqueezes stay where several sizes are
    symbolic.
    """

    contract: ClassVar[Contract] = tolerance()

    rules: ClassVar[tuple[Rule, ...]] = cleanups(
        Rule("cast", op(_CASTS, Var("x"), ...), _cast),
        Rule("view", op("aten.view.default | aten._unsafe_view.default", Var("x"), Const("shape")), _view),
        Rule("one-step", op(_ONE_STEP, Var("x"), ...), _by_result, _one_symbol),
        Rule(
            "as-other",
            op("aten.reshape_as.default | aten.view_as.default", Var("x"), Var("y")),
            lambda match, build: build.reshape(match.node("x"), sizes_of(build, match.node("y"))),
        ),
        Rule("flatten", op("aten.flatten.using_ints", Var("x"), Const("start"), Const("end")), _flatten),
        Rule("unflatten", op("aten.unflatten.int", Var("x"), Const("dim"), Const("sizes")), _unflatten),
        Rule(
            "split",
            op(
                "aten.chunk.default | aten.split.Tensor | aten.split.sizes",
                Var("x"),
                Const("n"),
                Const("dim"),
            ),
            _split,
            _check_pieces,
        ),
        Rule(
            "unbind",
            op("getitem", op("aten.unbind.int", Var("x"), Const("dim")), Const("i")),
            _select,
        ),
        Rule("t", op("aten.t.default", Var("x")), _turn),
        Rule(
            "permute",
            op("aten.permute.default", Var("x"), Const("dims")),
            _swap,
            lambda match: None if len(_swapped(match)) in (0, 2) else "more than two dimensions move",
        ),
        Rule("expand-as", op("aten.expand_as.default", Var("x"), Var("y")), _expand_to),
        *(_tensor_form(name) for name in ("mul", "add", "sub", "div")),
        *LINEAR_RULES,
    )
