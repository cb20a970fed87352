"""Running a graph with gradients computes what the interpreter does; gradients are those of finite differences."""

from __future__ import annotations

import pytest
import torch

from optcc.ir.interpret import interpret
from optcc.pm import Context, parse_pipeline
from optcc.pm.run import run_pipeline
from optcc.quant.differentiable import run_differentiable
from tests.unit.passes.conftest import Capture
from tests.unit.passes.pipelines import CANONICALIZE


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("llama", ""),
        ("gemma2", ""),  # windows and soft-caps
        ("granite_swa", ""),  # sinks
        ("gpt2", ",quantize.linear{scheme=int8-g64}"),
        (
            "qwen3",
            ",quantize.linear{scheme=int8-g64-a8},fuse.dequant-linear,fuse.gated-mlp,fuse.add-rms-norm",
        ),
    ],
)
def test_values(captured: Capture, name: str, more: str) -> None:
    model = captured(name)
    module = model.module.clone()
    run_pipeline(module, parse_pipeline(CANONICALIZE + more), Context())
    wanted = interpret(module, model.inputs)["logits"]
    found = run_differentiable(module, model.inputs, module.weights.__getitem__)["logits"]
    # Rounding of activations may flip where sums differ in the last bit.
    bar = 0.02 if "a8" in more else 1e-5
    assert float((found - wanted).abs().max() / wanted.abs().max()) < bar


def test_gradients(captured: Capture) -> None:
    """Along the gradient of a weight of the first layer, through attention, rope, norms and gated products."""
    model = captured("llama")
    module = model.module.clone()
    run_pipeline(module, parse_pipeline(CANONICALIZE), Context())
    name = "model.layers.0.self_attn.q_proj.weight"
    start = module.weights[name].clone()
    mask = torch.randn(len(model.inputs["logit_rows"]), 160, generator=torch.Generator().manual_seed(0))

    def result(weight: torch.Tensor) -> torch.Tensor:
        found = run_differentiable(module, model.inputs, lambda n: weight if n == name else module.weights[n])
        return (found["logits"].double() * mask).sum()

    weight = start.clone().requires_grad_()
    result(weight).backward()
    assert weight.grad is not None
    slope = weight.grad / weight.grad.norm()
    step = 1e-2
    with torch.no_grad():
        measured = (result(start + step * slope) - result(start - step * slope)) / (2 * step)
    assert float(measured) == pytest.approx(float(weight.grad.norm()), rel=1e-2)


def test_activations_are_passed_straight_through(captured: Capture) -> None:
    model = captured("llama")
    module = model.module.clone()
    run_pipeline(module, parse_pipeline(f"{CANONICALIZE},quantize.linear{{scheme=int8-g64-a8}}"), Context())
    norm = module.weights["model.layers.0.input_layernorm.weight"].clone().requires_grad_()
    found = run_differentiable(
        module,
        model.inputs,
        lambda n: norm if n == "model.layers.0.input_layernorm.weight" else module.weights[n],
    )
    found["logits"].square().mean().backward()
    assert norm.grad is not None
    assert bool((norm.grad != 0).all())
