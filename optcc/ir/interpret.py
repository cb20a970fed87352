"""Run any module on a CPU, node by node, with the operators' references.

This is the oracle: calibration, checks and the reference backend all use it. Values are dropped after their last use
and weights are mapped when read, so memory stays near the largest intermediate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from optcc.errors import PreconditionFailed
from optcc.ir.module import Module

Observer = Callable[[fx.Node, Any], None]
"""Called with every node and its value."""


Calls = Mapping[fx.Node, Callable[..., Any]]
"""What to call for some nodes in place of what they say."""


def interpret(
    module: Module,
    inputs: Mapping[str, Tensor],
    *,
    graph: str = "model",
    observe: Observer | None = None,
    calls: Calls | None = None,
) -> dict[str, Tensor]:
    """Run a graph.

    Args:
        module: the module; not changed, but operators that write (paged attention) change their input tensors.
        inputs: a tensor for every input, by name.
        graph: which graph.
        observe: sees each value, for probes and calibration.
        calls: for these nodes, what to call in place of the operator, with its operands, or of reading the weight,
            with nothing.

    Returns:
        The graph's results by name.

    Raises:
        PreconditionFailed: an input is missing.
    """
    nodes = module.graphs[graph].nodes
    missing = [n.name for n in module.inputs(graph) if n.name not in inputs]
    if missing:
        raise PreconditionFailed(f"graph {graph} needs the input {missing[0]}")
    last = last_uses(nodes)
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in nodes:
            if node.op == "output":
                results = fx.map_arg(node.args[0], lambda n: values[n])
                return dict(zip(module.output_names(graph), results, strict=True))
            values[node] = run_node(module, node, values, inputs, (calls or {}).get(node))
            if observe is not None:
                observe(node, values[node])
            for done in last.get(node, ()):
                values.pop(done, None)
    raise PreconditionFailed(f"graph {graph} has no output")


def run_node(
    module: Module,
    node: fx.Node,
    values: Mapping[fx.Node, Any],
    inputs: Mapping[str, Tensor],
    call: Callable[..., Any] | None = None,
) -> Any:
    """The value of one node, given those of its operands; `call` stands in for what it calls or reads."""
    if node.op == "placeholder":
        return inputs[node.name]
    if node.op == "get_attr":
        return call() if call else module.weights[str(node.target)]
    args = fx.map_arg(node.args, lambda n: values[n])
    kwargs = fx.map_arg(node.kwargs, lambda n: values[n])
    target = call or node.target
    assert callable(target)
    return target(*args, **kwargs)


def last_uses(
    nodes: Iterable[fx.Node],
    reads: Callable[[fx.Node], Iterable[fx.Node]] = lambda node: node.all_input_nodes,
) -> dict[fx.Node, list[fx.Node]]:
    """For each node, the values nobody needs after it.

    Args:
        nodes: in the order in which they run.
        reads: what a node needs; its operands, if not given.
    """
    last = {operand: node for node in nodes for operand in reads(node)}
    done: dict[fx.Node, list[fx.Node]] = {}
    for operand, node in last.items():
        done.setdefault(node, []).append(operand)
    return done


def varying(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The inputs, and what depends on them; the rest is made of weights alone."""
    found: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or any(operand in found for operand in node.all_input_nodes):
            found.add(node)
    return found
