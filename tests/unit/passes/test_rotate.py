"""Rotating the residual stream keeps every model's logits, or says why it can't."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from optcc.errors import BadOption, PreconditionFailed
from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.ir.text import module_text
from optcc.pm import Context, parse_pipeline
from optcc.pm.instruments import Check
from optcc.pm.run import run_pipeline
from tests import zoo
from tests.unit.passes.conftest import Capture
from tests.unit.passes.pipelines import CANONICALIZE, FUSE

_POST_NORM = ("gemma2", "gemma3", "olmo2")
_TAKEN = tuple(name for name in zoo.NAMES if name not in _POST_NORM)


def _run(module: Module, text: str) -> bool:
    return run_pipeline(module, parse_pipeline(text), Context(), [Check()])


def _spread(weight: Tensor) -> float:
    """Largest over root-mean-square of each row's entries, averaged: how far single channels stand out."""
    return float((weight.abs().amax(-1) / weight.square().mean(-1).sqrt()).mean())


@pytest.mark.parametrize("name", _TAKEN)
def test_logits_stay(captured: Capture, name: str) -> None:
    model = captured(name)
    module = model.module.clone()
    _run(module, CANONICALIZE)
    tied = {n.args[0].target for n in module.find(torch.ops.aten.embedding.default)} & {
        n.args[1].target for n in module.find(torch.ops.aten.linear.default)
    }
    before = {n: module.weights[n].clone() for n in module.weights}
    assert _run(module, "quantize.rotate")
    assert model.error(module) < 1e-5
    # Everything that touches the stream has moved: two matrices of each layer at least, and the embedding.
    moved = [n for n in before if n in module.weights and not torch.equal(before[n], module.weights[n])]
    assert len(moved) >= 2 * model.facts["attentions"] * 2 + 1
    assert not module.find(torch.ops.aten.layer_norm.default)
    still = {n.args[0].target for n in module.find(torch.ops.aten.embedding.default)} & {
        n.args[1].target for n in module.find(torch.ops.aten.linear.default)
    }
    assert still == tied
    assert not _run(module, "quantize.rotate"), "a second run changes something"
    rotated = module_text(module)
    assert not _run(module, CANONICALIZE), "it is not canonical any more"
    resumed = parse_module(rotated, module.weights.clone())
    _run(module, FUSE)
    _run(resumed, FUSE)
    assert module_text(module) == module_text(resumed)
    assert model.error(module) < 1e-5


@pytest.mark.parametrize("name", _POST_NORM)
def test_norms_after_branches_are_refused(captured: Capture, name: str) -> None:
    module = captured(name).module.clone()
    _run(module, CANONICALIZE)
    before = module_text(module)
    with pytest.raises(PreconditionFailed, match="norm after a branch") as caught:
        _run(module, "quantize.rotate")
    assert f"modeling_{name}.py" in str(caught.value.where)
    assert module_text(module) == before


def _decoder(body: str, weights: str) -> Module:
    return parse_module(
        'optcc.ir 1\nattrs {"form": "canonical", "kind": "decoder"}\ngraph model {\n'
        "  %input_ids : i64[T] = input\n"
        "  %x : f32[T, 8] = aten.embedding.default(@embed, %input_ids)\n"
        f"{body}}}\nweights {{\n  @embed : f32[6, 8]\n{weights}}}\n"
    )


_NORM = "  %n : f32[T, 8] = optcc.rms_norm.default(%x, @g, 1e-06)\n"
_HEAD = "  %h : f32[T, 6] = aten.linear.default(%n, @head)\n"
_G, _W = "  @g : f32[8]\n", "  @head : f32[6, 8]\n"


@pytest.mark.parametrize(
    ("body", "weights", "why"),
    [
        (_NORM + _HEAD + "  return logits = %h, hidden = %x\n", _G + _W, "%output reads the residual stream"),
        (_NORM + _HEAD + "  return logits = %h, hidden = %n\n", _G + _W, "%output reads a norm"),
        (
            "  %s : f32[T, 8] = aten.silu.default(%x)\n  %y : f32[T, 8] = aten.add.Tensor(%x, %s)\n"
            + _NORM.replace("%x", "%y")
            + _HEAD
            + "  return logits = %h\n",
            _G + _W,
            "%s writes the residual stream and is neither a linear",
        ),
        (
            "  %y : f32[T, 8] = aten.mul.Tensor(%x, @v)\n"
            + _NORM.replace("%x", "%y")
            + _HEAD
            + "  return logits = %h\n",
            _G + _W + "  @v : f32[8]\n",
            "no residual stream|%y reads the residual stream",
        ),
        (
            _NORM
            + "  %a : f32[T, 8] = aten.linear.default(%n, @w)\n  %b : f32[T, 8] = aten.linear.default(%a, @w)\n"
            + "  %y : f32[T, 8] = aten.add.Tensor(%x, %b)\n"
            + "  %m : f32[T, 8] = optcc.rms_norm.default(%y, @g, 1e-06)\n"
            + _HEAD.replace("%n", "%m")
            + "  return logits = %h\n",
            _G + _W + "  @w : f32[8, 8]\n",
            "@w is shared",
        ),
    ],
)
def test_other_readers_are_refused(body: str, weights: str, why: str) -> None:
    module = _decoder(body, weights)
    with pytest.raises(PreconditionFailed, match=why):
        _run(module, "quantize.rotate")


def test_packed_weights_are_refused(captured: Capture) -> None:
    module = captured("llama").module.clone()
    _run(module, f"{CANONICALIZE},quantize.linear{{scheme=int8-g64}}")
    with pytest.raises(PreconditionFailed, match="rotate before quantizing"):
        _run(module, "quantize.rotate")


def test_a_vision_model_is_refused() -> None:
    module = parse_module(
        'optcc.ir 1\nattrs {"form": "canonical", "kind": "function"}\ngraph model {\n'
        "  %x : f32[B, 8] = input\n  %y : f32[B, 8] = aten.relu.default(%x)\n  return y = %y\n}\nweights {\n}\n"
    )
    with pytest.raises(PreconditionFailed, match="no residual stream"):
        _run(module, "quantize.rotate")


def test_outliers_go(captured: Capture) -> None:
    """One channel of the stream twenty times as large as the others: after rotation no column stands out."""
    module = captured("llama").module.clone()
    _run(module, CANONICALIZE)
    name = "model.embed_tokens.weight"
    table = module.weights[name].clone()
    table[:, 5] *= 20
    module.weights.put(name, table)
    before = _spread(table)
    _run(module, "quantize.rotate")
    assert before > 5
    assert _spread(module.weights[name]) < 2.5


def test_kinds(captured: Capture) -> None:
    model = captured("llama")
    module = model.module.clone()
    _run(module, CANONICALIZE)
    other = module.clone()
    _run(module, "quantize.rotate{kind=random seed=5}")
    _run(other, "quantize.rotate{seed=5}")
    assert model.error(module) < 1e-5
    assert module.attrs["rotation"] == {"seed": 5, "kind": "random", "width": 64}
    assert other.attrs["rotation"] == {"seed": 5, "kind": "hadamard", "width": 64}
    with pytest.raises(BadOption, match="haar"):
        _run(captured("llama").module.clone(), "quantize.rotate{kind=haar}")
