"""Which weights must be stored alike: those that read the same value.

Query, key and value, or gate and up, become one linear later, which takes one format; and what they read is quantized
once for all of them. A weight that is read in several places joins all it stands beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx

from optcc.quant.select import Selected
from optcc.recipe.schemes import Scheme


@dataclass(frozen=True)
class Unit:
    """Weights that get one scheme.

    Attributes:
        name: of them all, as in `model.layers.0.self_attn.{k,q,v}_proj.weight`.
        members: in the order of the graph.
    """

    name: str
    members: tuple[Selected, ...]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """[O, K] of every member."""
        return [m.shape for m in self.members]

    @property
    def readers(self) -> list[fx.Node]:
        """Every node that reads one of the weights."""
        return [n for m in self.members for n in (*m.linears, *m.embeddings)]

    @property
    def linears(self) -> list[fx.Node]:
        """The linears among them."""
        return [n for m in self.members for n in m.linears]

    @property
    def embeds(self) -> bool:
        """Whether an embedding reads one of the weights."""
        return any(m.embeddings for m in self.members)

    def bytes(self, scheme: Scheme) -> int:
        """What the weights take in a scheme, with scales and zero points."""
        return sum(sum(scheme.weight.bytes(*m.shape)) for m in self.members)


def make_units(selected: Sequence[Selected]) -> list[Unit]:
    """Join what must be stored alike, in the order in which the graph first reads it."""
    joined: list[list[Selected]] = []
    for item in selected:
        inputs = _inputs(item)
        near = [group for group in joined if any(inputs & _inputs(other) for other in group)]
        joined = [group for group in joined if group not in near]
        joined.append([*(other for group in near for other in group), item])
    units = [Unit(_name([s.name for s in group]), tuple(group)) for group in joined]
    order = _order(node for unit in units for node in unit.readers)
    return sorted(units, key=lambda unit: min(order[node] for node in unit.readers))


def _inputs(item: Selected) -> set[object]:
    return {linear.args[0] for linear in item.linears}


def _order(nodes: Iterable[fx.Node]) -> dict[fx.Node, int]:
    """Places in the graph."""
    graphs = dict.fromkeys(node.graph for node in nodes)
    return {node: place for graph in graphs for place, node in enumerate(graph.nodes)}


def _name(names: Sequence[str]) -> str:
    """Names as one, with what differs in braces."""
    if len(names) == 1:
        return names[0]
    start = _common(names)
    end = _common([name[len(start) :][::-1] for name in names])[::-1]
    middle = sorted(name[len(start) : len(name) - len(end)] for name in names)
    return f"{start}{{{','.join(middle)}}}{end}"


def _common(names: Sequence[str]) -> str:
    """What all names begin with."""
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:same]
