"""Fold batch normalization, which in inference is one multiplication and one addition per channel.

Ioffe & Szegedy, "Batch Normalization" (2015), section 3.1; folding as in Jacob et al., "Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2018), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from optcc.ir.builder import Builder
from optcc.ir.pattern import Const, Match, Op, Pattern, Var, Weight, either, op
from optcc.ir.rewrite import Rule
from optcc.passes.canonicalize._types import aten, dtype, rank
from optcc.pm.contract import Contract, tolerance
from optcc.pm.passes import RewritePass

_STATISTICS = (either(None, Weight("gamma")), either(None, Weight("beta")), Weight("mean"), Weight("var"))
_CONVS = "aten.conv1d.default | aten.conv2d.default | aten.conv3d.default"


def _norms(x: Pattern) -> tuple[Op, Op]:
    """Both spellings of a batch norm with running statistics, of the value `x`."""
    functional = op("aten.batch_norm.default", x, *_STATISTICS, False, Const("momentum"), Const("eps"), ...)
    native = op(
        "aten._native_batch_norm_legit_no_training.default", x, *_STATISTICS, Const("momentum"), Const("eps")
    )
    return functional, op("getitem", native, 0)


def _affine(match: Match, build: Builder) -> tuple[Tensor, Tensor]:
    """`y = x * scale + shift` per channel, f64[C] both."""

    def read(name: str) -> Tensor | None:
        node = match.values.get(name)
        return None if node is None else build.module.weights[str(node.target)].to(torch.float64)

    gamma, beta, mean, var = (read(name) for name in ("gamma", "beta", "mean", "var"))
    assert mean is not None
    assert var is not None
    scale = torch.rsqrt(var + float(match["eps"]))
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale
    return scale, shift if beta is None else shift + beta


def _check_fold(match: Match) -> str | None:
    product = match.node("product")
    if len(product.users) > 1:
        return f"%{product.name} is read by others too"
    if match["b"] is not None and match["b"].op != "get_attr":
        return "the bias is computed"
    if dtype(match.root) != dtype(match.node("w")):
        return "the norm computes in another type than the weight has"
    return None


def _check_linear(match: Match) -> str | None:
    if rank(match.root) != 2:
        return "the normalized channels are not the linear's outputs"
    return _check_fold(match)


def _fold(match: Match, build: Builder) -> fx.Node:
    """The product again with its rows scaled; weights keep their names where nobody else reads them."""
    product, w, b = match.node("product"), match.node("w"), match["b"]
    scale, shift = _affine(match, build)
    weights = build.module.weights
    old = weights[str(w.target)]
    rows = old.to(torch.float64) * scale.reshape(-1, *[1] * (old.dim() - 1))
    if b is not None:
        shift = shift + weights[str(b.target)].to(torch.float64) * scale
    name = str(w.target)
    stem = name.removesuffix("weight")
    bias_name = str(b.target) if b is not None else f"{stem}bias" if stem != name else f"{name}.bias"
    new_w = _replace(build, w, name, rows.to(old.dtype))
    new_b = _replace(build, b, bias_name, shift.to(old.dtype))
    assert callable(product.target)
    return build.call(product.target, product.args[0], new_w, new_b, *product.args[3:], **product.kwargs)


def _replace(build: Builder, node: fx.Node | None, name: str, value: Tensor) -> fx.Node:
    """A weight with a new value, under its old name if this is its only reader."""
    readers = [u for g in build.module.graphs.values() for n in g.nodes if n.target == name for u in n.users]
    if node is None or len(readers) > 1:
        return build.new_weight(name, value)
    build.module.weights.put(name, value)
    return node


def _alone(match: Match, build: Builder) -> fx.Node:
    """`x * scale + shift` with one number per channel."""
    x = match.node("x")
    across = [-1, *[1] * (rank(x) - 2)]
    mean = str(match.node("mean").target)
    stem = mean.removesuffix("running_mean").removesuffix("mean") or f"{mean}."
    factors = [
        build.new_weight(f"{stem}{part}", value.to(dtype(x)).reshape(across))
        for part, value in zip(("factor", "shift"), _affine(match, build), strict=True)
    ]
    return build.call(aten.add.Tensor, build.call(aten.mul.Tensor, x, factors[0]), factors[1])


_CONV = op(_CONVS, Var("input"), Weight("w"), Var("b"), ..., name="product")
_LINEAR = op("aten.linear.default", Var("input"), Weight("w"), Var("b"), name="product")


@dataclass(frozen=True)
class BatchNorm(RewritePass):
    """`batch_norm(conv(x, w, b))` becomes `conv(x, w s, (b - mean) s + beta)` with `s = gamma / sqrt(var + eps)`.

    Likewise for a linear over [B, C]. A batch norm after anything else becomes `x * s + (beta - mean s)`, two weights
    that broadcast over the channels. Computed in float64, stored in the weights' own type.

    Before: convolutions are `aten.conv*d.default`, linears `aten.linear`. After: no batch norm with running statistics
    is left; folded weights keep their names where nothing else reads them.
    """

    contract: ClassVar[Contract] = tolerance()

    rules: ClassVar[tuple[Rule, ...]] = (
        *(Rule("conv-batch-norm", norm, _fold, _check_fold) for norm in _norms(_CONV)),
        *(Rule("linear-batch-norm", norm, _fold, _check_linear) for norm in _norms(_LINEAR)),
        *(Rule("batch-norm", norm, _alone) for norm in _norms(Var("x"))),
    )
