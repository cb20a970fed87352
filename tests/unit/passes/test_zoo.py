"""What canonicalize and fuse make of twelve architectures: same logits, and every fusion the configuration implies."""

from __future__ import annotations

import pytest
import torch

from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.ir.text import module_text
from optcc.pm import Context, parse_pipeline
from optcc.pm.instruments import Check
from optcc.pm.run import run_pass, run_pipeline
from tests import zoo
from tests.unit.passes.conftest import Capture
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


@pytest.mark.parametrize("name", zoo.NAMES)
def test_stages_keep_logits_and_fuse_all_there_is(captured: Capture, name: str) -> None:
    model = captured(name)
    module = model.module.clone()
    assert _run(module, CANONICALIZE)
    assert module.attrs["form"] == "canonical"
    assert model.error(module) < TOLERANCE
    canonical = module_text(module)
    assert not _run(module, CANONICALIZE), "a second run changes something"
    assert module_text(module) == canonical
    assert not module.find(torch.ops.aten.transpose.int, torch.ops.aten.sym_size.int)

    _run(module, FUSE)
    assert model.error(module) < TOLERANCE
    wanted = {key: count for key, count in model.facts.items() if key != "linears"}
    assert _counts(module) == wanted
    assert not _run(module, FUSE), "a second run changes something"
    layers = wanted["attentions"]
    fused = 4 * layers + 1  # qkv, out, up (with gate), down; and the head
    extra = {"opt": 2}.get(name, 0)  # projections into and out of the embedding's width
    assert len(module.find(torch.ops.aten.linear.default)) == fused + extra


@pytest.mark.parametrize("name", ["gemma3", "phi3", "gpt2"])
def test_every_pass_keeps_logits(captured: Capture, name: str) -> None:
    model = captured(name)
    module = model.module.clone()
    for step in parse_pipeline(f"{CANONICALIZE},{FUSE}"):
        if run_pass(module, step, Context(), [Check()]):
            assert model.error(module) < TOLERANCE, str(step)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox"])
def test_new_nodes_keep_their_source_line(captured: Capture, name: str) -> None:
    module = captured(name).module.clone()
    _run(module, f"{CANONICALIZE},{FUSE}")
    # What capture itself adds around the model has no line.
    silent = {"aten.select.int", "aten.reshape.default", "aten._to_copy.default"}
    lost = [
        n.name
        for n in module.nodes()
        if n.op == "call_function" and not n.meta.get("source") and str(n.target) not in silent
    ]
    assert not lost
    lines = {n.meta["source"].split(":")[0] for n in module.find(_OPS.rope.default, _OPS.gated_activation.default)}
    assert all("modeling_" in line for line in lines)


@pytest.mark.parametrize("name", ["phi3", "gemma3"])
def test_resuming_from_text_gives_the_same_graph(captured: Capture, name: str) -> None:
    module = captured(name).module.clone()
    _run(module, CANONICALIZE)
    resumed = parse_module(module_text(module), module.weights.clone())
    copied = module.clone()
    _run(resumed, FUSE)
    _run(copied, FUSE)
    assert module_text(resumed) == module_text(copied)


def test_ties_survive(captured: Capture) -> None:
    """gpt2, qwen2 and gemma2 multiply by their embedding: one weight, read twice."""
    for name in ("gpt2", "qwen2", "gemma2"):
        module = captured(name).module.clone()
        _run(module, f"{CANONICALIZE},{FUSE}")
        embedding = module.find(torch.ops.aten.embedding.default)[0].args[0]
        head = module.find(torch.ops.aten.linear.default)[-1].args[1]
        assert embedding is head


def test_memory_of_weights_does_not_grow(captured: Capture) -> None:
    for name in ("llama", "gpt2", "gemma3"):
        before = captured(name).module
        module = before.clone()
        _run(module, f"{CANONICALIZE},{FUSE}")
        assert module.weight_bytes() <= before.weight_bytes()
