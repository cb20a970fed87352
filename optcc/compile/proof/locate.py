"""Which node moved first, between two modules that should compute the same.

Nodes of both are matched by name and by value: a pass keeps the names of what it leaves alone, and may give the name of
what it erased to something new. A node has not moved if its own namesake, or any other value of the module before, is
what it computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from optcc.compile.proof.measure import moved
from optcc.compile.proof.run import Batch, run_once, unrounded
from optcc.ir.interpret import Calls, varying
from optcc.ir.module import Module, source_of
from optcc.ir.text import target_name

_TOKENS = 48


@dataclass(frozen=True)
class MovedNode:
    """A node whose value isn't what it was.

    Attributes:
        name: of the node.
        operator: what it calls.
        source: the user's line, where known.
        moved: largest difference over the standard deviation of its values.
        behind: the first new node before it that no value of the old module equals, if there is one.
    """

    name: str
    operator: str
    source: str | None
    moved: float
    behind: str | None = None

    def __str__(self) -> str:
        told = f"%{self.name} ({self.operator})" + (f" at {self.source}" if self.source else "")
        return told + (f", behind the new {self.behind}" if self.behind else "")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        value = self.moved if math.isfinite(self.moved) else None
        return {
            "node": self.name,
            "operator": self.operator,
            "source": self.source,
            "moved": value,
            "behind": self.behind,
        }


def first_moved(
    before: Module, after: Module, batch: Batch, bound: float, *, rounding: bool = True
) -> MovedNode | None:
    """The first node, in the order of the graph, that moved by more than `bound`; None when none with a twin did.

    A node that is new has moved if nothing before equals it and its operands have not; it is named as what stands
    behind the first node with a namesake. Without `rounding`, activations stay as they are in both modules.
    """
    batch = _short(batch)
    known = _values(before, batch, None if rounding else unrounded(before))
    prints = _Prints(known, bound)
    found: list[MovedNode] = []
    fresh: dict[fx.Node, str] = {}

    def watch(node: fx.Node, value: Any) -> None:
        if found or not _counts(node, value):
            return
        if prints.has(value):
            return
        if node.name not in known or known[node.name].numel() != value.numel():
            fresh[node] = f"%{node.name} ({target_name(node)})"
            return
        error = moved(known[node.name], value.reshape(-1))
        if error > bound or math.isnan(error):
            behind = _first_fresh(node, fresh)
            source = source_of(node) or (source_of(behind) if behind else None)
            told = fresh[behind] if behind else None
            found.append(MovedNode(node.name, target_name(node), source, error, told))

    run_once(after, batch, observe=watch, calls=None if rounding else unrounded(after))
    return found[0] if found else None


def most_moved(before: Module, after: Module, batch: Batch) -> MovedNode | None:
    """The node that moved most beyond what its operands had moved: for passes that change all values a little."""
    batch = _short(batch)
    known = _values(before, batch)
    errors: dict[fx.Node, float] = {}
    found: list[tuple[float, MovedNode]] = []

    def watch(node: fx.Node, value: Any) -> None:
        inherited = max((errors.get(n, 0.0) for n in node.all_input_nodes), default=0.0)
        errors[node] = inherited
        if not _counts(node, value) or node.name not in known:
            return
        if known[node.name].numel() != value.numel():
            return
        errors[node] = own = _relative(known[node.name], value.reshape(-1))
        if math.isfinite(inherited):
            grown = own - inherited if not math.isnan(own) else math.inf
            found.append((grown, MovedNode(node.name, target_name(node), source_of(node), own)))

    run_once(after, batch, observe=watch)
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _short(batch: Batch) -> Batch:
    """The beginning of a window, so that all values fit in memory at once; a function's batch as it is."""
    if "logit_rows" not in batch or len(batch["input_ids"]) <= _TOKENS:
        return batch
    rows = batch["logit_rows"]
    return {
        "input_ids": batch["input_ids"][:_TOKENS],
        "position_ids": batch["position_ids"][:_TOKENS],
        "query_starts": torch.tensor([0, _TOKENS], dtype=torch.int32),
        "logit_rows": rows[rows < _TOKENS],
    }


def _values(module: Module, batch: Batch, calls: Calls | None = None) -> dict[str, Tensor]:
    """What every node that depends on an input computes, flat, by name."""
    found: dict[str, Tensor] = {}
    moving = varying(module.graph.nodes)

    def watch(node: fx.Node, value: Any) -> None:
        if node in moving and _counts(node, value):
            found[node.name] = value.reshape(-1).clone()

    run_once(module, batch, observe=watch, calls=calls)
    return found


def _counts(node: fx.Node, value: Any) -> bool:
    return (
        node.op == "call_function"
        and isinstance(value, Tensor)
        and value.is_floating_point()
        and value.dtype.itemsize > 1
        and value.numel() > 1
    )


def _first_fresh(node: fx.Node, fresh: Mapping[fx.Node, str]) -> fx.Node | None:
    """The earliest of the new nodes that a node depends on through new nodes alone."""
    earliest: fx.Node | None = None
    pending = [n for n in node.all_input_nodes if n in fresh]
    seen: set[fx.Node] = set()
    order = {n: place for place, n in enumerate(fresh)}
    while pending:
        one = pending.pop()
        if one in seen:
            continue
        seen.add(one)
        if earliest is None or order[one] < order[earliest]:
            earliest = one
        pending.extend(n for n in one.all_input_nodes if n in fresh)
    return earliest


def _relative(before: Tensor, after: Tensor) -> float:
    """Root of the error's power over the signal's."""
    signal = float(before.double().square().mean()) or 1.0
    return math.sqrt(float((after.double() - before.double()).square().mean()) / signal)


class _Prints:
    """Finds equal values whatever their shape: norm and two weighted sums, compared up to `bound`."""

    def __init__(self, values: Mapping[str, Tensor], bound: float) -> None:
        self._bound = bound
        self._weights: dict[int, Tensor] = {}
        self._known: dict[int, list[Tensor]] = {}
        for value in values.values():
            self._known.setdefault(value.numel(), []).append(self._print(value))

    def has(self, value: Tensor) -> bool:
        """Whether a value is among those known."""
        known = self._known.get(value.numel())
        if known is None:
            return False
        own = self._print(value.reshape(-1))
        if not bool(own.isfinite().all()):
            return False
        limit = max(self._bound, 1e-6) * float(own[0]) + 1e-12
        return any(float((own - other).abs().max()) <= limit for other in known)

    def _print(self, value: Tensor) -> Tensor:
        """f64[3]: the norm, and products with two random directions of about its length."""
        size = value.numel()
        if size not in self._weights:
            generator = torch.Generator().manual_seed(size)
            self._weights[size] = torch.randn((2, size), generator=generator)
        flat = value.float()
        return torch.cat([flat.norm()[None], self._weights[size] @ flat]).double()
