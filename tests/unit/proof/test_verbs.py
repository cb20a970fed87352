"""The verbs `blame` and `bisect`, and `compile --prove`, as a person and a program call them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from optcc.cli.main import main
from optcc.recipe import Recipe, load_recipe

Recipes = Callable[..., Recipe]
WEIGHT = "model.layers.1.self_attn.o_proj.weight"
COARSE = (
    f"[quantize.linear: {{scheme: int8-g64, skip: [{WEIGHT}]}}, "
    f"quantize.linear: {{scheme: ternary-g64, only: [{WEIGHT}]}}]"
)


def test_blame_writes_a_patch_and_applies_it(
    model: str, cache: Path, recipe: Recipes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe(quantize=COARSE)
    path, patch, out = tmp_path / "recipe.yaml", tmp_path / "elsewhere.yaml", tmp_path / "out"
    command = ["blame", model, str(path), "--patch", str(patch), "--apply", str(out), "--cache", str(cache)]
    assert main([*command, "--tokens", "128", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["patch"]["weights"] == {WEIGHT: "int8-g64"}
    assert found["applied"]["status"] == "ok" and found["applied"]["recovered_share"] > 0.8
    assert (out / "manifest.json").is_file()
    assert load_recipe(str(patch)).name.endswith("-patched")
    assert main(["blame", str(out), model, "--cache", str(cache), "--tokens", "128", "--probes", "6"]) == 0
    told = capfd.readouterr().out
    assert told.startswith("loss: KL ") and "nats per token" in told


def test_bisect_tells_pass_line_and_commands(
    model: str, cache: Path, recipe: Recipes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe(fuse="[fuse.dequant-linear, fuse.gated-mlp, './faulty.py:Epsilon': {number: 2}, fuse.qkv]")
    path = str(tmp_path / "recipe.yaml")
    assert main(["bisect", model, path, "--cache", str(cache)]) == 0
    told = capfd.readouterr().out
    assert "faulty.py:Epsilon{number=2" in told and "recipe.yaml:" in told and "--prove each" in told
    assert main(["bisect", model, path, "--cache", str(cache), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["place"] == 19 and found["probes"][-1]["point"] and found["runs"] <= 6


def test_a_broken_promise_exits_1_with_its_code(
    model: str, cache: Path, recipe: Recipes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe(quantize="['./faulty.py:SwapGateUp': {layer: 1}]")
    command = ["compile", model, str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "out")]
    assert main([*command, "--prove", "each", "--cache", str(cache), "--json"]) == 1
    error = json.loads(capfd.readouterr().out)["error"]
    assert error["code"] == "E810" and "SwapGateUp" in error["what"]
