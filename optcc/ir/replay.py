"""Run a graph over several batches at once, node by node, and take it up again in the middle.

Where `interpret` runs one batch to the end, a replay runs each node for all batches before the next one. What depends
on weights alone (a dequantized weight) is computed once for all batches, and at any node the live values are those of
all batches: a variant of the module that differs only from there on is replayed from them instead of from the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from optcc.errors import PreconditionFailed
from optcc.ir.interpret import last_uses, run_node, varying
from optcc.ir.module import Module

Batch = Mapping[str, Tensor]
Live = Mapping[str, Sequence[Any]]
"""Values that are still needed, by the node's name: one per batch."""
Visit = Callable[[fx.Node, Live], None]
"""Told which node runs next, and what is live before it."""


def result(module: Module, name: str) -> fx.Node:
    """The node of the main graph that makes a result.

    Raises:
        PreconditionFailed: there is no such result.
    """
    names = module.output_names()
    if name not in names:
        raise PreconditionFailed(
            f"the model has no result {name!r}, only {', '.join(names)}", hint="this pass is for decoders"
        )
    results = module.graph.output_node().args[0]
    assert isinstance(results, tuple)
    node = results[names.index(name)]
    assert isinstance(node, fx.Node)
    return node


def replay(
    module: Module,
    batches: Sequence[Batch],
    wanted: Sequence[fx.Node],
    *,
    given: Live | None = None,
    visit: Visit | None = None,
) -> list[list[Tensor]]:
    """Values of nodes of the main graph: for each wanted node one per batch.

    Args:
        module: not changed.
        batches: a tensor for every input, by name.
        wanted: nodes; what none of them needs doesn't run.
        given: values of nodes by name, which are taken instead of being computed.
        visit: sees the live values before each node that runs.
    """
    live: dict[str, Sequence[Any]] = dict(given or {})
    runs = _needed(wanted, live)
    last, by_batch = last_uses(module.graph.nodes), varying(module.graph.nodes)
    with torch.no_grad():
        for node in module.graph.nodes:
            if node not in runs:
                continue
            if visit is not None:
                visit(node, live)
            live[node.name] = _values(module, node, live, batches, shared=node not in by_batch)
            for done in last.get(node, ()):
                if done not in wanted:
                    live.pop(done.name, None)
    return [list(live[node.name]) for node in wanted]


def _values(
    module: Module, node: fx.Node, live: Live, batches: Sequence[Batch], *, shared: bool
) -> Sequence[Any]:
    def value(lane: int) -> Any:
        operands = {n: live[n.name][lane] for n in node.all_input_nodes}
        return run_node(module, node, operands, batches[lane])

    return [value(0)] * len(batches) if shared else [value(lane) for lane in range(len(batches))]


def _needed(wanted: Sequence[fx.Node], given: Live) -> set[fx.Node]:
    """The nodes that must run: given ones and what only they need are left out."""
    found: set[fx.Node] = set()
    pending = list(wanted)
    while pending:
        node = pending.pop()
        if node not in found and node.name not in given:
            found.add(node)
            pending.extend(node.all_input_nodes)
    return found
