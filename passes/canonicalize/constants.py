"""Compute at compile time what depends on weights alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from optcc.ir.builder import Builder
from optcc.ir.module import Module, has_effect
from optcc.passes.canonicalize._types import aten, is_static, is_tensor, same_type, shape
from optcc.pm.context import Context
from optcc.pm.contract import Contract, tolerance
from optcc.pm.passes import Pass

_LARGEST = 64 << 20
_LARGEST_WITHOUT_OPERANDS = 1 << 20
_GROWTH = 4
# Values in their storage form are expanded by whoever computes with them.
_KEPT = {"optcc.dequantize.default", "optcc.quantize_activation.default"}
_VIEWS = {
    "aten.transpose.int",
    "aten.permute.default",
    "aten.reshape.default",
    "aten.t.default",
    "aten.slice.Tensor",
}
_ARITHMETIC = {aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor}


@dataclass(frozen=True)
class Constants(Pass):
    """`f(weights)` becomes a weight, `x * scalar weight` becomes `x * number`.

    Gemma's `1 + w` becomes one weight, so does an ALiBi slope or a table made of arange. A result is stored
    if it takes at most 4 times its operands' bytes and 64 MB (1 MB without operands); a big weight that
    others read too is not stored a second time in another layout; packed weights stay packed.

    Before: anything. After: no call below those limits has only weights for operands. Weights made here are
    called after the first weight they depend on and the operator.
    """

    contract: ClassVar[Contract] = tolerance()

    def run(self, module: Module, ctx: Context) -> bool:
        """Fold each maximal constant expression into one weight, then scalars into numbers."""
        folded = sum(_fold_graph(module, graph) for graph in module.graphs.values())
        numbers = sum(
            _inline_scalar(module, node) for node in list(module.nodes()) if node.target in _ARITHMETIC
        )
        if folded or numbers:
            module.tidy()
            ctx.note(f"{folded} expressions folded, {numbers} scalars inlined")
        return bool(folded or numbers)


def _fold_graph(module: Module, graph: fx.Graph) -> int:
    constant: set[fx.Node] = set(graph.find_nodes(op="get_attr"))
    for node in graph.nodes:
        if node.op == "call_function" and _is_foldable(node, constant):
            constant.add(node)
    # Only where a constant meets something else is it worth a weight.
    edge = [n for n in graph.nodes if n in constant and n.op != "get_attr" and _is_edge(n, constant)]
    for node in edge:
        _store(module, node)
    return len(edge)


def _is_edge(node: fx.Node, constant: set[fx.Node]) -> bool:
    return is_tensor(node) and any(user not in constant for user in node.users)


def _is_foldable(node: fx.Node, constant: set[fx.Node]) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or str(target) in _KEPT or has_effect(node):
        return False
    if torch.Tag.nondeterministic_seeded in target.tags or not all(
        n in constant for n in node.all_input_nodes
    ):
        return False
    if (
        not is_tensor(node)
        or not all(is_static(d) for d in shape(node))
        or any(u.op == "output" for u in node.users)
    ):
        return False
    if str(target) in _VIEWS and any(len(n.users) > 1 and len(shape(n)) > 1 for n in node.all_input_nodes):
        return False
    size = _bytes(node)
    if not node.all_input_nodes:
        return size <= _LARGEST_WITHOUT_OPERANDS
    return size <= min(_LARGEST, _GROWTH * sum(_bytes(n) for n in node.all_input_nodes))


def _bytes(node: fx.Node) -> int:
    value = node.meta["val"]
    return math.prod(int(d) for d in value.shape) * int(value.dtype.itemsize)


def _store(module: Module, node: fx.Node) -> None:
    names = _weights_below(node)
    assert isinstance(node.target, torch._ops.OpOverload)
    name = f"{names[0]}.{node.target._schema.name.split('::')[1]}" if names else node.name
    build = Builder(module, node)
    node.replace_all_uses_with(build.new_weight(name.replace("._", "."), _evaluate(module, node)))


def _weights_below(node: fx.Node) -> list[str]:
    if node.op == "get_attr":
        return [str(node.target)]
    return [name for operand in node.all_input_nodes for name in _weights_below(operand)]


def _evaluate(module: Module, node: fx.Node) -> Tensor:
    if node.op == "get_attr":
        return module.weights[str(node.target)]
    args = fx.map_arg(node.args, lambda n: _evaluate(module, n))
    kwargs = fx.map_arg(node.kwargs, lambda n: _evaluate(module, n))
    assert callable(node.target)
    result = node.target(*args, **kwargs)
    assert isinstance(result, Tensor)
    return result


def _inline_scalar(module: Module, node: fx.Node) -> bool:
    """`x (op) w` with a weight of no dimensions -> `x (op) number`, if the result's type stays."""
    left, right = node.args[:2]
    if (
        _is_scalar(left)
        and is_tensor(right)
        and node.target in (aten.mul.Tensor, aten.add.Tensor)
        and not node.kwargs
    ):
        left, right = right, left
    if not _is_scalar(right) or not is_tensor(left) or _is_scalar(left):
        return False
    assert isinstance(left, fx.Node)
    assert isinstance(right, fx.Node)
    number = module.weights[str(right.target)].item()
    if isinstance(number, complex):
        return False
    before = node.args
    node.args = (left, number)
    inferred = module.inference.infer(node)
    kept = isinstance(inferred, Tensor) and same_type(node, left) and inferred.dtype == node.meta["val"].dtype
    if not kept:
        node.args = before
    return kept


def _is_scalar(value: object) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr" and value.meta["val"].dim() == 0
