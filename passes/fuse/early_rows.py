"""Pick rows before work that goes row by row, not after it."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.module import Module
from optcc.ir.pattern import normalized
from optcc.passes.canonicalize._types import aten, dtype, is_tensor, rank, shape
from optcc.passes.fuse._rows import Operands, operands_by_row
from optcc.pm.context import Context
from optcc.pm.contract import Contract, tolerance
from optcc.pm.passes import Pass

_LINEARS = (aten.linear.default, torch.ops.optcc.quantized_linear.default)
_MOVES = (operator.getitem, aten.reshape.default, aten.transpose.int, aten.permute.default)


@dataclass(frozen=True)
class EarlyRows(Pass):
    """`linear(norm(x))[rows]` becomes `linear(norm(x[rows]))`.

    A decoder's logits are wanted of a few tokens of a step, a classifier's of one token of an image or a sentence. Of
    what comes behind the last attention, output projection, residual sums, norms, MLP, only those rows are computed
    then. The selection moves through whatever works on every row by itself (linears, norms, activations, sums,
    quantization of activations) and is read by nothing else, up to what mixes rows or is needed whole. Where no linear
    would see fewer rows, nothing moves.

    Before: norms, linears and gated activations are recognized, and fused where they will be. After: no selection of
    rows stands behind a linear that it alone reads. Values are bit-identical except that a linear sees fewer rows.
    """

    contract: ClassVar[Contract] = tolerance()

    def run(self, module: Module, ctx: Context) -> bool:
        """Look at every selection; one that moved isn't looked at again."""
        moved = 0
        for graph in module.graphs.values():
            for node in list(graph.nodes):
                picked = _selection(node)
                region = _region(picked) if picked else {}
                if picked and any(n.target in _LINEARS for n in region):
                    _move(module, picked, region)
                    ctx.note(f"%{node.name} picks its rows {len(region)} operators earlier")
                    moved += 1
        return moved > 0


@dataclass(frozen=True)
class _Selection:
    """A node that picks rows of one dimension.

    Attributes:
        node, source, dim: what picks, from what, and along which dimension.
        pick: the same rows of another value along another dimension, which stays.
        rows: the node that numbers them; None where numbers do.
    """

    node: fx.Node
    source: fx.Node
    dim: int
    pick: Callable[[Builder, fx.Node, int], fx.Node]
    rows: fx.Node | None = None

    def close(self) -> None:
        """What is left of the node when its source holds the picked rows alone."""
        if self.node.target is aten.select.int:
            self.node.args = (self.source, self.dim, 0)
            return
        self.node.replace_all_uses_with(self.source)
        self.node.graph.erase_node(self.node)


def _selection(node: fx.Node) -> _Selection | None:
    if node.op != "call_function" or not node.args or not is_tensor(node.args[0]):
        return None
    given = normalized(node)[0]
    source = given[0]
    if node.target is aten.index.Tensor:
        found = [(dim, i) for dim, i in enumerate(given[1]) if i is not None]
        return _numbered(node, source, *found[0]) if len(found) == 1 else None
    if node.target is aten.index_select.default:
        return _numbered(node, source, given[1] % rank(source), given[2])
    if node.target is aten.select.int:
        dim, place = given[1] % rank(source), given[2]
        if not isinstance(place, int) or shape(source)[dim] == 1:
            return None
        end = place + 1 or sys.maxsize  # behind the last
        return _Selection(node, source, dim, lambda b, x, d: b.call(aten.slice.Tensor, x, d, place, end))
    if node.target is aten.slice.Tensor and all(i is None or isinstance(i, int) for i in given[1:]):
        return _Selection(
            node, source, given[1] % rank(source), lambda b, x, d: b.call(aten.slice.Tensor, x, d, *given[2:])
        )
    return None


def _numbered(node: fx.Node, source: fx.Node, dim: int, rows: fx.Node) -> _Selection | None:
    if rank(rows) != 1 or dtype(rows) in (torch.bool, torch.uint8):
        return None
    return _Selection(
        node, source, dim, lambda b, x, d: b.call(aten.index.Tensor, x, [*[None] * d, rows]), rows
    )


def _region(picked: _Selection) -> dict[fx.Node, Operands]:
    """Nodes of which only the picked rows are needed, in the graph's order, each with its operands' dimensions."""
    dims = {picked.source: picked.dim}
    whole: set[fx.Node] = set()
    region: dict[fx.Node, Operands] = {}
    for node in reversed(list(picked.node.graph.nodes)):
        if node not in dims or node in whole:
            continue
        if any(user is not picked.node and user not in region for user in node.users):
            continue
        operands = operands_by_row(node, dims[node])
        if operands is None or (picked.rows is not None and node < picked.rows):
            continue
        region[node] = operands
        for operand, dim in operands.items():
            if dim is None or dims.setdefault(operand, dim) != dim:
                whole.add(operand)
    return _without_moves(dict(reversed(region.items())))


def _without_moves(region: Mapping[fx.Node, Operands]) -> dict[fx.Node, Operands]:
    """Without what costs nothing on all rows either at its border: reshapes, transposes, items of a tuple."""
    inside: dict[fx.Node, Operands] = {}
    for node, operands in region.items():
        if node.target not in _MOVES or any(operand in inside for operand in operands):
            inside[node] = operands
    return inside


def _move(module: Module, picked: _Selection, region: Mapping[fx.Node, Operands]) -> None:
    """Pick rows of what the region reads, before its first node where they can be: it stays in one piece so."""
    first = next(iter(region))
    made: dict[tuple[fx.Node, int], fx.Node] = {}
    for node, operands in region.items():
        for operand, dim in operands.items():
            if operand in region or dim is None:
                continue
            if (operand, dim) not in made:
                place = first if operand < first else operand.next
                made[operand, dim] = picked.pick(Builder(module, place, source=picked.node), operand, dim)
            node.replace_input_with(operand, made[operand, dim])
        module.infer(node)
    picked.close()
