"""Compute gate and up of a feed-forward layer with one linear, and their gated product with one operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.pattern import Const, Match, Op, Pattern, Var, op
from optcc.ir.rewrite import Rule
from optcc.passes.fuse._siblings import LINEARS, merge, why_not_together
from optcc.pm.contract import Contract, tolerance
from optcc.pm.passes import RewritePass

# kind -> the activation's pattern around its operand
_KINDS: dict[str, Callable[[Pattern], Op]] = {
    "silu": lambda x: op("aten.silu.default", x, name="act"),
    "gelu": lambda x: op("aten.gelu.default", x, "none", name="act"),
    "gelu_tanh": lambda x: op("aten.gelu.default", x, "tanh", name="act"),
    "relu": lambda x: op("aten.relu.default", x, name="act"),
}


def _read_once(match: Match, *roles: str) -> str | None:
    for role in roles:
        node = match.node(role)
        if len(node.users) != 1:
            return f"the {role} %{node.name} is used {len(node.users)} times"
    return None


def _check_pair(match: Match) -> str | None:
    gate, up = match.node("gate"), match.node("up")
    if why := _read_once(match, "gate", "act", "up"):
        return why
    if why := why_not_together([gate, up]):
        return why
    sizes = [int(n.meta["val"].shape[-1]) for n in (gate, up)]
    return None if sizes[0] == sizes[1] else f"gate and up have {sizes[0]} and {sizes[1]} channels"


def _check_halves(match: Match) -> str | None:
    if why := _read_once(match, "act"):
        return why
    if len(match.node("split").users) != 2:
        return "other parts of the split are read too"
    whole = match.node("x").meta["val"]
    if match["dim"] % whole.dim() != whole.dim() - 1:
        return "the split is not along the last dimension"
    sizes = list(match["sizes"])
    return None if len(sizes) == 2 and sizes[0] == sizes[1] else f"the parts are {sizes}, not two halves"


def _rules(kind: str, activation: Callable[[Pattern], Op]) -> tuple[Rule, Rule]:
    gated = torch.ops.optcc.gated_activation.default

    def pair(match: Match, build: Builder) -> fx.Node:
        gate, up = match.node("gate"), match.node("up")
        both = merge(Builder(build.module, min(gate, up), source=gate), [gate, up])
        return build.call(gated, both, kind)

    def halves(match: Match, build: Builder) -> fx.Node:
        return build.call(gated, match.node("x"), kind)

    split = op("aten.split_with_sizes.default", Var("x"), Const("sizes"), Const("dim"), name="split")
    projections = activation(op(LINEARS, ..., name="gate")), op(LINEARS, ..., name="up")
    return (
        Rule(f"gated-{kind}", op("aten.mul.Tensor", *projections), pair, _check_pair),
        Rule(
            f"gated-{kind}-split",
            op("aten.mul.Tensor", activation(op("getitem", split, 0)), op("getitem", split, 1)),
            halves,
            _check_halves,
        ),
    )


@dataclass(frozen=True)
class GatedMlp(RewritePass):
    """`act(linear(x, wg)) * linear(x, wu)` becomes `gated_activation(linear(x, [wg; wu]), act)`.

    SwiGLU, GeGLU (both gelus) and ReGLU, on plain and quantized linears; where a model stores both
    projections as one weight (Phi3), the split goes. A missing bias becomes zeros if the other linear has
    one.

    Before: canonical; dequantized weights are quantized linears (fuse.dequant-linear). After: one linear per
    gated layer; its weight is called like `…mlp.gate_up_proj.weight`. Values are equal up to the order of
    summation of the linear.
    """

    contract: ClassVar[Contract] = tolerance()

    rules: ClassVar[tuple[Rule, ...]] = tuple(
        rule for kind, act in _KINDS.items() for rule in _rules(kind, act)
    )
