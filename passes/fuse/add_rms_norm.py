"""Do the residual addition and the norm after it in one operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.pattern import Const, Match, Var, Weight, op
from optcc.ir.rewrite import Rule
from optcc.passes.canonicalize._types import is_tensor, same_type
from optcc.pm.contract import EXACT, Contract
from optcc.pm.passes import RewritePass


def _check(match: Match) -> str | None:
    x, residual, total = match["x"], match["residual"], match.node("sum")
    for side in (x, residual):
        if not is_tensor(side):
            return f"{side!r} is added, which is no tensor"
        if not same_type(side, total):
            return f"%{side.name} is broadcast or converted by the addition"
    return None


def _fuse(match: Match, build: Builder) -> Mapping[str, fx.Node]:
    """Stands where the sum stood: others may read the sum before the norm is due."""
    total = match.node("sum")
    early = Builder(build.module, total, source=match.root)
    operands = (match.node("x"), match.node("residual"), match.node("w"), match["eps"])
    pair = early.call(torch.ops.optcc.add_rms_norm.default, *operands)
    norm = early.item(pair, 0)
    return {"root": norm, "sum": Builder(build.module, total).item(pair, 1)}


@dataclass(frozen=True)
class AddRmsNorm(RewritePass):
    """`s = x + r; y = rms_norm(s, w)` becomes `(y, s) = add_rms_norm(x, r, w)`.

    Before: canonical. After: no rms_norm reads a sum of two tensors of its own type. In architectures that
    normalize before they add (OLMo2, the post-norms of Gemma), only the norms that directly follow an
    addition are fused. Values are bit-identical.
    """

    contract: ClassVar[Contract] = EXACT

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "add-rms-norm",
            op(
                "optcc.rms_norm.default",
                op("aten.add.Tensor", Var("x"), Var("residual"), name="sum"),
                Weight("w"),
                Const("eps"),
            ),
            _fuse,
            _check,
        ),
    )
