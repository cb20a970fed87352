"""Operators that compute every row by itself, and where their operands' rows are."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from optcc.ir.pattern import normalized
from optcc.ir.text import target_name
from optcc.passes.canonicalize._types import (
    BINARY,
    POINTWISE,
    aten,
    expression,
    is_static,
    is_tensor,
    order_of,
    rank,
    shape,
)

Operands = dict[fx.Node, int | None]
"""The dimension of each operand that is the result's rows; None where every row reads all of it."""

_OPTCC = torch.ops.optcc
_ELEMENTWISE = frozenset(f"{POINTWISE} | {BINARY}".split(" | "))


def operands_by_row(node: fx.Node, dim: int) -> Operands | None:
    """Operands of a node of which row i of its result's dimension `dim` reads row i alone.

    Args:
        node: of a graph in canonical form, fused or not.
        dim: of its result, counted from the front; of a tuple, of each of its values.

    Returns:
        None where rows mix, or nothing is known about the operator.
    """
    if node.op != "call_function":
        return None
    if target_name(node) in _ELEMENTWISE:
        return _broadcast(node, dim)
    rule = _RULES.get(node.target)
    return rule(node, dim) if rule else None


def _broadcast(node: fx.Node, dim: int) -> Operands:
    found: Operands = {}
    for operand in node.all_input_nodes:
        found[operand] = None
        if is_tensor(operand):
            own = dim - rank(node) + rank(operand)
            if own >= 0 and expression(shape(operand)[own]) == expression(shape(node)[dim]):
                found[operand] = own
    return found


def _over_last(*leading: int) -> Callable[[fx.Node, int], Operands | None]:
    """Of an operator over the last dimension of some operands, which have the result's other dimensions."""

    def rule(node: fx.Node, dim: int) -> Operands | None:
        given = normalized(node)[0]
        rows = [given[i] for i in leading]
        if dim >= rank(rows[0]) - 1 or any(rank(x) != rank(rows[0]) for x in rows):
            return None
        found: Operands = dict.fromkeys(node.all_input_nodes)
        return found | dict.fromkeys(rows, dim)

    return rule


def _layer_norm(node: fx.Node, dim: int) -> Operands | None:
    x, sizes = normalized(node)[0][:2]
    if dim >= rank(x) - len(sizes):
        return None
    found: Operands = dict.fromkeys(node.all_input_nodes)
    return found | {x: dim}


def _dequantize(node: fx.Node, dim: int) -> Operands | None:
    """Of rows with scales of their own, or with those of all of them."""
    if dim >= rank(node) - 1 or normalized(node)[0][6] != 1:
        return None
    return _broadcast(node, dim)


def _item(node: fx.Node, dim: int) -> Operands | None:
    source = node.args[0]
    return {source: dim} if isinstance(source, fx.Node) else None


def _split(node: fx.Node, dim: int) -> Operands | None:
    x, _, cut = normalized(node)[0]
    return None if cut % rank(x) == dim else {x: dim}


def _turn(node: fx.Node, dim: int) -> Operands | None:
    return {node.all_input_nodes[0]: order_of(node)[dim]}


def _reshape(node: fx.Node, dim: int) -> Operands | None:
    """Rows stay rows where as much lies before them as did, and the sizes don't say how many they are."""
    x, sizes = normalized(node)[0]
    if any(isinstance(size, fx.Node) for size in sizes) or sizes[dim] != -1:
        return None
    before = _volume(shape(node)[:dim])
    for own, size in enumerate(shape(x)):
        same = expression(size) == expression(shape(node)[dim])
        if same and before is not None and before == _volume(shape(x)[:own]):
            return {x: own}
    return None


def _volume(sizes: Sequence[Any]) -> int | None:
    """Of sizes that are numbers."""
    return math.prod(sizes) if all(is_static(size) for size in sizes) else None


_RULES: dict[object, Callable[[fx.Node, int], Operands | None]] = {
    operator.getitem: _item,
    aten.linear.default: _over_last(0),
    aten.layer_norm.default: _layer_norm,
    aten.split_with_sizes.default: _split,
    aten.transpose.int: _turn,
    aten.permute.default: _turn,
    aten.reshape.default: _reshape,
    _OPTCC.rms_norm.default: _over_last(0),
    _OPTCC.add_rms_norm.default: _over_last(0, 1),
    _OPTCC.gated_activation.default: _over_last(0),
    _OPTCC.dequantize.default: _dequantize,
    _OPTCC.quantized_linear.default: _over_last(0),
    _OPTCC.quantize_activation.default: _over_last(0),
    _OPTCC.quantize_static.default: _over_last(0),
}
