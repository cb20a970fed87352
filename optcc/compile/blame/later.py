"""Whether what is wrong with a weight came after it was packed: then the pass is to blame, not its scheme."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from optcc.compile.points import Points
from optcc.ir.module import Module
from optcc.ir.ops.quantized import dequantize
from optcc.ir.pattern import normalized


def changed_by(points: Points, name: str) -> int | None:
    """The place of the pass that changed a weight's packed values after the one that packed it; None if none did.

    Reads the weight at every point after it was packed, and runs nothing.
    """
    first: Tensor | None = None
    for index in range(points.canonical + 1, len(points.steps) + 1):
        value = _packed_value(points.at(index), name)
        if value is None:
            continue
        if first is None:
            first = value
        elif not torch.equal(first, value):
            return index - 1
    return None


def _packed_value(module: Module, name: str) -> Tensor | None:
    """A packed weight in floating point, wherever in the module it is stored."""
    stored, rows = f"{name}.packed", None
    stacked = module.attrs.get("stacked")
    for joined, parts in stacked.items() if isinstance(stacked, dict) else ():
        first = 0
        assert isinstance(parts, list)
        for part in parts:
            assert isinstance(part, list)
            count = int(part[1])  # type: ignore[arg-type]
            if part[0] == name:
                stored, rows = f"{joined}.packed", slice(first, first + count)
            first += count
    for node in module.graph.nodes:
        found = _expand(module, node, stored)
        if found is not None:
            return found if rows is None else found[rows]
    return None


def _expand(module: Module, node: fx.Node, stored: str) -> Tensor | None:
    ops = torch.ops.optcc
    places: dict[Any, tuple[int, int, int | None]] = {
        ops.dequantize.default: (0, 4, 6),
        ops.quantized_linear.default: (1, 6, 8),
        ops.quantized_embedding.default: (1, 5, None),
    }
    if node.op != "call_function" or node.target not in places:
        return None
    at, format_at, rows_at = places[node.target]
    values = normalized(node)[0]
    if not isinstance(values[at], fx.Node) or values[at].target != stored:
        return None
    parts = [module.weights[str(v.target)] if isinstance(v, fx.Node) else None for v in values[at : at + 4]]
    packed, scale, zero, whole = parts
    assert packed is not None
    assert scale is not None
    rows = int(values[rows_at]) if rows_at is not None else 1
    return dequantize(
        packed, scale, zero, whole, values[format_at], values[format_at + 1], rows, torch.float32
    )
