"""A canonical graph as an `nn.Module` whose linears are `nn.Linear` modules, for tools that look for those.

    view = GraphView(module, find_siblings(selected))
    some_tool(view)  # finds nn.Linear modules called as in the user's model, changes or wraps them
    view(**batch)  # runs the graph with what the tool left
    view.weight("model.layers.0.mlp.down_proj.weight")

Everything else in the graph is executed as it is. The module itself is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from optcc.quant.siblings import Siblings


@dataclass(frozen=True)
class Part:
    """Where a weight of the graph is in the view: rows of the linear module at `path`."""

    path: str
    rows: slice


class GraphView(nn.Module):
    """One graph of a module, without gradients.

    A weight `a.b.weight` becomes the module `a.b`. Siblings become one linear over their stacked rows, so that a tool
    that looks for a factor on the channels of its input finds one for all of them; it is called like
    `a.q_proj_k_proj_v_proj`.

    Single weights are memory-mapped: nothing is read before it is used, and a tool that writes in place writes to
    private pages. What an embedding reads of a tied weight is the linear's tensor.

    Args:
        module: canonical; not changed.
        groups: the linears to show as modules.
        graph: which graph.
    """

    def __init__(self, module: Module, groups: Sequence[Siblings], *, graph: str = "model") -> None:
        super().__init__()
        self._source = module
        self._graph = graph
        self._calls: dict[fx.Node, Callable[..., Any]] = {}
        self._waiting: dict[fx.Node, Tensor] = {}
        self.groups = tuple(groups)
        self.parts: dict[str, Part] = {}
        for group in groups:
            self._show(group)

    def _show(self, group: Siblings) -> None:
        weights = [self._source.weights[name] for name in group.weights]
        joined = weights[0] if len(weights) == 1 else torch.cat(weights)
        biases = _biases(self._source, group, [len(w) for w in weights])
        path = self._place(_joined_path(group.weights))
        linear = nn.Linear(joined.shape[1], joined.shape[0], bias=biases is not None, device="meta")
        linear.weight = nn.Parameter(joined, requires_grad=False)
        if biases is not None:
            linear.bias = nn.Parameter(biases, requires_grad=False)
        parent, _, name = path.rpartition(".")
        self._container(parent).add_module(name, linear)
        first = 0
        for name, weight in zip(group.weights, weights):
            self.parts[name] = Part(path, slice(first, first + len(weight)))
            first += len(weight)
            self._calls[self._source.weight_node(group.linears[0].graph, name)] = lambda n=name: self.weight(
                n
            )
        for linear_node in group.linears:
            self._calls[linear_node] = self._runner(group, linear_node, path, biases is not None)

    def _runner(self, group: Siblings, node: fx.Node, path: str, biased: bool) -> Callable[..., Tensor]:
        """What runs in place of a linear: the module, once for all siblings."""

        def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            if node not in self._waiting:
                whole: Tensor = self.get_submodule(path)(x)
                rows = [self.parts[name].rows for name in group.weights]
                siblings = group.linears if len(rows) > 1 else (node,)
                self._waiting.update({n: whole[..., r] for n, r in zip(siblings, rows)})
            part = self._waiting.pop(node)
            return part if biased or bias is None else part + bias

        return run

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the graph: its inputs by name, as tools call models; its results by name."""
        self._waiting.clear()
        return interpret(self._source, inputs, graph=self._graph, calls=self._calls)

    def linear(self, name: str) -> nn.Linear:
        """The linear module that holds a weight, alone or with its siblings."""
        found = self.get_submodule(self.parts[name].path)
        assert isinstance(found, nn.Linear)
        return found

    def weight(self, name: str) -> Tensor:
        """A weight as it is now, [O, K]."""
        return self.linear(name).weight.detach()[self.parts[name].rows]

    def release(self, name: str) -> None:
        """Drop the tensors of the linear that holds a weight, so that the memory of what was changed is free again."""
        self.linear(name).weight = nn.Parameter(torch.empty(0), requires_grad=False)

    def _place(self, path: str) -> str:
        """The path, changed where a part of it is something else already: an attribute, or a linear."""
        parts: list[str] = []
        here: nn.Module = self
        for part in path.split("."):
            while isinstance(child := getattr(here, part, None), nn.Linear) or (
                child is not None and not isinstance(child, nn.Module)
            ):
                part += "_"
            parts.append(part)
            here = child if child is not None else nn.Module()
        while isinstance(getattr(self._container(".".join(parts[:-1])), parts[-1], None), nn.Module):
            parts[-1] += "_"
        return ".".join(parts)

    def _container(self, path: str) -> nn.Module:
        here: nn.Module = self
        for part in path.split(".") if path else ():
            if not hasattr(here, part):
                here.add_module(part, nn.Module())
            here = getattr(here, part)
        return here


def _joined_path(names: Sequence[str]) -> str:
    """`a.b.weight` -> `a.b`; several of one parent: `a.q_proj_k_proj`."""
    paths = [name.removesuffix(".weight") for name in names]
    parent = paths[0].rpartition(".")[0]
    last = "_".join(path.rpartition(".")[2] for path in paths)
    return f"{parent}.{last}" if parent else last


def _biases(module: Module, group: Siblings, rows: Sequence[int]) -> Tensor | None:
    """The bias of the group's linear; None without one, and where it is computed or may differ between uses."""
    nodes = [linear.args[2] if len(linear.args) > 2 else None for linear in group.linears]
    given = [n for n in nodes if isinstance(n, fx.Node)]
    if not given or len(nodes) > len(rows) or not all(module.is_weight(n) for n in given):
        return None
    kind = given[0].meta["val"].dtype
    parts = [
        module.weights[str(n.target)] if isinstance(n, fx.Node) else torch.zeros(count, dtype=kind)
        for n, count in zip(nodes, rows)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
