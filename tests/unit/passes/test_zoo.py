"""What canonicalize and fuse make of thirteen architectures: same logits, and every fusion implied."""

from __future__ import annotations

import pytest
import torch

from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.ir.text import module_text
from optcc.ir.types import show_type
from optcc.pm import Context, parse_pipeline
from optcc.pm.instruments import Check
from optcc.pm.run import run_pass, run_pipeline
from tests import zoo
from tests.unit.passes.conftest import Capture, Captured
from tests.unit.passes.pipelines import CANONICALIZE, FUSE

TOLERANCE = 1e-5
_OPS = torch.ops.optcc


def _run(module: Module, text: str) -> bool:
    return run_pipeline(module, parse_pipeline(text), Context(), [Check()])


def _counts(module: Module) -> dict[str, int]:
    return {
        "rms_norms": len(module.find(_OPS.rms_norm.default, _OPS.add_rms_norm.default)),
        "layer_norms": len(module.find(torch.ops.aten.layer_norm.default)),
        "ropes": len(module.find(_OPS.rope.default)),
        "gated_mlps": len(module.find(_OPS.gated_activation.default)),
        "attentions": len(module.find(_OPS.attention.default)),
    }


def _step_by_step(model: Captured, module: Module, stage: str) -> None:
    """Every single pass keeps the logits."""
    for step in parse_pipeline(stage):
        if run_pass(module, step, Context(), [Check()]):
            assert model.error(module) < TOLERANCE, str(step)


def _check_sources(module: Module) -> None:
    """New nodes have the line of what they replace; what capture itself adds around the model has none."""
    silent = {"aten.select.int", "aten.reshape.default", "aten._to_copy.default"}
    calls = [n for n in module.nodes() if n.op == "call_function" and str(n.target) not in silent]
    assert not [n.name for n in calls if not n.meta.get("source")]
    fused = module.find(_OPS.rope.default, _OPS.gated_activation.default)
    assert all("modeling_" in n.meta["source"] for n in fused)


def _check_tie(module: Module) -> None:
    embedding = module.find(torch.ops.aten.embedding.default)[0].args[0]
    assert module.find(torch.ops.aten.linear.default)[-1].args[1] is embedding


def _rows_behind_attention(module: Module) -> set[str]:
    """How many rows the linears behind the last attention are of."""
    last = module.find(_OPS.attention.default)[-1]
    linears = [n for n in module.find(torch.ops.aten.linear.default) if last < n]
    return {show_type(n.meta["val"], module.dims).partition("[")[2].split(", ")[-2] for n in linears}


@pytest.mark.parametrize("name", zoo.NAMES)
def test_architecture(captured: Capture, name: str) -> None:
    """One test per architecture: capturing costs more than all checks together."""
    model = captured(name)
    module = model.module.clone()
    stepwise = name in ("gemma3", "phi3", "gpt2")
    if stepwise:
        _step_by_step(model, module, CANONICALIZE)
    else:
        assert _run(module, CANONICALIZE)
    assert module.attrs["form"] == "canonical"
    assert model.error(module) < TOLERANCE
    assert not module.find(torch.ops.aten.transpose.int, torch.ops.aten.sym_size.int)
    canonical = module_text(module)
    assert not _run(module, CANONICALIZE), "a second run changes something"
    assert module_text(module) == canonical
    resumed, module = parse_module(canonical, module.weights.clone()), module.clone()

    if stepwise:
        _step_by_step(model, module, FUSE)
    else:
        _run(module, FUSE)
    assert model.error(module) < TOLERANCE
    wanted = {key: count for key, count in model.facts.items() if key != "linears"}
    assert _counts(module) == wanted
    # qkv, out, up (with gate), down; the head; OPT's projections into and out of the embedding's width
    linears = 4 * wanted["attentions"] + 1 + (2 if name == "opt" else 0)
    assert len(module.find(torch.ops.aten.linear.default)) == linears
    assert _rows_behind_attention(module) == {"W"}
    assert module.weight_bytes() <= model.module.weight_bytes()
    _check_sources(module)
    if name in ("gpt2", "qwen2", "gemma2"):
        _check_tie(module)

    fused = module_text(module)
    assert not _run(module, FUSE), "a second run changes something"
    _run(resumed, FUSE)
    assert module_text(resumed) == fused, "a graph read back from text goes another way"


@pytest.mark.parametrize(
    ("name", "scheme"), [("gemma2", "int8-g32-a8"), ("llama", "int8-g64"), ("phi3", "int8-channel")]
)
def test_fusions_of_quantized_models(captured: Capture, name: str, scheme: str) -> None:
    """Quantize, then fuse: the same numbers as without fusions, every linear quantized, nothing expanded."""
    model = captured(name)
    module = model.module.clone()
    _run(module, f"{CANONICALIZE},quantize.linear{{scheme={scheme}}}")
    plain = interpret(module, model.inputs)["logits"]
    _run(module, FUSE)
    fused = interpret(module, model.inputs)["logits"]
    # Rounding of activations may flip where sums differ in the last bit.
    bar = 0.02 if scheme.endswith("a8") else TOLERANCE
    assert float((fused - plain).abs().max() / plain.abs().max()) < bar
    assert not module.find(_OPS.dequantize.default, _OPS.quantize_activation.default)
    assert not module.find(torch.ops.aten.linear.default)
    assert len(module.find(_OPS.quantized_linear.default)) == 4 * model.facts["attentions"] + 1
    assert _counts(module)["gated_mlps"] == model.facts["gated_mlps"]
    schemes = module.attrs["schemes"]
    assert isinstance(schemes, dict)
    assert {name.removesuffix(".packed") for name in module.weights if name.endswith(".packed")} == set(
        schemes
    )
