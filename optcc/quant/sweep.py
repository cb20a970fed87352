"""Sweep: run a graph node by node over all calibration batches at once.

A calibrating pass wants to see what a linear reads in every batch, change its weight, and have everything after it
see the change. Running each node for all batches before the next one takes a single forward pass in all, and only the
values that a later node still reads are held: for a chain of layers, one layer's. What doesn't fit the budget lies in
memory-mapped files.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from optcc.errors import PreconditionFailed
from optcc.files import writing
from optcc.ir.interpret import last_uses, run_node, varying
from optcc.ir.module import Module


class Sweep:
    """A run over all batches that stops where it is told.

    Values that depend on no input (a weight, its dequantize) are computed anew for every node that reads them, so a
    pass may replace the weight of a node that hasn't run yet. Nothing else of the graph may change on the way.

    Args:
        module: what to run.
        batches: inputs by name, as `interpret` takes them.
        targets: the nodes to stop at; what none of them needs is never run.
        graph: which graph.
        budget: bytes of values held in memory; what is beyond lies in temporary files beside the module's weights.

    Raises:
        PreconditionFailed: an input that the targets need is missing.
        CannotWrite: no room for temporary files (from `run_to`).
    """

    def __init__(
        self,
        module: Module,
        batches: Sequence[Mapping[str, Tensor]],
        targets: Collection[fx.Node],
        *,
        graph: str = "model",
        budget: int = 1 << 30,
    ) -> None:
        self._module, self._batches, self._targets = module, batches, frozenset(targets)
        nodes = list(module.graphs[graph].nodes)
        needed = _ancestors(nodes, self._targets)
        self._needed, self._varying = needed, varying(nodes)
        self._nodes = [n for n in nodes if n in self._varying and (n in needed or n in self._targets)]
        self._last = last_uses(self._nodes, lambda n: [x for x in n.all_input_nodes if x in self._varying])
        self._next = 0
        self._values: dict[fx.Node, list[Any]] = {}
        self._held = _Held(budget, module.weights.directory)
        for node in self._nodes:
            if node.op == "placeholder" and any(node.name not in batch for batch in batches):
                raise PreconditionFailed(f"graph {graph} needs the input {node.name} in every batch")

    def run_to(self, target: fx.Node) -> None:
        """Run everything before `target`. Targets are visited in the order of the graph."""
        with torch.no_grad():
            while self._nodes[self._next] is not target:
                self._step(self._nodes[self._next])
                self._next += 1

    def inputs(self, node: fx.Node) -> Iterator[Any]:
        """The values of a node in every batch; the node has run and a node that hasn't run yet reads it."""
        return iter(self._values[node])

    @property
    def held_bytes(self) -> int:
        """Bytes of values in memory now."""
        return self._held.bytes

    @property
    def spilled_bytes(self) -> int:
        """Bytes that went to files so far."""
        return self._held.spilled

    def _step(self, node: fx.Node) -> None:
        """Run one node for every batch, and let go of what was read for the last time."""
        done = self._last.get(node, ())
        if node not in self._needed:  # a target whose result no other target needs
            for operand in done:
                for value in self._values.pop(operand):
                    self._held.drop(value)
            return
        constants: dict[fx.Node, Any] = {}
        results = self._values[node] = []
        for index, batch in enumerate(self._batches):
            results.append(self._held.take(self._run(node, index, batch, constants)))
            for operand in done:
                self._held.drop(self._values[operand][index])
                self._values[operand][index] = None
        for operand in done:
            del self._values[operand]

    def _run(
        self, node: fx.Node, index: int, batch: Mapping[str, Tensor], constants: dict[fx.Node, Any]
    ) -> Any:
        operands = {
            n: self._values[n][index] if n in self._varying else self._constant(n, constants)
            for n in node.all_input_nodes
        }
        return run_node(self._module, node, operands, batch)

    def _constant(self, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
        """A value that no input changes."""
        if node not in known:
            operands = {n: self._constant(n, known) for n in node.all_input_nodes}
            known[node] = run_node(self._module, node, operands, {})
        return known[node]


def _ancestors(nodes: Sequence[fx.Node], targets: frozenset[fx.Node]) -> set[fx.Node]:
    """What has to run before the targets can."""
    found: set[fx.Node] = set()
    for node in reversed(nodes):
        if node in targets or node in found:
            found.update(node.all_input_nodes)
    return found


class _Held:
    """Which memory the held values take: a view costs nothing, and memory is free when its last view goes."""

    def __init__(self, budget: int, folder: Path) -> None:
        self.bytes = 0
        self.spilled = 0
        self._budget, self._folder = budget, folder
        self._views: dict[int, int] = {}
        self._mapped: set[int] = set()

    def take(self, value: Any) -> Any:
        """Hold a value; returns it, or the same in a file where memory is spent."""
        return _map_tensors(value, self._take)

    def drop(self, value: Any) -> None:
        """A value isn't held any more."""
        _map_tensors(value, self._drop)

    def _take(self, tensor: Tensor) -> Tensor:
        size = tensor.untyped_storage().nbytes()
        if _place(tensor) not in self._views and self.bytes + size > self._budget:
            tensor = _to_file(tensor, self._folder)
            self.spilled += tensor.nbytes
            self._mapped.add(_place(tensor))
        place = _place(tensor)
        if place not in self._views and place not in self._mapped:
            self.bytes += size
        self._views[place] = self._views.get(place, 0) + 1
        return tensor

    def _drop(self, tensor: Tensor) -> Tensor:
        place = _place(tensor)
        self._views[place] -= 1
        if not self._views[place]:
            del self._views[place]
            if place in self._mapped:
                self._mapped.remove(place)
            else:
                self.bytes -= tensor.untyped_storage().nbytes()
        return tensor


def _map_tensors(value: Any, change: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(_map_tensors(v, change) for v in value)
    return value


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _to_file(tensor: Tensor, folder: Path) -> Tensor:
    """The same values in a mapped file that has no name any more: it goes away with the tensor, or the process."""
    if not tensor.nbytes:
        return tensor
    with writing(folder), tempfile.NamedTemporaryFile(dir=folder, prefix=".sweep-") as file:
        # Reserved, because writing to a map of a full disk would kill the process.
        os.posix_fallocate(file.fileno(), 0, tensor.nbytes)
        storage = torch.UntypedStorage.from_file(file.name, shared=True, nbytes=tensor.nbytes)
    flat = torch.empty(0, dtype=tensor.dtype).set_(storage)  # type: ignore[arg-type]
    return flat.view(tensor.shape).copy_(tensor)
