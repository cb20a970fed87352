"""Run a graph over several batches at once, node by node, and take it up again in the middle.

Where `interpret` runs one batch to the end, a replay runs each node for all batches before the next one. What depends on
weights alone (a dequantized weight) is computed once for all batches, and at any node the live values are those of all
batches: a variant of the module that differs only from there on is replayed from them instead of from the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from optcc.errors import PreconditionFailed
from optcc.ir.interpret import last_uses, run_node
from optcc.ir.module import Module

Batch = Mapping[str, Tensor]
Live = Mapping[str, Sequence[Any]]
"""Values that are still needed, by the node's name: one per batch."""
Visit = Callable[[fx.Node, Live], None]
"""Told which node runs next, and what is live before it."""


def replay(
    module: Module,
    batches: Sequence[Batch],
    output: str,
    *,
    given: Live | None = None,
    visit: Visit | None = None,
) -> list[Tensor]:
    """One result of the main graph for every batch.

    Args:
        module: not changed.
        batches: a tensor for every input, by name.
        output: which result.
        given: values of nodes by name, which are taken instead of being computed; nodes that only they need don't run.
        visit: sees the live values before each node that runs.

    Raises:
        PreconditionFailed: there is no such result.
    """
    names = module.output_names()
    if output not in names:
        raise PreconditionFailed(
            f"the model has no result {output!r}, only {', '.join(names)}", hint="this pass is for decoders"
        )
    results = module.graph.output_node().args[0]
    assert isinstance(results, tuple)
    wanted = results[names.index(output)]
    assert isinstance(wanted, fx.Node)
    live: dict[str, Sequence[Any]] = dict(given or {})
    runs = _needed(wanted, live)
    last, varying = last_uses(module.graph), _varying(module.graph)
    with torch.no_grad():
        for node in module.graph.nodes:
            if node not in runs:
                continue
            if visit is not None:
                visit(node, live)
            live[node.name] = _values(module, node, live, batches, shared=node not in varying)
            for done in last.get(node, ()):
                if done is not wanted:
                    live.pop(done.name, None)
    return list(live[wanted.name])


def _values(
    module: Module, node: fx.Node, live: Live, batches: Sequence[Batch], *, shared: bool
) -> Sequence[Any]:
    def value(lane: int) -> Any:
        operands = {n: live[n.name][lane] for n in node.all_input_nodes}
        return run_node(module, node, operands, batches[lane])

    return [value(0)] * len(batches) if shared else [value(lane) for lane in range(len(batches))]


def _needed(wanted: fx.Node, given: Live) -> set[fx.Node]:
    """The nodes that must run: given ones and what only they need are left out."""
    found: set[fx.Node] = set()
    pending = [wanted]
    while pending:
        node = pending.pop()
        if node not in found and node.name not in given:
            found.add(node)
            pending.extend(node.all_input_nodes)
    return found


def _varying(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose values depend on an input."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(n in found for n in node.all_input_nodes):
            found.add(node)
    return found
