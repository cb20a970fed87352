"""Slices that cut a dimension into pieces become one split."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.module import Module
from optcc.ir.pattern import normalized
from optcc.passes.canonicalize._types import aten, is_static, rank, shape
from optcc.pm.context import Context
from optcc.pm.contract import EXACT, Contract
from optcc.pm.passes import Pass


@dataclass(frozen=True)
class Slices(Pass):
    """`x[..., :a], x[..., a:b], x[..., b:]` become the pieces of `split_with_sizes(x, [a, b - a, …])`.

    Phi3 cuts its packed query, key and value this way. Only sets of slices that cover one dimension without
    gap or overlap are replaced.

    Before: slices end where the tensor ends; rotations are recognized (their halves are slices too). After:
    no such set is left. Values are bit-identical.
    """

    contract: ClassVar[Contract] = EXACT

    def run(self, module: Module, ctx: Context) -> bool:
        """Look at the slices of every node, by dimension."""
        made = 0
        for graph in module.graphs.values():
            order = {node: i for i, node in enumerate(graph.nodes)}
            for node in list(graph.nodes):
                for pieces in _tilings(node, order):
                    _split(module, node, pieces)
                    made += 1
        return made > 0


def _bounds(cut: fx.Node) -> tuple[int, int, int] | None:
    """dim, start and end of a slice with step 1 and plain bounds."""
    _, dim, start, end, step = normalized(cut)[0]
    start = 0 if start is None else start
    if step != 1 or not (isinstance(dim, int) and isinstance(start, int) and isinstance(end, int)):
        return None
    return dim, start, end


def _tilings(node: fx.Node, order: dict[fx.Node, int]) -> list[list[fx.Node]]:
    """Sets of slices of a node that cover one dimension, in the order of the dimension."""
    cuts: dict[int, list[fx.Node]] = {}
    for user in node.users:
        if (
            user.target is aten.slice.Tensor
            and user.args[0] is node
            and user in order
            and (found := _bounds(user))
        ):
            cuts.setdefault(found[0] % rank(node), []).append(user)
    return [pieces for dim, found in cuts.items() if (pieces := _tiling(found, shape(node)[dim]))]


def _tiling(cuts: list[fx.Node], size: object) -> list[fx.Node] | None:
    if len(cuts) < 2 or not is_static(size):
        return None
    bounds = {cut: found for cut in cuts if (found := _bounds(cut))}
    ordered = sorted(cuts, key=lambda cut: bounds[cut][1:])
    edges = [bounds[cut][1:] for cut in ordered]
    adjacent = all(left[1] == right[0] for left, right in itertools.pairwise(edges))
    return ordered if adjacent and edges[0][0] == 0 and edges[-1][1] == size else None


def _split(module: Module, node: fx.Node, pieces: list[fx.Node]) -> None:
    """One split where the first of the slices stood."""
    first = min(pieces)
    build = Builder(module, first)
    dim = next(found[0] for cut in pieces if (found := _bounds(cut))) % rank(node)
    sizes = [int(shape(piece)[dim]) for piece in pieces]
    split = build.call(aten.split_with_sizes.default, node, sizes, dim)
    parts = [Builder(module, first, source=piece).item(split, i) for i, piece in enumerate(pieces)]
    for piece, part in zip(pieces, parts, strict=True):
        piece.replace_all_uses_with(part)
        piece.graph.erase_node(piece)
