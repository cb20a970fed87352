"""Put activation grids into a graph: every chosen value becomes `dequantize(quantize_static(value))`.

Where the grid ends where a clamp does, rounding to it clamps: `quantize(relu(x)) = quantize(x)` with the lowest level
at 0, so the clamp goes. That is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.module import Module
from optcc.ir.rounding import round_static
from optcc.quant.ranges import ActivationGrid

_ATEN = torch.ops.aten
CONVOLUTIONS = (_ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv3d.default)
LINEAR = _ATEN.linear.default
_SUM = _ATEN.add.Tensor
# They pick or move values, so their result lies on their operand's grid.
_MOVES = (
    _ATEN.max_pool2d.default,
    _ATEN.max_pool1d.default,
    _ATEN.reshape.default,
    _ATEN.transpose.int,
    _ATEN.permute.default,
    _ATEN.slice.Tensor,
)


@dataclass(frozen=True)
class Points:
    """Where a graph is rounded.

    Attributes:
        roots: value -> the value whose grid it shares; itself, unless it only moves another's elements. In graph order.
        made: results of convolutions and sums of two rounded values, which are rounded for all readers.
    """

    roots: Mapping[fx.Node, fx.Node]
    made: frozenset[fx.Node]


def find_points(module: Module, products: list[fx.Node]) -> Points:
    """The values to round around these convolutions and linears: their inputs, the results of convolutions, and sums
    of two such values; behind a clamp where one follows."""
    chosen: set[fx.Node] = set()
    made: set[fx.Node] = set()
    for product in products:
        operand = product.args[0]
        assert isinstance(operand, fx.Node)
        chosen.add(operand)
        if product.target in CONVOLUTIONS:
            made.add(_behind_clamp(product))
    for node in module.nodes():
        if node.target is _SUM and not node.kwargs and all(a in chosen | made for a in node.args[:2]):
            made.add(_behind_clamp(node))
    chosen |= made
    order = [node for node in module.nodes() if node in chosen]
    return Points({node: _root(node) for node in order}, frozenset(made))


def _root(node: fx.Node) -> fx.Node:
    while node.target in _MOVES:
        operand = node.args[0]
        assert isinstance(operand, fx.Node)
        node = operand
    return node


def _behind_clamp(node: fx.Node) -> fx.Node:
    """The clamp that alone reads a value, or the value."""
    readers = list(node.users)
    return readers[0] if len(readers) == 1 and _clamp_bounds(readers[0]) else node


def _clamp_bounds(node: fx.Node) -> tuple[float, float] | None:
    """What a node clamps its operand to, if it does."""
    if node.target is _ATEN.relu.default:
        return 0.0, math.inf
    if node.target is not _ATEN.clamp.default:
        return None
    low, high = (*node.args[1:], None, None)[:2]
    if not all(b is None or isinstance(b, int | float) for b in (low, high)) or node.kwargs:
        return None
    return (
        float(low) if isinstance(low, int | float) else -math.inf,
        float(high) if isinstance(high, int | float) else math.inf,
    )


def attach_grids(module: Module, points: Points, grids: Mapping[fx.Node, ActivationGrid]) -> int:
    """Round every value of `points`; returns how many clamps that made superfluous.

    Args:
        module: changed.
        points: what to round.
        grids: of every root.
    """
    stored: dict[fx.Node, tuple[fx.Node, fx.Node | None]] = {}
    clamps = 0
    for value, root in points.roots.items():
        readers = [u for u in value.users if u.op != "output" or value in points.made]
        build = Builder(module, _after(value), value)
        if root not in stored:
            stored[root] = _store(build, root, grids[root])
        step, zero = stored[root]
        source = value
        bounds = _clamp_bounds(value)
        if value is root and bounds and grids[root].clamps(*bounds) and len(readers) == len(value.users):
            operand = value.args[0]
            assert isinstance(operand, fx.Node)
            source, clamps = operand, clamps + 1
        rounded = round_static(build, source, step, zero, "int8")
        for reader in readers:
            reader.replace_input_with(value, rounded)
    return clamps


def _after(value: fx.Node) -> fx.Node:
    """Where nodes go that stand behind a value: before the first that isn't an input."""
    following = value.next
    while following.op in ("placeholder", "get_attr"):
        following = following.next
    return following


def _store(build: Builder, root: fx.Node, grid: ActivationGrid) -> tuple[fx.Node, fx.Node | None]:
    """Step f32[1] and zero point i8[1] of a grid as weights."""
    step = build.new_weight(f"activation.{root.name}.step", torch.tensor([grid.step]))
    if grid.zero is None:
        return step, None
    return step, build.new_weight(
        f"activation.{root.name}.offset", torch.tensor([grid.zero], dtype=torch.int8)
    )
