"""One of two modules that compute the same stream: any of its segments runs on any value of the stream.

What doesn't depend on the tokens' embedding (rotary tables, sizes, masks) is computed once. Packed weights are expanded
once while they fit the budget; the arithmetic is that of the operators' references.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from optcc.compile.proof.run import Batch, is_paged, paged_inputs
from optcc.compile.stream import find_segments
from optcc.errors import NothingToBlame
from optcc.ir.interpret import run_node
from optcc.ir.module import Module
from optcc.ir.ops.quantized import dequantize, quantize_activation
from optcc.ir.pattern import normalized

_OPS = torch.ops.optcc
BUDGET = 2 << 30
"""Bytes of expanded weights that are held."""

Weight = Callable[[], Tensor]
Put = Mapping[fx.Node, Callable[..., Any]]
"""For some nodes, what to call instead."""


class Side:
    """A module cut into segments.

    Args:
        module: a decoder at any point of a pipeline; not changed.
        batches: inputs of the captured module, one window each.
    """

    def __init__(self, module: Module, batches: Sequence[Batch]) -> None:
        self.module = module
        self.segments = find_segments(module)
        inputs = [paged_inputs(module, b) if is_paged(module) else dict(b) for b in batches]
        self._lanes = [self._outside(values) for values in inputs]
        self._expanded: dict[str, Tensor] = {}
        self._held = 0

    def _outside(self, inputs: Mapping[str, Tensor]) -> dict[fx.Node, Any]:
        """Values that don't depend on the stream, for one window; sizes of values of the stream too."""
        inside = {node for s in self.segments for node in s.nodes}
        found: dict[fx.Node, Any] = {}
        nodes = list(self.module.graph.nodes)
        with torch.no_grad():
            for node in nodes:
                if node in inside or node.op in ("output", "get_attr"):
                    continue
                if any(n in inside for n in node.all_input_nodes):
                    if not isinstance(node.meta["val"], Tensor | tuple | list):
                        found[node] = _size(node, inputs, self.module)
                    continue
                if node.op == "call_function" and self._is_constant(node):
                    continue
                operands = {n: found[n] if n in found else self._constant(n) for n in node.all_input_nodes}
                found[node] = run_node(self.module, node, operands, inputs)
        return found

    def _is_constant(self, node: fx.Node) -> bool:
        return bool(node.all_input_nodes) and all(
            n.op == "get_attr" or (n.op == "call_function" and self._is_constant(n))
            for n in node.all_input_nodes
        )

    def _constant(self, node: fx.Node) -> Any:
        """A weight, or what is made of weights alone."""
        operands = {n: self._constant(n) for n in node.all_input_nodes}
        if node.target is _OPS.dequantize.default:
            values = normalized(node)[0]
            return self.expanded(str(values[0].target), lambda: run_node(self.module, node, operands, {}))
        return run_node(self.module, node, operands, {})

    def expanded(self, name: str, make: Weight) -> Tensor:
        """A packed weight in floating point; kept while there is room."""
        if name in self._expanded:
            return self._expanded[name]
        made = make()
        if self._held + made.nbytes <= BUDGET:
            self._held += made.nbytes
            self._expanded[name] = made
        return made

    def run(self, number: int, lane: int, stream: Tensor | None, put: Put | None = None) -> Tensor:
        """The stream behind a segment; of the last one, the logits.

        Args:
            number: of the segment.
            lane: which window.
            stream: what stands before it; None before the embedding.
            put: what to call for some nodes.
        """
        outside = self._lanes[lane]
        values: dict[fx.Node, Any] = {}
        with torch.no_grad():
            if number:
                entry = self.segments[number - 1].end
                assert stream is not None
                values[entry] = self._entered(entry, stream, outside)
            for node in self.segments[number].nodes:
                operands = {n: self._operand(n, values, outside, put) for n in node.all_input_nodes}
                own = (put or {}).get(node)
                values[node] = run_node(self.module, node, operands, {}, own or self._call(node))
        found = values[self.segments[number].end]
        made: Tensor = found[1] if isinstance(found, tuple) else found
        return made

    def _operand(
        self, node: fx.Node, values: Mapping[fx.Node, Any], outside: Mapping[fx.Node, Any], put: Put | None
    ) -> Any:
        if node in values:
            return values[node]
        if node in outside:
            return outside[node]
        if put and node in put:
            return put[node]()
        return self._constant(node)

    def _entered(self, entry: fx.Node, stream: Tensor, outside: Mapping[fx.Node, Any]) -> Any:
        """A cut's value; a sum that is fused with a norm is normed again."""
        kind = entry.meta["val"]
        fused = entry.target is _OPS.add_rms_norm.default
        rows = stream.reshape([d if isinstance(d, int) else -1 for d in (kind[0] if fused else kind).shape])
        if not fused:
            return rows
        _, _, weight, eps = normalized(entry)[0]
        return _OPS.add_rms_norm(rows, torch.zeros_like(rows), self._operand(weight, {}, outside, None), eps)

    def _call(self, node: fx.Node) -> Callable[..., Any] | None:
        """Quantized linears over expanded weights, and attention without pages."""
        if node.target is _OPS.quantized_linear.default:
            name = str(normalized(node)[0][1].target)
            return lambda *operands: self.linear(name, *operands)
        if node.target is _OPS.paged_attention.default:
            pool = node.args[3]
            assert isinstance(pool, fx.Node)
            return partial(unpaged, half=pool.meta["val"].dtype == torch.float16)
        return None

    def linear(self, name: str, x: Tensor, *rest: Any) -> Tensor:
        """`quantized_linear` over the expanded weight."""
        packed, scale, zero, whole, bias, form, group, rows, act, act_group, act_scale = rest
        weight = self.expanded(
            name, lambda: dequantize(packed, scale, zero, whole, form, group, rows, x.dtype)
        )
        return functional.linear(rounded(x, act, act_group, act_scale), weight, bias)


