"""The packed weights of a compiled module under the original's names, and how each is put back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from optcc.compile.blame.side import Side, rounded, unpaged
from optcc.ir.module import Module
from optcc.ir.ops.quantized import dequantize
from optcc.ir.pattern import normalized

_OPS = torch.ops.optcc
_LINEAR, _EMBEDDING = _OPS.quantized_linear.default, _OPS.quantized_embedding.default


@dataclass(frozen=True)
class Packed:
    """One weight of the original as the compiled module has it.

    Attributes:
        name: in the original.
        stored: name of the packed tensor, which may hold several weights one below the other.
        rows: its rows therein.
        nodes: that read it: quantized linears and embeddings, or a dequantize.
        segments: numbers of the segments that these stand in.
    """

    name: str
    stored: str
    rows: slice
    nodes: tuple[fx.Node, ...]
    segments: tuple[int, ...]


def find_packed(side: Side, original: Module) -> list[Packed]:
    """All packed weights whose original is known, in the order of the graph."""
    readers: dict[str, list[fx.Node]] = {}
    for node in side.module.graph.nodes:
        stored = _stored(node)
        if stored:
            readers.setdefault(stored, []).append(node)
    found: list[Packed] = []
    for stored, nodes in readers.items():
        places = tuple(
            number
            for number, segment in enumerate(side.segments)
            if any(n in nodes or any(i in nodes for i in n.all_input_nodes) for n in segment.nodes)
        )
        first = 0
        for name, count in _parts(side.module, stored, nodes[0]):
            if name in original.weights and original.weights.spec(name)[1][0] == count:
                found.append(Packed(name, stored, slice(first, first + count), tuple(nodes), places))
            first += count
    return found


def _stored(node: fx.Node) -> str | None:
    """The name of the packed tensor that a node expands."""
    if node.op != "call_function" or node.target not in (_LINEAR, _EMBEDDING, _OPS.dequantize.default):
        return None
    packed = normalized(node)[0][0 if node.target is _OPS.dequantize.default else 1]
    return str(packed.target) if isinstance(packed, fx.Node) and packed.op == "get_attr" else None


def _parts(module: Module, stored: str, node: fx.Node) -> Sequence[tuple[str, int]]:
    """The original's weights in a packed tensor, with their numbers of rows."""
    name = stored.removesuffix(".packed")
    stacked = module.attrs.get("stacked")
    if isinstance(stacked, dict) and name in stacked:
        parts: Any = stacked[name]
        return [(str(part), int(count)) for part, count in parts]
    return [(name, int(module.weights.spec(stored)[1][0]))]


class Putter:
    """Makes what is called instead of a node.

    Args:
        side: the compiled one.
        original: whose weights are put back.
        prescaled: whether a pass moved factors between the channels of weights and what they read.
    """

    def __init__(self, side: Side, original: Module, prescaled: bool) -> None:
        self.side, self.original, self.prescaled = side, original, prescaled
        self.packed = find_packed(side, original)

    def weights(
        self,
        items: Collection[Packed],
        value: Callable[[Packed, Tensor], Tensor] | None = None,
        unrounded: Collection[str] = (),
    ) -> Mapping[fx.Node, Callable[..., Any]]:
        """Calls with the original's weights in place of the packed ones.

        Args:
            items: which.
            value: makes the weight from the original's [O, K]; it itself when omitted.
            unrounded: names of those that read what isn't rounded.
        """
        made: dict[fx.Node, Callable[..., Any]] = {}
        for stored in dict.fromkeys(i.stored for i in items):
            own = [i for i in items if i.stored == stored]
            exact = [i.rows for i in own if i.name in unrounded]
            for node in own[0].nodes:
                made[node] = self._call(node, own, value, exact)
        return made

    def activations(self, segments: Collection[int] | None = None) -> Mapping[fx.Node, Callable[..., Any]]:
        """Calls that don't round what linears read; in some segments, or in all."""
        made: dict[fx.Node, Callable[..., Any]] = {}
        for number, segment in enumerate(self.side.segments):
            for node in segment.nodes:
                if node.target is not _LINEAR or (segments is not None and number not in segments):
                    continue
                if normalized(node)[0][9]:
                    name = str(normalized(node)[0][1].target)
                    made[node] = lambda x, *rest, name=name: self.side.linear(name, x, *rest[:-3], "", 0, "")
        return made

    def cache(self) -> Mapping[fx.Node, Callable[..., Any]]:
        """Calls that don't round keys and values."""
        made: dict[fx.Node, Callable[..., Any]] = {}
        for attention in self.side.module.find(_OPS.paged_attention.default):
            pool = attention.args[3]
            if isinstance(pool, fx.Node) and pool.meta["val"].dtype == torch.float16:
                made[attention] = unpaged
            for value in attention.args[1:3]:
                pair = value.args[0] if isinstance(value, fx.Node) and value.args else None
                if isinstance(pair, fx.Node) and pair.target is _OPS.quantize_activation.default:
                    made[pair] = lambda x, *rest: (x, torch.ones((*x.shape[:-1], 1)))
        return made

    def error(self, item: Packed) -> float:
        """Power of the difference between a weight and its packed form, over the weight's power: a first guess."""
        stored = self._expanded(item)[item.rows].double()
        own = self._value(item, stored.float(), None).double()
        return float((stored - own).square().sum() / own.square().sum().clamp(min=1e-30))

    def _expanded(self, item: Packed) -> Tensor:
        node = item.nodes[0]
        values = normalized(node)[0]
        at = 0 if node.target is _OPS.dequantize.default else 1
        parts = [
            self.side.module.weights[str(v.target)] if isinstance(v, fx.Node) else None
            for v in values[at : at + 4]
        ]
        form, group = values[at + 4 : at + 6] if at == 0 else values[6:8]
        if node.target is _EMBEDDING:
            form, group = values[5:7]
        rows = int(values[8]) if node.target is _LINEAR else int(values[6]) if at == 0 else 1
        packed, scale, zero, whole = parts
        assert packed is not None
        assert scale is not None
        return self.side.expanded(
            item.stored, lambda: dequantize(packed, scale, zero, whole, form, group, rows, torch.float32)
        )

    def _value(
        self, item: Packed, stored: Tensor, value: Callable[[Packed, Tensor], Tensor] | None
    ) -> Tensor:
        own = self.original.weights[item.name].float()
        if self.prescaled:  # what remains of the factors of channels, by least squares
            own = own * ((stored * own).sum(0) / own.square().sum(0).clamp(min=1e-30))
        return value(item, own) if value else own

    def _call(
        self,
        node: fx.Node,
        items: Sequence[Packed],
        value: Callable[[Packed, Tensor], Tensor] | None,
        exact: Sequence[slice],
    ) -> Callable[..., Any]:
        weight: list[Tensor] = []

        def mixed() -> Tensor:
            if not weight:
                made = self._expanded(items[0]).clone()
                for item in items:
                    made[item.rows] = self._value(item, made[item.rows], value)
                weight.append(made)
            return weight[0]

        def linear(x: Tensor, *rest: Any) -> Tensor:
            act, group, scale = rest[-3:]
            weight, bias = mixed().to(x.dtype), rest[4]
            made = functional.linear(rounded(x, act, group, scale), weight, bias)
            for rows in exact if act else ():
                made[..., rows] = functional.linear(x, weight[rows], None if bias is None else bias[rows])
            return made

        if node.target is _LINEAR:
            return linear
        if node.target is _EMBEDDING:
            return lambda ids, *rest: mixed()[ids]
        return lambda *operands: mixed()
