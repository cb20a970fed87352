"""Module: named fx graphs over shared weights.

Nodes are `placeholder` (inputs), `get_attr` (target: a weight's name), `call_function` (an ATen or `optcc::` operator,
`operator.getitem`, or arithmetic on dims) and one `output`. Every node has its type in `meta["val"]`, inferred from its
operands; `meta["source"]` is the line of the user's model it came from, when known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from optcc.ir.dims import Dims
from optcc.ir.infer import Inference
from optcc.ir.weights import WeightStore

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Module:
    """What a pass gets and returns.

    Attributes:
        graphs: fx graphs by name; a decoder has `model`.
        weights: all weights of all graphs.
        dims: the named dims and the fake mode of all types.
        attrs: facts that passes leave for later stages (JSON).
    """

    def __init__(self, weights: WeightStore | None = None) -> None:
        self.graphs: dict[str, fx.Graph] = {}
        self.weights = weights if weights is not None else WeightStore()
        self.dims = Dims()
        self.attrs: dict[str, Json] = {}
        self.inference = Inference(self.dims, self.weights)

    @property
    def graph(self) -> fx.Graph:
        """The main graph."""
        return self.graphs["model"]

    def nodes(self) -> Iterator[fx.Node]:
        """All nodes of all graphs, in order."""
        for graph in self.graphs.values():
            yield from graph.nodes

    def find(self, *targets: Any) -> list[fx.Node]:
        """The nodes that call one of these operators."""
        return [n for n in self.nodes() if n.op == "call_function" and n.target in targets]

    def infer(self, node: fx.Node) -> None:
        """Set the node's type from its operands.

        Raises:
            IRCheckFailed: the operands don't fit the operator.
        """
        node.meta["val"] = self.inference.infer(node)

    def weight_node(self, graph: fx.Graph, name: str) -> fx.Node:
        """The one node that reads weight `name` in `graph`; made at the top of the graph when there is none."""
        for found in graph.find_nodes(op="get_attr", target=name):
            assert isinstance(found, fx.Node)
            return found
        first = next(iter(graph.nodes))
        with graph.inserting_before(first):
            node = graph.create_node("get_attr", name, name=name.replace(".", "_"))
        self.infer(node)
        return node

    def is_weight(self, value: object) -> bool:
        """Whether an argument is a node that reads a weight."""
        return isinstance(value, fx.Node) and value.op == "get_attr"

    def tidy(self) -> bool:
        """Erase nodes without effect and weights that no graph reads; returns whether anything went."""
        changed = False
        for graph in self.graphs.values():
            changed |= _erase_dead(graph)
        used = {n.target for n in self.nodes() if n.op == "get_attr"}
        for name in [n for n in self.weights if n not in used]:
            self.weights.remove(name)
            changed = True
        return changed

    def forget_erased(self) -> None:
        """Make names of erased nodes free again.

        fx never gives a name twice, so without this the names of new nodes would depend on what was erased before, and
        a compile resumed from text would not give the same bytes as one in memory.
        """
        self.graphs = {name: copy_graph(graph) for name, graph in self.graphs.items()}

    def count(self) -> int:
        """How many operators all graphs call."""
        return sum(n.op == "call_function" for n in self.nodes())

    def weight_bytes(self) -> int:
        """Bytes of all weights as read."""
        return sum(self.weights.nbytes(name) for name in self.weights)

    def output_names(self, graph: str = "model") -> tuple[str, ...]:
        """Names of a graph's results."""
        return tuple(self.graphs[graph].output_node().meta["names"])

    def inputs(self, graph: str = "model") -> list[fx.Node]:
        """Input nodes of a graph, in order."""
        return list(self.graphs[graph].find_nodes(op="placeholder"))

    def clone(self) -> Module:
        """An equal module: graphs are copied, weights and dims shared."""
        other = Module.__new__(Module)
        other.weights = self.weights.clone()
        other.dims = self.dims
        other.attrs = dict(self.attrs)
        other.inference = Inference(self.dims, other.weights)
        other.graphs = {name: copy_graph(graph) for name, graph in self.graphs.items()}
        return other


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph with the same node names, types and sources."""
    new = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        twin = new.create_node(
            node.op,
            node.target,
            fx.map_arg(node.args, lambda n: mapping[n]),
            fx.map_arg(node.kwargs, lambda n: mapping[n]),
            name=node.name,
        )
        twin.name = node.name  # fx would rename an input called `input`
        twin.meta = dict(node.meta)
        mapping[node] = twin
    return new


def _erase_dead(graph: fx.Graph) -> bool:
    changed = False
    for node in reversed(list(graph.nodes)):
        if node.users or node.op in ("placeholder", "output") or has_effect(node):
            continue
        graph.erase_node(node)
        changed = True
    return changed


def has_effect(node: fx.Node) -> bool:
    """Whether a node changes one of its operands (a KV pool)."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def source_of(node: fx.Node) -> str | None:
    """The user's source line a node came from."""
    source = node.meta.get("source")
    return str(source) if source else None


def as_inputs(values: Mapping[str, torch.Tensor], nodes: list[fx.Node]) -> list[torch.Tensor]:
    """Named inputs in the order of the graph's input nodes."""
    return [values[str(node.target)] for node in nodes]
