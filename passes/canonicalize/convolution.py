"""One spelling of a convolution: its own operator with padding as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.pattern import Const, Match, Var, op
from optcc.ir.rewrite import Rule
from optcc.passes.canonicalize._types import aten, rank, shape
from optcc.pm.contract import EXACT, Contract
from optcc.pm.passes import RewritePass

_NUMBERED = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}
_X, _W, _B = Var("x"), Var("w"), Var("b")
_GENERAL = tuple(map(Const, ("stride", "padding", "dilation", "transposed", "output_padding", "groups")))


def _reach(match: Match) -> list[int]:
    """How much wider than one position a kernel is, per dim: `dilation * (size - 1)`."""
    sizes = shape(match.node("w"))[2:]
    return [d * (int(k) - 1) for d, k in zip(_each(match["dilation"], len(sizes)), sizes, strict=True)]


def _each(value: object, count: int) -> list[int]:
    """One number per dim; torch takes one for all."""
    listed = [value] if isinstance(value, int) else list(value)  # type: ignore[call-overload]
    return [int(v) for v in (listed * count if len(listed) == 1 else listed)]


def _check_padding(match: Match) -> str | None:
    if rank(match.node("x")) != rank(match.node("w")):
        return "the input has no batch dimension"
    if match["padding"] == "same" and any(reach % 2 for reach in _reach(match)):
        return "`same` pads one side more than the other"
    return None


def _by_number(match: Match, build: Builder) -> fx.Node:
    padding = [0 if match["padding"] == "valid" else reach // 2 for reach in _reach(match)]
    target = _NUMBERED[len(padding)]
    rest = [match["stride"], padding, match["dilation"], match["groups"]]
    return build.call(target, match.node("x"), match.node("w"), match["b"], *rest)


def _check_general(match: Match) -> str | None:
    if match["transposed"]:
        return "the convolution is transposed"
    return "the input has no batch dimension" if rank(match.node("x")) != rank(match.node("w")) else None


def _by_rank(match: Match, build: Builder) -> fx.Node:
    target = _NUMBERED[rank(match.node("w")) - 2]
    rest = [match[name] for name in ("stride", "padding", "dilation", "groups")]
    return build.call(target, match.node("x"), match.node("w"), match["b"], *rest)


@dataclass(frozen=True)
class Convolution(RewritePass):
    """`conv(x, w, b, padding="same")` becomes `conv(x, w, b, padding=dilation (k - 1) / 2)`.

    "valid" is padding of 0; `aten.convolution` that is not transposed becomes conv1d, conv2d or conv3d.

    Before: anything. After: every convolution that is neither transposed nor padded on one side more than on the other
    is `aten.conv*d.default`; values are bit-identical.
    """

    contract: ClassVar[Contract] = EXACT

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "padding-by-name",
            op(
                "aten.conv1d.padding | aten.conv2d.padding | aten.conv3d.padding",
                *(_X, _W, _B, Const("stride"), Const("padding"), Const("dilation"), Const("groups")),
            ),
            _by_number,
            _check_padding,
        ),
        Rule("convolution", op("aten.convolution.default", _X, _W, _B, *_GENERAL), _by_rank, _check_general),
    )
