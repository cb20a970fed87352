"""Insert nodes: every node gets its type from its operands and its source line from the node it replaces."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

import optcc.ir.ops  # noqa: F401 - registers the operators that rules build
from optcc.ir.module import Module


class Builder:
    """Makes nodes before one place of a graph.

    Args:
        module: the module changed.
        before: new nodes stand before this one.
        source: the node they replace, whose source line they inherit; `before` when omitted.
    """

    def __init__(self, module: Module, before: fx.Node, source: fx.Node | None = None) -> None:
        self.module = module
        self.before = before
        self.source = source if source is not None else before
        self.graph: fx.Graph = before.graph

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A call of an operator.

        Raises:
            IRCheckFailed: the operands don't fit.
        """
        with self.graph.inserting_before(self.before):
            node = self.graph.create_node("call_function", target, args, kwargs, name=_short_name(target))
        for operand in node.all_input_nodes:
            # A module read from text makes its weights where they are first read, which may be further down.
            if operand.op == "get_attr" and node < operand:
                next(iter(self.graph.nodes)).prepend(operand)
        if source := self.source.meta.get("source"):
            node.meta["source"] = source
        self.module.infer(node)
        return node

    def item(self, value: fx.Node, index: int) -> fx.Node:
        """One element of a tuple."""
        return self.call(operator.getitem, value, index)

    def weight(self, name: str) -> fx.Node:
        """The node that reads a weight."""
        return self.module.weight_node(self.graph, name)

    def new_weight(self, name: str, tensor: Tensor) -> fx.Node:
        """Store a new weight (the name is made unique) and read it."""
        unique, suffix = name, 1
        while unique in self.module.weights:
            suffix += 1
            unique = f"{name}.{suffix}"
        self.module.weights.put(unique, tensor)
        return self.weight(unique)

    def reshape(self, value: fx.Node, shape: list[Any]) -> fx.Node:
        """`aten.reshape`."""
        return self.call(torch.ops.aten.reshape.default, value, shape)


def _short_name(target: Callable[..., Any]) -> str:
    """What a node is called before numbers make it unique: `linear` for `aten.linear.default`."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name.split("::")[1])
    return target.__name__