def rounded(x: Tensor, form: str, group: int, scale: str) -> Tensor:
    """What a quantized linear reads: x quantized and back; x itself without a format."""
    if not form:
        return x
    values, scales = quantize_activation(x, form, group, scale, None)
    return dequantize(values, scales, None, None, form, group, 1, x.dtype)


def unpaged(*operands: Any, half: bool = False, **named: Any) -> Tensor:
    """Paged attention of one whole window, without its pages; packed keys and values are unpacked.

    Args:
        operands, named: of the operator.
        half: round keys and values to float16, as pools of that type do.
    """
    q, k, v, _, _, _, starts, _, _, scale, *rest = operands
    window = named.get("window", rest[0] if rest else 0)
    softcap = named.get("softcap", rest[1] if len(rest) > 1 else 0.0)
    scales = rest[2:]
    k_scale = named.get("k_scale", scales[0] if scales else None)
    v_scale = named.get("v_scale", scales[1] if len(scales) > 1 else None)
    if k_scale is not None and v_scale is not None:
        k = (k.float() * k_scale.float()).to(q.dtype)
        v = (v.float() * v_scale.float()).to(q.dtype)
    if half:
        k, v = k.half().to(q.dtype), v.half().to(q.dtype)
    sinks = named.get("sinks", scales[4] if len(scales) > 4 else None)
    found: Tensor = _OPS.attention(q, k, v, starts, scale, window, softcap, sinks)
    return found


def _size(node: fx.Node, inputs: Mapping[str, Tensor], module: Module) -> int:
    """A size of a value of the stream: a number, or the number of tokens."""
    text = module.dims.show(node.meta["val"])
    tokens = next(n for n in module.inputs() if n.name == "input_ids").meta["val"].shape[0]
    if text.isdigit():
        return int(text)
    if text == module.dims.show(tokens):
        return len(inputs["input_ids"])
    raise NothingToBlame(
        f"%{node.name} is a size {text} of a value of the stream", hint="optcc bisect works on any graph"
    )
