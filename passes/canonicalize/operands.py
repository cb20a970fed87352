"""Write operands one way: dims from the front, no defaults, slices that end where the tensor ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from optcc.ir.module import Module
from optcc.ir.pattern import normalized
from optcc.passes.canonicalize._types import aten, is_static, is_tensor, rank, shape
from optcc.pm.context import Context
from optcc.pm.contract import EXACT, Contract
from optcc.pm.passes import Pass

# Options that steer training or a kernel and never the result.
_IRRELEVANT = {
    "aten.embedding.default": {"padding_idx", "scale_grad_by_freq", "sparse"},
    "aten.layer_norm.default": {"cudnn_enable"},
}
_DIMS = {"dim", "dim0", "dim1", "dims"}
_ALL = 2**63 - 1
# These count dims of their result, which has one more.
_GROWS = {aten.unsqueeze.default, aten.stack.default}


@dataclass(frozen=True)
class Operands(Pass):
    """Give every call its shortest operands.

    Trailing operands at their default are left out, keywords become positions where the schema allows it,
    options that don't change results (an embedding's `padding_idx`) are dropped, negative dims count from the
    front, and a slice ends at the tensor's size instead of at 2^63 - 1.

    Before: anything. After: equal calls have equal text. Types and values don't change.
    """

    contract: ClassVar[Contract] = EXACT

    def run(self, module: Module, ctx: Context) -> bool:
        """One walk; operands are changed in place."""
        changed = False
        for node in module.nodes():
            if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
                continue
            args, kwargs = _shortest(node)
            if _text(args, kwargs) != _text(node.args, node.kwargs):
                node.args, node.kwargs = args, kwargs
                changed = True
        return changed


def _text(args: Any, kwargs: Any) -> str:
    return repr((list(args), dict(kwargs)))


def _shortest(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    values, names, defaults = normalized(node)
    unused = _IRRELEVANT.get(str(target), set())
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    shown = 0
    for argument, value, name, default in zip(target._schema.arguments, values, names, defaults, strict=True):
        value = default if name in unused else _from_front(node, name, value)
        at_default = argument.has_default_value() and _same(value, default)
        if argument.kwarg_only:
            if not at_default:
                kwargs[name] = value
            continue
        args.append(value)
        shown = shown if at_default else len(args)
    return tuple(args[:shown]), kwargs


def _same(value: object, default: object) -> bool:
    return not isinstance(value, fx.Node) and type(value) is type(default) and value == default


def _from_front(node: fx.Node, name: str, value: Any) -> Any:
    """A dim or a slice's end, counted from the front."""
    first = node.args[0] if node.args else None
    if isinstance(first, list | tuple) and first:
        first = first[0]
    if not is_tensor(first):
        return value
    assert isinstance(first, fx.Node)
    size = rank(first) + (node.target in _GROWS)
    if name in _DIMS and isinstance(value, int):
        return value % size if size else value
    if name in _DIMS and isinstance(value, list | tuple) and all(isinstance(v, int) for v in value):
        return [v % size for v in value]
    if node.target is aten.slice.Tensor and name == "start" and value is None:
        return 0
    if node.target is aten.slice.Tensor and name == "end" and (value is None or isinstance(value, int)):
        dim: Any = node.args[1] if len(node.args) > 1 else 0
        length = shape(first)[dim % size]
        everything = _ALL if value is None else value
        return min(everything, int(length)) if is_static(length) else everything
    return value
