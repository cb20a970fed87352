"""The KV pools of all layers as one input of each kind: what a run is given costs time, and so does asking for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optcc.backends.onnxruntime.native import DOMAIN

if TYPE_CHECKING:
    import onnx_ir as ir

ATTENTION, LAYER = "PagedAttention", "layer"
PORTS = {3: "k_pool", 4: "v_pool", 10: "k_scale_pool", 11: "v_scale_pool"}
"""Inputs of our attention that are pools, and what they are called: `k_pool_<layer>`."""
SCALE_PORTS = (10, 11)


def stack_pools(inputs: Sequence[ir.Value], nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """The inputs of a graph, with `k_pools` of type [L, N, K, G, C] in place of `k_pool_<layer>`, and so on.

    Each attention then says which layer's it reads and writes. Where layers differ in shape or type, or an attention is
    not our own, all stays as it is.
    """
    attentions = [node for node in nodes if node.domain == DOMAIN and node.op_type == ATTENTION]
    if not attentions:
        return list(inputs)
    given = {id(value) for value in inputs}
    found: dict[int, list[ir.Value]] = {}
    for port, name in PORTS.items():
        pools = [node.inputs[port] for node in attentions if port < len(node.inputs)]
        values = [pool for pool in pools if pool is not None and id(pool) in given]
        if {value.name for value in values} != {f"{name}_{layer}" for layer in range(len(attentions))}:
            if any(pool is not None for pool in pools):
                return list(inputs)
            continue
        if any((value.type, value.shape) != (values[0].type, values[0].shape) for value in values):
            return list(inputs)
        found[port] = values
    stacked = [_stack(port, pools, attentions) for port, pools in found.items()]
    gone = {id(pool) for pools in found.values() for pool in pools}
    return [value for value in inputs if id(value) not in gone] + stacked


def _stack(port: int, pools: Sequence[ir.Value], attentions: Sequence[ir.Node]) -> ir.Value:
    """One value in place of a pool for each attention."""
    import onnx_ir as ir

    shape = ir.Shape([len(pools), *(pools[0].shape or ())])
    stacked = ir.Value(name=f"{PORTS[port]}s", type=pools[0].type, shape=shape)
    for node, pool in zip(attentions, pools, strict=True):
        layer = str(pool.name).rpartition("_")[2]
        node.attributes[LAYER] = ir.AttrInt64(LAYER, int(layer))
        node.replace_input_with(port, stacked)
    return stacked
