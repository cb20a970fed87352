"""When the pools of all layers become one input."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from optcc.backends.onnxruntime.lower.pools import LAYER, stack_pools
from optcc.backends.onnxruntime.native import DOMAIN


def value(name: str, width: int = 64, kind: ir.DataType = ir.DataType.INT8) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(["N", 16, 3, width]))


def attention(pools: list[ir.Value], domain: str = DOMAIN) -> ir.Node:
    return ir.Node(domain, "PagedAttention", [value("query"), None, None, *pools])


def test_each_attention_says_whose_layer_it_takes() -> None:
    layers = [[value(f"k_pool_{i}"), value(f"v_pool_{i}")] for i in range(3)]
    other = value("input_ids")
    nodes = [attention(pools) for pools in layers]
    inputs = stack_pools([other, *layers[0], *layers[1], *layers[2]], nodes)
    assert [x.name for x in inputs] == ["input_ids", "k_pools", "v_pools"]
    assert inputs[1].shape == ir.Shape([3, "N", 16, 3, 64])
    for i, node in enumerate(nodes):
        assert [node.inputs[3], node.inputs[4]] == inputs[1:]
        assert node.attributes[LAYER].as_int() == i


@pytest.mark.parametrize("what", ["width", "type", "no input", "name", "one without", "whose"])
def test_layers_that_differ_keep_their_own(what: str) -> None:
    second = value(
        "k_pool_7" if what == "name" else "k_pool_1",
        32 if what == "width" else 64,
        ir.DataType.FLOAT16 if what == "type" else ir.DataType.INT8,
    )
    layers = [[value("k_pool_0"), value("v_pool_0")], [second, value("v_pool_1")]]
    inputs = [pool for pools in layers for pool in pools]
    if what == "no input":
        inputs.remove(second)
    if what == "one without":
        layers[1].pop()
    domain = "com.microsoft" if what == "whose" else DOMAIN
    nodes = [attention(pools, domain) for pools in layers]
    assert stack_pools(inputs, nodes) == inputs
    assert [list(node.inputs[3:]) for node in nodes] == layers
    assert not any(LAYER in node.attributes for node in nodes)
