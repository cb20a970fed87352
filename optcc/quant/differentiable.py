"""Run a canonical graph so that gradients flow through it.

The operators of `optcc::` have no autograd formulas: kernels need none. Here their references stand in for them, which
autograd follows by itself; attention goes through torch's own fused kernel where that computes the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from optcc.ir.interpret import last_uses
from optcc.ir.module import Module
from optcc.ir.ops.activation import gated_activation
from optcc.ir.ops.attention import attention as reference_attention
from optcc.ir.ops.attention import masked_attention
from optcc.ir.ops.norm import add_rms_norm, rms_norm
from optcc.ir.ops.quantized import dequantize
from optcc.ir.ops.rope import rope

_OPS = torch.ops.optcc


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_starts: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    """`optcc::attention`: causal, requests laid end to end; q [T,H,C], k and v [T,G,C] -> [T,H,C]."""
    if softcap > 0 or window > 0 or sinks is not None:
        return reference_attention(q, k, v, query_starts, scale, window, softcap, sinks)
    share = q.shape[1] // k.shape[1]
    done = []
    for begin, end in pairwise(query_starts.tolist()):
        heads = [x[begin:end].transpose(0, 1) for x in (q, k, v)]
        heads[1:] = [x.repeat_interleave(share, 0) for x in heads[1:]]
        done.append(
            F.scaled_dot_product_attention(
                heads[0], heads[1], heads[2], is_causal=True, scale=scale
            ).transpose(0, 1)
        )
    return torch.cat(done)


_REFERENCES: Mapping[object, Callable[..., Any]] = {
    _OPS.rms_norm.default: rms_norm,
    _OPS.add_rms_norm.default: add_rms_norm,
    _OPS.rope.default: rope,
    _OPS.gated_activation.default: gated_activation,
    _OPS.attention.default: attention,
    _OPS.masked_attention.default: masked_attention,
}


def run_differentiable(
    module: Module,
    inputs: Mapping[str, Tensor],
    weights: Callable[[str], Tensor],
    made: Mapping[fx.Node, Callable[[], Tensor]] | None = None,
    graph: str = "model",
) -> dict[str, Tensor]:
    """Run a graph under whatever gradient mode is on.

    Activations that the graph quantizes are rounded in the forward pass and passed straight through in the backward
    pass (Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013).

    Args:
        module: canonical; not changed.
        inputs: a tensor for every input, by name.
        weights: a weight by name.
        made: nodes whose values are computed by these functions instead (weights under training).
        graph: which graph.

    Returns:
        The graph's results by name.
    """
    made = made or {}

    def reads(node: fx.Node) -> list[fx.Node]:
        x = None if node in made else _quantized_activation(node)
        return [*node.all_input_nodes, *([x] if x else [])]

    last = last_uses(module.graphs[graph].nodes, reads)
    values: dict[fx.Node, Any] = {}
    for node in module.graphs[graph].nodes:
        if node.op == "output":
            results = fx.map_arg(node.args[0], lambda n: values[n])
            return dict(zip(module.output_names(graph), results, strict=True))
        if node in made:
            values[node] = made[node]()
        elif node.op == "placeholder":
            values[node] = inputs[node.name]
        elif node.op == "get_attr":
            if any(user not in made for user in node.users):
                values[node] = weights(str(node.target))
        else:
            values[node] = _call(node, values)
        for done in last.get(node, ()):
            values.pop(done, None)
    raise AssertionError(f"graph {graph} has no output")


def _call(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    args: Any = fx.map_arg(node.args, lambda n: values[n])
    kwargs: Any = fx.map_arg(node.kwargs, lambda n: values[n])
    x = _quantized_activation(node)
    if x is not None:
        # The operator's own rounding, without a gradient of its own.
        plain: list[Any] = [a.detach() if isinstance(a, Tensor) else a for a in args]
        rounded = dequantize(*plain)
        return values[x] + (rounded - values[x]).detach()
    target = _REFERENCES.get(node.target, node.target)
    assert callable(target)
    return target(*args, **kwargs)


def _quantized_activation(node: fx.Node) -> fx.Node | None:
    """The operand x of `dequantize(quantize_activation(x))` or of `dequantize(quantize_static(x))`."""
    if node.target is not _OPS.dequantize.default:
        return None
    packed = node.args[0]
    assert isinstance(packed, fx.Node)
    source = (
        packed if packed.target is _OPS.quantize_static.default else packed.args[0] if packed.args else None
    )
    if not isinstance(source, fx.Node):
        return None
    if source.target not in (_OPS.quantize_activation.default, _OPS.quantize_static.default):
        return None
    x = source.args[0]
    assert isinstance(x, fx.Node)
    return x
