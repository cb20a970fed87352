"""Linears that read each other become one operator, `optcc.QuantizedLinears`: its threads are started once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from optcc.backends.onnxruntime.native import DOMAIN

if TYPE_CHECKING:
    import onnx_ir as ir

LINEAR, LINEARS = "QuantizedLinear", "QuantizedLinears"
MOST = 4
"""Linears in one operator."""
EACH = 5
"""Inputs of a linear: x, table, bias, norm_weight, residual."""
RESIDUAL = 4
ROWS = {0: "x_from", RESIDUAL: "residual_from"}
"""Inputs that another linear may make, and the attributes that say so."""


def member(index: int) -> str:
    """What stands behind the names of one linear's attributes."""
    return f"_{index}" if index else ""


def owners(name: str) -> list[str]:
    """The linears of an operator, by its name: what their nodes are called in the program."""
    return name.partition("/")[0].split("+")


def chain(nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> list[ir.Node]:
    """The same graph with runs of linears joined.

    A linear joins the one whose product it alone reads, when all else that it reads is there before the first of them
    starts, and nothing but they reads a sum of theirs, the last one's apart. Behind one that flattens its results none
    follows: all of a run have rows of one shape.

    Args:
        nodes: all of the graph, in an order in which they can run; a run's operator takes the place of its last one.
        outputs: of the graph.
    """
    graph = _Graph(nodes, outputs)
    runs: dict[int, list[ir.Node]] = {}  # by the id of the last linear so far
    for node in nodes:
        if node.domain != DOMAIN or node.op_type != LINEAR:
            continue
        before = next((made for made in graph.read_alone(node) if id(made) in runs), None)
        if before is not None and graph.can_follow(runs[id(before)], node):
            runs[id(node)] = [*runs.pop(id(before)), node]
        else:
            runs[id(node)] = [node]
    long = [run for run in runs.values() if len(run) > 1]
    gone = {id(node) for run in long for node in run[:-1]}
    joined = {id(run[-1]): _join(run) for run in long}
    return [joined.get(id(node), node) for node in nodes if id(node) not in gone]


class _Graph:
    """Who comes after whom, and who reads what; nodes that nothing needs apart."""

    def __init__(self, nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> None:
        self._place = {id(node): index for index, node in enumerate(nodes)}
        self._readers: dict[int, list[int]] = {id(value): [len(nodes)] for value in outputs}
        for index, node in enumerate(nodes):
            for value in node.inputs:
                if value is not None:
                    self._readers.setdefault(id(value), []).append(index)

    def read_alone(self, node: ir.Node) -> Iterator[ir.Node]:
        """Those whose first result is a row of this linear's, and nobody else's."""
        for port in ROWS:
            value = node.inputs[port] if port < len(node.inputs) else None
            made = None if value is None else value.producer()
            if made is not None and value is made.outputs[0] and len(self._readers[id(value)]) == 1:
                yield made

    def can_follow(self, run: Sequence[ir.Node], node: ir.Node) -> bool:
        """Whether a linear can run right behind others, before anything else does."""
        if any("flatten" in one.attributes for one in run):
            return False
        whole = [*run, node]
        places = {self._place[id(one)] for one in whole}
        first, last = min(places), max(places)
        for value in node.inputs:
            made = None if value is None else value.producer()
            if made is not None and first < self._place[id(made)] and self._place[id(made)] not in places:
                return False
        totals = [one.outputs[1] for one in whole if len(one.outputs) > 1]
        inside = [set(self._readers.get(id(total), ())) <= places for total in totals]
        later = [min(set(self._readers.get(id(t), ())) - places, default=last) >= last for t in totals]
        return len(whole) <= MOST and all(inside[:-1]) and all(later)


def _join(run: Sequence[ir.Node]) -> ir.Node:
    """One operator in place of several; its results are theirs."""
    import onnx_ir as ir

    names: dict[int, str] = {}  # of results, as a later linear calls them
    inputs: list[ir.Value | None] = []
    attributes: list[ir.Attr] = [ir.AttrInt64("linears", len(run))]
    total: ir.Value | None = None
    for index, node in enumerate(run):
        suffix = member(index)
        given = [*node.inputs, *[None] * (EACH - len(node.inputs))]
        attributes += [ir.Attr(f"{a.name}{suffix}", a.type, a.value) for a in node.attributes.values()]
        for port, name in ROWS.items():
            value = given[port]
            if value is None:
                continue
            source = names.get(id(value), "input")
            attributes.append(ir.AttrString(f"{name}{suffix}", source))
            if source != "input":
                given[port] = None
        inputs += given
        names[id(node.outputs[0])] = "y"
        if len(node.outputs) > 1:
            total = node.outputs[1]
            names[id(total)] = f"total{index}"
    while inputs[-1] is None:
        inputs.pop()
    results = [run[-1].outputs[0]] + ([] if total is None else [total])
    name = "+".join(str(node.name).partition("/")[0] for node in run)
    made = ir.Node(
        DOMAIN, LINEARS, inputs, attributes, num_outputs=max(1, len(results)), name=f"{name}/{LINEARS}"
    )
    for old, new in zip(results, made.outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
        old.replace_all_uses_with(new)
    return made
