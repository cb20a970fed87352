"""Free shapes from size arithmetic: numbers where sizes are known, -1 where one is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from optcc.ir.module import Module
from optcc.ir.types import show_type
from optcc.passes.canonicalize._types import aten, expression, is_static, shape
from optcc.pm.context import Context
from optcc.pm.contract import EXACT, Contract
from optcc.pm.passes import Pass


@dataclass(frozen=True)
class Shapes(Pass):
    """Sizes that types tell become numbers; a reshape's one unknown size and an expansion's kept ones, -1.

    `reshape(x, [1, %t, -1, 64])` becomes `reshape(x, [1, -1, 16, 64])`, after which nobody reads `%t`. Where
    several sizes are symbolic, the first is -1 and the others are read.

    Before: reshape is the only spelling of views. After: no operand is a size that is known; dead size
    arithmetic is erased. Types and values don't change.
    """

    contract: ClassVar[Contract] = EXACT

    def run(self, module: Module, ctx: Context) -> bool:
        """One walk; operands are changed in place, and put back if inference would give another type."""
        changed = False
        for node in module.nodes():
            if node.op == "call_function":
                changed |= _rewrite(module, node)
        if changed:
            module.tidy()
        return changed


def _rewrite(module: Module, node: fx.Node) -> bool:
    before = node.args
    args: Any = fx.map_arg(before, _known)
    if node.target is aten.reshape.default:
        args = (args[0], _reshape_sizes(node, list(args[1])))
    elif node.target is aten.expand.default:
        args = (args[0], _expand_sizes(node, list(args[1])), *args[2:])
    if repr(args) == repr(before):
        return False
    node.args = args
    if show_type(module.inference.infer(node), module.dims) != show_type(node.meta["val"], module.dims):
        node.args = before
        return False
    return True


def _known(node: fx.Node) -> Any:
    """The number a size node stands for, if its type tells."""
    value = node.meta["val"]
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, torch.SymInt) and isinstance(number := _number(value), int):
        return number
    return node


def _number(value: torch.SymInt) -> object:
    found = expression(value)
    return int(found) if getattr(found, "is_Integer", False) else found  # type: ignore[call-overload]


def _reshape_sizes(node: fx.Node, given: list[Any]) -> list[Any]:
    """The result's sizes: numbers, and -1 for the first symbolic one."""
    sizes = [d if is_static(d) else given[i] for i, d in enumerate(shape(node))]
    symbolic = [i for i, d in enumerate(shape(node)) if not is_static(d)]
    inferred = [i for i in symbolic if given[i] == -1] or symbolic[:1]
    return [-1 if i in inferred[:1] else size for i, size in enumerate(sizes)]


def _expand_sizes(node: fx.Node, given: list[Any]) -> list[Any]:
    """The result's sizes: -1 for those the operand has already."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    new = len(shape(node)) - len(shape(source))
    sizes = []
    for i, size in enumerate(shape(node)):
        kept = i >= new and expression(shape(source)[i - new]) == expression(size)
        sizes.append(-1 if kept else size if is_static(size) else given[i])
    return sizes
