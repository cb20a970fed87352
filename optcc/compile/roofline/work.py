"""Bytes and operations of every operator of a served decoder, from its types at given sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from optcc.ir.module import Module
from optcc.ir.pattern import normalized
from optcc.ir.text import target_name

_OPS = torch.ops.optcc
_LINEARS = (torch.ops.aten.linear.default, _OPS.quantized_linear.default)
_LOOKUPS = (torch.ops.aten.embedding.default, _OPS.quantized_embedding.default)
_ATTENTION = _OPS.paged_attention.default
_POOLS = (3, 4, 14, 15)
"""Places of the pools among the operands of a paged attention."""
_FREE = ("getitem", "aten.reshape.default", "aten.view.default", "aten.unsqueeze.default", "aten.squeeze.dim")
"""Operators that move nothing."""


@dataclass(frozen=True)
class Step:
    """One step of equal requests.

    Attributes:
        requests: R.
        tokens: of each request in this step.
        length: of each request after it.
    """

    requests: int
    tokens: int
    length: int

    def sizes(self, block: int) -> dict[str, int]:
        """Values of the dims."""
        blocks = -(-self.length // block)
        return {
            "T": self.requests * self.tokens,
            "R": self.requests,
            "W": self.requests,
            "M": blocks,
            "N": self.requests * blocks,
        }


@dataclass(frozen=True)
class Work:
    """What one operator does in a step.

    Attributes:
        node: its name in the graph.
        operator: as `quantized_linear`.
        weight: name of the weight it multiplies by or looks up in; empty if it has none.
        form: how that weight is stored, as `int4`; the type of its result without a weight.
        bytes: read and written, each tensor once; of a cache what is attended to.
        operations: a multiply-add is two.
        integer: products are of 8-bit integers, in one operand at least.
    """

    node: str
    operator: str
    weight: str
    form: str
    bytes: int
    operations: int
    integer: bool


def works(module: Module, step: Step, block: int) -> list[Work]:
    """What every operator of the main graph does, in order; those that move nothing are left out."""
    return list(_works(module, step, step.sizes(block)))


def _works(module: Module, step: Step, sizes: Mapping[str, int]) -> Iterator[Work]:
    for node in module.graph.nodes:
        if node.op != "call_function" or target_name(node) in _FREE:
            continue
        name = target_name(node).split(".")[-2] if "." in target_name(node) else target_name(node)
        out = sum(_size(module, v, sizes) for v in _tensors(node.meta["val"]))
        if out == 0:
            continue
        if node.target in _LINEARS:
            yield _linear(module, node, name, sizes)
        elif node.target in _LOOKUPS:
            stored = [p for p in node.all_input_nodes if p.op == "get_attr"]
            rows = int(stored[0].meta["val"].shape[0])
            count = sizes["T"]
            read = sum(module.weights.nbytes(str(p.target)) * min(count, rows) // rows for p in stored)
            yield Work(node.name, name, _weight(stored[0]), _form(node), read + out, 0, False)
        elif node.target is _ATTENTION:
            yield _attention(module, node, name, step, sizes, out)
        else:
            read = sum(_size(module, p.meta["val"], sizes) for p in node.all_input_nodes if _is_tensor(p))
            count = sum(math.prod(_shape(module, v, sizes)) for v in _tensors(node.meta["val"]))
            yield Work(node.name, name, "", _form(node), read + out, count, False)


def _linear(module: Module, node: fx.Node, name: str, sizes: Mapping[str, int]) -> Work:
    stored = [p for p in node.all_input_nodes if p.op == "get_attr"]
    x = node.all_input_nodes[0]
    out = _shape(module, node.meta["val"], sizes)
    width = _shape(module, x.meta["val"], sizes)[-1]
    read = sum(module.weights.nbytes(str(p.target)) for p in stored) + _size(module, x.meta["val"], sizes)
    integer = node.target is _LINEARS[1] and normalized(node)[0][9] == "int8"
    return Work(
        node.name,
        name,
        _weight(stored[0]) if stored else "",
        _form(node),
        read + _size(module, node.meta["val"], sizes),
        2 * math.prod(out) * width,
        integer,
    )


def _attention(
    module: Module, node: fx.Node, name: str, step: Step, sizes: Mapping[str, int], out: int
) -> Work:
    given = normalized(node)[0]
    q = given[0].meta["val"]
    heads, channels = (int(d) for d in q.shape[-2:])
    pools = [given[i].meta["val"] for i in _POOLS if given[i] is not None]
    cached = sum(p.dtype.itemsize * int(p.shape[-2]) * int(p.shape[-1]) for p in pools)
    fresh = sum(_size(module, given[i].meta["val"], sizes) for i in range(3))
    pairs = step.requests * step.tokens * (step.length - (step.tokens - 1) / 2)
    read = step.requests * step.length * cached + fresh
    return Work(node.name, name, "", str(pools[0].dtype).removeprefix("torch."), read + out,
                int(4 * heads * channels * pairs), pools[0].dtype == torch.int8)  # fmt: skip


def _weight(node: fx.Node) -> str:
    return str(node.target).removesuffix(".packed")


def _form(node: fx.Node) -> str:
    values, names, _ = normalized(node)
    given = dict(zip(names, values, strict=False))
    if "format" in given:
        return str(given["format"])
    first = next(iter(_tensors(node.meta["val"])), None)
    return "" if first is None else str(first.dtype).removeprefix("torch.")


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta["val"], torch.Tensor)


def _shape(module: Module, value: torch.Tensor, sizes: Mapping[str, int]) -> list[int]:
    return [module.dims.value(d, sizes) for d in value.shape]


def _size(module: Module, value: torch.Tensor, sizes: Mapping[str, int]) -> int:
    return value.dtype.itemsize * math.prod(_shape(module, value, sizes))
