"""Compute equal things once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from optcc.ir.module import Module, has_effect
from optcc.ir.text import show_arg, target_name
from optcc.passes.canonicalize._types import aten, expression
from optcc.pm.context import Context
from optcc.pm.contract import EXACT, Contract
from optcc.pm.passes import Pass


@dataclass(frozen=True)
class Duplicates(Pass):
    """Calls of the same operator with the same operands become the first of them.

    Sizes are equal when their expressions are, whatever tensor they were read from. Operators that change an
    operand or draw random numbers are left alone.

    Before: anything. After: no two such calls are equal; values are bit-identical.
    """

    contract: ClassVar[Contract] = EXACT

    def run(self, module: Module, ctx: Context) -> bool:
        """One forward walk over every graph; operands are already unique when a call is looked up."""
        removed = sum(_merge(graph) for graph in module.graphs.values())
        if removed:
            ctx.note(f"{removed} duplicates removed")
        return removed > 0


def _merge(graph: fx.Graph) -> int:
    first: dict[str, fx.Node] = {}
    removed = 0
    for node in list(graph.nodes):
        if node.op != "call_function" or not _repeatable(node):
            continue
        known = first.setdefault(_key(node), node)
        if known is not node:
            node.replace_all_uses_with(known)
            graph.erase_node(node)
            removed += 1
    return removed


def _repeatable(node: fx.Node) -> bool:
    target = node.target
    random = isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags
    return not random and not has_effect(node)


def _key(node: fx.Node) -> str:
    value = node.meta["val"]
    if node.target is aten.sym_size.int and isinstance(value, torch.SymInt):
        return f"size {expression(value)}"
    args = ", ".join(show_arg(a) for a in node.args)
    kwargs = ", ".join(f"{k}={show_arg(v)}" for k, v in sorted(node.kwargs.items()))
    return f"{target_name(node)}({args}; {kwargs})"
