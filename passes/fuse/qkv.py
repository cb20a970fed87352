"""Compute query, key and value with one linear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.module import Module, source_of
from optcc.ir.rewrite import NearMiss
from optcc.ir.text import target_name
from optcc.passes.fuse._siblings import LINEARS, merge, why_not_together
from optcc.pm.context import Context
from optcc.pm.contract import Contract, tolerance
from optcc.pm.passes import Pass

_ATTENTIONS = {
    "optcc.attention.default",
    "optcc.masked_attention.default",
    "optcc.paged_attention.default",
    "aten.scaled_dot_product_attention.default",
}
# What may stand between a linear and attention, with the linear's value as the first operand.
_BETWEEN = {
    "aten.reshape.default",
    "aten.transpose.int",
    "aten.permute.default",
    "aten.unsqueeze.default",
    "aten.squeeze.dim",
    "aten.mul.Tensor",
    "aten.div.Tensor",
    "aten._to_copy.default",
    "getitem",
    "optcc.dequantize.default",
    "optcc.quantize_activation.default",
    "optcc.rope.default",
    "optcc.rms_norm.default",
    "aten.layer_norm.default",
}


@dataclass(frozen=True)
class Qkv(Pass):
    """`linear(x, wq), linear(x, wk), linear(x, wv)` become pieces of `linear(x, [wq; wk; wv])`.

    For linears (quantized ones of equal format too) of one input that feed one attention. A missing bias
    becomes zeros if another has one. Weights that others read too are left alone.

    Before: canonical; dequantized weights are quantized linears (fuse.dequant-linear). After: one linear and
    one `split_with_sizes` per attention; the stacked weight is called like `…self_attn.qkv_proj.weight`.
    Values are equal up to the order of summation of the linear.
    """

    contract: ClassVar[Contract] = tolerance()

    def run(self, module: Module, ctx: Context) -> bool:
        """One attention after another; only one layer's weights are in memory at a time."""
        ctx.rewrites.hits["qkv"] = 0
        for node in list(module.nodes()):
            if target_name(node) not in _ATTENTIONS:
                continue
            for linears in _by_input(_sources(node)):
                if why := why_not_together(linears):
                    ctx.rewrites.misses.append(NearMiss("qkv", node.name, why, source_of(node), len(linears)))
                    continue
                _fuse(module, linears)
                ctx.rewrites.hits["qkv"] += 1
                module.tidy()
        return ctx.rewrites.hits["qkv"] > 0


def _sources(attention: fx.Node) -> Iterator[fx.Node]:
    """The linears that make query, key and value."""
    for value in attention.args[:3]:
        while isinstance(value, fx.Node) and target_name(value) in _BETWEEN:
            value = value.args[0]
        if isinstance(value, fx.Node) and target_name(value) in LINEARS.split(" | "):
            yield value


def _by_input(linears: Iterator[fx.Node]) -> list[list[fx.Node]]:
    """Groups of at least two that read the same value."""
    groups: dict[fx.Node, list[fx.Node]] = {}
    for linear in linears:
        x = linear.args[0]
        assert isinstance(x, fx.Node)
        if linear not in groups.setdefault(x, []):
            groups[x].append(linear)
    return [group for group in groups.values() if len(group) > 1]


def _fuse(module: Module, linears: list[fx.Node]) -> None:
    first = min(linears)
    build = Builder(module, first)
    sizes = [int(linear.meta["val"].shape[-1]) for linear in linears]
    whole = merge(build, linears)
    last = len(whole.meta["val"].shape) - 1
    pieces = build.call(torch.ops.aten.split_with_sizes.default, whole, sizes, last)
    parts = [Builder(module, first, source=linear).item(pieces, i) for i, linear in enumerate(linears)]
    for linear, part in zip(linears, parts, strict=True):
        linear.replace_all_uses_with(part)
        linear.graph.erase_node(linear)
