"""A graph as nn.Linear modules computes what the graph does, and gives back what a tool changed."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from optcc.ir.interpret import interpret
from optcc.ir.parse import parse_module
from optcc.quant.select import select_weights
from optcc.quant.siblings import Siblings, find_siblings
from optcc.quant.view import GraphView
from optcc.recipe.schemes import load_scheme
from tests.unit.passes.conftest import step
from tests.unit.quant.conftest import Canonical

SHARED = """\
optcc.ir 1
attrs {"form": "canonical", "kind": "function"}
graph model {
  %x : f32[T, 8] = input
  %a : f32[T, 8] = aten.linear.default(%x, @block.weight, @one)
  %b : f32[T, 8] = aten.linear.default(%a, @block.weight, @two)
  %c : f32[T, 8] = aten.linear.default(%b, @block.inner.weight)
  %d : f32[T, 8] = aten.linear.default(%b, @forward, %late)
  %late : f32[8] = aten.mul.Tensor(@one, @two)
  %e : f32[T, 8] = aten.add.Tensor(%c, %d)
  return y = %e
}
weights {
  @block.inner.weight : f32[8, 8]
  @block.weight : f32[8, 8]
  @forward : f32[8, 8]
  @one : f32[8]
  @two : f32[8]
}
"""
LATE = "  %late : f32[8] = aten.mul.Tensor(@one, @two)\n"


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi3", "gpt2", "gemma2"])
def test_the_view_computes_what_the_graph_does(canonical: Canonical, name: str) -> None:
    module, inputs = canonical(name), step()
    wanted = interpret(module, inputs)["logits"]
    selected = [s for s in select_weights(module, load_scheme("int8-channel")) if s.linears]
    alone = GraphView(module, [Siblings((s.name,), s.linears) for s in selected])
    assert torch.equal(alone(**inputs)["logits"], wanted)
    together = GraphView(module, find_siblings(selected))
    assert (together(**inputs)["logits"] - wanted).abs().max() < 1e-5 * wanted.abs().max()
    for view in (alone, together):
        assert all(torch.equal(view.weight(s.name), module.weights[s.name]) for s in selected)
    linears = [m for m in together.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == len(together.groups) <= len(selected)


def test_modules_are_called_as_their_weights(canonical: Canonical) -> None:
    module = canonical("llama")
    view = GraphView(module, find_siblings(select_weights(module, load_scheme("int4-g32"))))
    names = [n for n, m in view.named_modules() if isinstance(m, nn.Linear)]
    layer = ["self_attn.q_proj_k_proj_v_proj", "self_attn.o_proj", "mlp.gate_proj_up_proj", "mlp.down_proj"]
    assert names == [f"model.layers.{i}.{n}" for i in range(3) for n in layer]
    linear = view.get_submodule("model.layers.1.self_attn.q_proj_k_proj_v_proj")
    assert isinstance(linear, nn.Linear)
    assert linear.weight.shape == (128, 64) and linear.bias is not None


def test_what_a_tool_changes_is_computed_with_and_read_back(canonical: Canonical) -> None:
    """A tied head: the embedding reads the linear's tensor. The weight files stay as they are."""
    module, inputs = canonical("qwen2"), step()
    tied = next(s for s in select_weights(module, load_scheme("int8-g64")) if s.embeddings)
    path = module.weights.refs[tied.name].path
    before, digest = interpret(module, inputs)["logits"], hashlib.sha256(path.read_bytes()).hexdigest()
    view = GraphView(module, find_siblings([tied]))
    with torch.no_grad():
        view.linear(tied.name).weight.mul_(0.5)
    halved = module.clone()
    halved.weights.put(tied.name, module.weights[tied.name] * 0.5)
    assert torch.equal(view.weight(tied.name), halved.weights[tied.name])
    assert torch.equal(view(**inputs)["logits"], interpret(halved, inputs)["logits"])
    assert torch.equal(interpret(module, inputs)["logits"], before)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def test_a_weight_of_two_linears_is_one_module_and_names_never_collide() -> None:
    module = parse_module(SHARED.replace(LATE, "").replace("  %a :", LATE + "  %a :"))
    torch.manual_seed(0)
    for name in list(module.weights):
        module.weights.put(name, torch.randn(module.weights.spec(name)[1]))
    groups = find_siblings(select_weights(module, load_scheme("int8-channel")))
    assert sorted(g.weights for g in groups) == [("block.inner.weight", "forward"), ("block.weight",)]
    view = GraphView(module, groups)
    x = {"x": torch.randn(5, 8)}
    assert torch.allclose(view(**x)["y"], interpret(module, x)["y"], atol=1e-6)
    calls = []
    view.linear("block.weight").register_forward_hook(lambda *_: calls.append(1))
    view(**x)
    assert len(calls) == 2
    single = GraphView(
        module, [Siblings((n,), g.linears[i : i + 1]) for g in groups[1:] for i, n in enumerate(g.weights)]
    )
    names = [n for n, m in single.named_modules() if isinstance(m, nn.Linear)]
    assert "forward_" in names and torch.allclose(single(**x)["y"], interpret(module, x)["y"])
