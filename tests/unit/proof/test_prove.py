"""`--prove`: clean compiles raise nothing, planted faults are named with the node, and proofs are kept with passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from optcc.compile import CompileOptions, compile_model
from optcc.compile.proof import Prove, proof_data
from optcc.errors import ContractBroken
from optcc.frontend import LoadOptions, capture, resolve
from optcc.frontend.lift import to_module
from optcc.pm import Context, parse_pipeline, run_pipeline
from optcc.pm.instruments import Record
from optcc.recipe import Recipe, load_recipe
from tests import zoo
from tests.needs import package
from tests.unit.passes.pipelines import CANONICALIZE, FUSE

Recipes = Callable[..., Recipe]
DOWN = "model.layers.1.mlp.down_proj.weight"


def options(cache: Path | None, prove: str = "each") -> CompileOptions:
    return CompileOptions(cache=cache, speed=False, prove=prove)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "phi3"])
def test_clean_pipelines_keep_their_promises(name: str, tmp_path: Path) -> None:
    """Windows, soft-caps, tied heads, packed projections; quantized, fused and paged."""
    source, load = resolve(str(zoo.save(name, tmp_path / name))), LoadOptions()
    module = to_module(capture(source, load))
    recipe = load_recipe("cpu-int8", ["check.window=32"])
    data = proof_data(source, load, module, recipe.check, recipe.base)
    record = Record()
    prove = Prove(data, record, recipe.base, {"kl": 0.2}, "each")
    pipeline = f"{CANONICALIZE},quantize.linear{{scheme=int8-g32-a8}},quantize.kv,{FUSE},serve.paged-kv"
    run_pipeline(module, parse_pipeline(pipeline), Context(), [prove, record])
    outcomes = {r.step: r.proof["outcome"] for r in record.rows if r.proof and "outcome" in r.proof}
    assert set(outcomes.values()) == {"pass"}
    assert len(outcomes) >= 10 and any("paged-kv" in step for step in outcomes)


@pytest.mark.parametrize(
    ("stages", "step", "node"),
    [
        ({"quantize": f"['./faulty.py:Scaled': {{weight: {DOWN}}}]"}, "Scaled", "%mul"),
        ({"quantize": "['./faulty.py:SwapGateUp': {layer: 2}]"}, "SwapGateUp", "%linear"),
        ({"quantize": "['./faulty.py:Epsilon': {number: 3}]"}, "Epsilon", "%rms_norm_3"),
        ({"quantize": f"['./faulty.py:Nan': {{weight: {DOWN}}}]"}, "Nan", "%linear"),
        (
            {"quantize": f"[quantize.linear, './faulty.py:DoubleScale': {{weight: {DOWN}}}]"},
            "DoubleScale",
            "%linear_13",
        ),
    ],
)
def test_a_broken_promise_names_pass_node_and_line(
    model: str, cache: Path, recipe: Recipes, tmp_path: Path, stages: dict[str, str], step: str, node: str
) -> None:
    with pytest.raises(ContractBroken) as caught:
        compile_model(model, recipe(**stages), tmp_path / "out", options(cache))
    assert f"{step}" in caught.value.what.split(" promised ")[0]
    assert node in caught.value.what
    assert "modeling_llama.py" in str(caught.value.where)
    assert not (tmp_path / "out").exists()


@pytest.mark.prove
def test_stages_are_held_as_a_whole(model: str, cache: Path, recipe: Recipes, tmp_path: Path) -> None:
    faulty = recipe(quantize="['./faulty.py:SwapGateUp': {layer: 0}, './faulty.py:SwapGateUp': {layer: 0}]")
    result = compile_model(model, faulty, tmp_path / "out", options(cache, "stages"))
    held = [row for row in result.report.proof["passes"] if "measured" in row]
    assert [len(row["passes"]) for row in held if row["passes"][0].count("SwapGateUp")] == [2]
    assert {row["outcome"] for row in held} == {"pass"}
    with pytest.raises(ContractBroken, match="SwapGateUp"):
        compile_model(
            model,
            recipe(quantize="['./faulty.py:SwapGateUp': {layer: 0}]"),
            tmp_path / "b",
            options(cache, "stages"),
        )


@pytest.mark.prove
def test_proofs_are_kept_with_passes_and_cached_passes_are_proven(
    model: str, recipe: Recipes, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    plain = compile_model(model, recipe(), tmp_path / "a", options(cache, "end"))
    assert plain.report.proof == {"mode": "end", "passes": [], "lowered": None}
    first = compile_model(model, recipe(), tmp_path / "b", options(cache))
    assert all(row["cached"] for row in first.report.proof["passes"])
    assert first.report.proof["seconds"] > 0
    second = compile_model(model, recipe(), tmp_path / "c", options(cache))
    assert second.report.proof["seconds"] == 0
    figures = [[row.get("measured") for row in r.report.proof["passes"]] for r in (first, second)]
    assert figures[0] == figures[1] and any(figures[0])
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in "abc"]
    assert manifests[0] == manifests[1] == manifests[2]


def test_every_lowered_operator_is_held_to_the_reference(model: str, cache: Path, tmp_path: Path) -> None:
    package("onnxruntime")
    small = ["target.threads=1", "check.tokens=64", "check.window=32", "check.limits.greedy=0"]
    loose = ["check.limits.kl=1", "check.limits.top1=0.1", "check.limits.nll=1"]
    result = compile_model(model, load_recipe("cpu-int8", [*small, *loose]), tmp_path / "out", options(cache))
    lowered = result.report.proof["lowered"]
    kinds = {row["operator"]: row for row in lowered["kinds"]}
    assert kinds["optcc.paged_attention.default"]["count"] == 3
    assert kinds["optcc.quantized_linear.default"]["count"] == 13
    assert all(row["worst"] <= row["bound"] for row in kinds.values())
    assert lowered["operators"] >= 40
