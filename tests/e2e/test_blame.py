"""SmolLM2 with one weight of one layer spoilt: blame and bisect name it, in few questions; a clean one is proven."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Workshop, optcc
from tests.needs import demo_model

pytestmark = [pytest.mark.e2e, pytest.mark.prove]

WEIGHT = "model.layers.7.mlp.down_proj.weight"


def _recipe(folder: Path) -> Path:
    """Everything in 8 bits but one weight, which has three levels."""
    path = folder / "coarse.yaml"
    path.write_text(
        "version: 1\nextends: cpu-int8\npasses:\n  quantize:\n"
        f"    - quantize.linear: {{scheme: int8-g64-a8, skip: [{WEIGHT}]}}\n"
        f"    - quantize.linear: {{scheme: ternary-g64, only: [{WEIGHT}]}}\n"
    )
    return path


def test_one_spoilt_weight_among_211(workshop: Workshop, tmp_path: Path) -> None:
    recipe, cache = _recipe(tmp_path), workshop.folder / "cache"
    result = optcc("blame", demo_model("smollm2"), recipe, "--cache", cache, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert next(c["name"] for c in found["carriers"] if c["kind"] == "tensor") == WEIGHT
    assert found["probes"] <= 8
    assert found["patch"]["effect"]["share"] >= 0.8 and next(iter(found["patch"]["weights"])) == WEIGHT


def test_bisect_names_the_pass(workshop: Workshop, tmp_path: Path) -> None:
    recipe, cache = _recipe(tmp_path), workshop.folder / "cache"
    result = optcc("bisect", demo_model("smollm2"), recipe, "--limit", "0.03", "--cache", cache, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert "ternary-g64" in found["pass"] and found["runs"] <= 8


def test_a_clean_compile_keeps_every_promise(workshop: Workshop, tmp_path: Path) -> None:
    command = ["compile", demo_model("smollm2"), "cpu-int8", "-o", tmp_path / "out", "--prove", "each"]
    settings = ["--set", "check.enabled=false", "--no-speed", "--json", "--cache", workshop.folder / "cache"]
    result = optcc(*command, *settings)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    proof = json.loads(result.stdout)["proof"]
    assert {row["outcome"] for row in proof["passes"] if "outcome" in row} <= {"pass", "undecided"}
    assert proof["lowered"]["operators"] > 500
