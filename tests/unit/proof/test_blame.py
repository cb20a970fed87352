"""`optcc blame`: planted faults of one layer are named, in few measurements, and the patch recovers the loss."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from optcc.compile import CompileOptions, compile_model
from optcc.compile.blame import BlameOptions, BlameResult, blame_artifact, blame_recipe
from optcc.compile.blame.side import Side
from optcc.compile.proof.run import run_once
from optcc.compile.stream import find_segments
from optcc.errors import NothingToBlame
from optcc.frontend import capture, resolve
from optcc.frontend.lift import to_module
from optcc.pm import Context, parse_pipeline, run_pipeline
from optcc.recipe import Recipe, load_recipe
from tests import zoo
from tests.unit.passes.pipelines import CANONICALIZE, FUSE

Recipes = Callable[..., Recipe]


def run(model: str, recipe: Recipe, cache: Path) -> BlameResult:
    return blame_recipe(model, recipe, None, BlameOptions(window=64, cache=cache))


def coarse(weight: str) -> str:
    """A quantize stage that keeps all but one weight well."""
    part = "vocabulary" if weight.startswith("lm_head") else "body"
    return (
        f"[quantize.linear: {{scheme: int8-g64, skip: [{weight}]}}, "
        f"quantize.linear: {{scheme: ternary-g64, only: [{weight}], part: {part}}}]"
    )


@pytest.mark.prove
@pytest.mark.parametrize(
    "weight",
    [
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.1.self_attn.o_proj.weight",
        "model.layers.2.mlp.up_proj.weight",
        "lm_head.weight",
    ],
)
def test_one_bad_weight_is_named_and_mended(
    model: str, cache: Path, recipe: Recipes, tmp_path: Path, weight: str
) -> None:
    result = run(model, recipe(quantize=coarse(weight)), cache)
    assert next(c.name for c in result.carriers if c.kind == "tensor") == weight
    assert result.probes <= 8
    patch = result.patch
    assert patch is not None and patch.effect is not None
    assert [u.item.name for u in patch.upgrades] == [weight] and patch.effect.share > 0.8
    path = tmp_path / "patch.yaml"
    path.write_text(patch.text)
    mended = run(model, load_recipe(str(path)), cache)
    assert mended.loss.value < 0.2 * result.loss.value


def test_a_pass_that_spoils_a_packed_weight_is_left_out(model: str, cache: Path, recipe: Recipes) -> None:
    weight = "model.layers.2.mlp.gate_proj.weight"
    fault = f"[quantize.linear: {{scheme: int8-g64}}, './faulty.py:DoubleScale': {{weight: {weight}}}]"
    result = run(model, recipe(quantize=fault), cache)
    assert result.carriers[0].name in (weight, "model.layers.2.mlp")
    assert "DoubleScale" in result.cause
    assert result.patch is not None and result.patch.dropped
    assert f"weight: {weight}" not in result.patch.text


def test_what_is_no_weight_s_fault_is_said_to_be_the_part_s(model: str, cache: Path, recipe: Recipes) -> None:
    fault = "['./faulty.py:SwapGateUp': {layer: 1}, quantize.linear: {scheme: int8-g64}]"
    result = run(model, recipe(quantize=fault), cache)
    assert result.carriers[0].segments == (4,)  # embedding, then two parts a layer
    assert "bisect" in result.cause and result.patch is None


def test_a_spread_loss_has_a_ranking_and_a_patch_that_is_measured(
    model: str, cache: Path, recipe: Recipes
) -> None:
    result = run(model, recipe(quantize="[quantize.linear: {scheme: int4-g32}]"), cache)
    shares = [c.effect.share for c in result.carriers]
    assert all(a > b - 0.01 for a, b in pairwise(shares)) and len(shares) > 4
    assert result.patch is not None and result.patch.effect is not None
    assert result.patch.effect.share >= 0.85
    assert len(result.patch.upgrades) < 23


@pytest.mark.parametrize(
    ("weight", "finest"),
    [("model.layers.0.mlp.up_proj.weight", "int8-g64"), ("model.layers.1.self_attn.o_proj.weight", "float")],
)
def test_a_patch_goes_on_to_what_the_scheme_itself_costs(
    model: str, cache: Path, recipe: Recipes, tmp_path: Path, weight: str, finest: str
) -> None:
    """A small fault in 8 bits: rounding everywhere is the rest of the loss, and one weight is too little."""
    fault = (
        f"[quantize.linear: {{scheme: int8-g64-a8, skip: [{weight}]}}, "
        f"quantize.linear: {{scheme: int4-g64, only: [{weight}]}}]"
    )
    result = run(model, recipe(quantize=fault), cache)
    patch = result.patch
    assert patch is not None and patch.effect is not None and patch.effect.share >= 0.85
    assert patch.upgrades[0].item.name == weight and len(patch.upgrades) > 1
    assert {u.scheme for u in patch.upgrades} == {finest}
    assert "no longer round" in patch.text
    path = tmp_path / "patch.yaml"
    path.write_text(patch.text)
    mended = run(model, load_recipe(str(path)), cache)
    assert mended.loss.value == pytest.approx(patch.effect.rest, rel=0.02)


def test_rounding_of_activations_and_of_the_cache_are_groups(
    model: str, cache: Path, recipe: Recipes
) -> None:
    for stage, kind in (
        ("quantize.linear: {scheme: int8-g32-a8}", "activations"),
        ("quantize.kv: {type: e4m3}", "cache"),
    ):
        kinds = {c.kind: c.effect for c in run(model, recipe(quantize=f"[{stage}]"), cache).carriers}
        assert kinds[kind].recovered.low > 0


def test_an_artifact_is_blamed_from_its_own_files(
    model: str, cache: Path, recipe: Recipes, tmp_path: Path
) -> None:
    weight = "model.layers.1.mlp.down_proj.weight"
    faulty = recipe(quantize=coarse(weight))
    compile_model(model, faulty, tmp_path / "out", CompileOptions(cache=cache, speed=False))
    result = blame_artifact(tmp_path / "out", model, faulty, BlameOptions(window=64, cache=cache))
    assert next(c.name for c in result.carriers if c.kind == "tensor") == weight
    assert result.patch is not None and "version: 1" in result.patch.text


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_neox", "granite_swa", "olmo2", "opt"])
def test_segments_put_together_are_the_model(name: str, tmp_path: Path) -> None:
    """Captured, canonical and served: parallel blocks, norms before, behind, and both."""
    module = to_module(capture(resolve(str(zoo.save(name, tmp_path / name)))))
    tokens = zoo.text(16)
    batch = {
        "input_ids": tokens,
        "position_ids": torch.arange(16),
        "query_starts": torch.tensor([0, 16], dtype=torch.int32),
        "logit_rows": torch.arange(16),
    }
    expected, counts = run_once(module, batch)["logits"], []
    for text in ("", CANONICALIZE, f"{FUSE},serve.paged-kv"):
        run_pipeline(module, parse_pipeline(text), Context())
        side, stream = Side(module, [batch]), None
        for number in range(len(side.segments)):
            stream = side.run(number, 0, stream)
        assert stream is not None
        assert float((stream - expected).abs().max()) < 1e-4 * float(expected.abs().max())
        counts.append(len(find_segments(module)))
    assert len(set(counts)) == 1 and counts[0] >= 5


def test_a_function_has_no_stream(tmp_path: Path) -> None:
    from optcc.ir.parse import parse_module

    module = parse_module(
        'optcc.ir 1\nattrs {"kind": "function"}\ngraph model {\n  %x : f32[B, 4] = input\n'
        "  %y : f32[B, 4] = aten.relu.default(%x)\n  return y = %y\n}\nweights {\n}\n"
    )
    with pytest.raises(NothingToBlame, match="no logits"):
        find_segments(module)
