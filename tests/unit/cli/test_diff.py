"""`optcc diff`: the same, or what differs in recipe, graph, tensors, sizes and accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optcc.cli.main import main
from optcc.diff.accuracy import accuracy_changes
from optcc.diff.facts import graph_change
from optcc.diff.tensors import distance
from tests.unit.cli.conftest import Cli


@pytest.fixture(scope="module")
def quantized(compiled: Path, model: Path, recipe: Path) -> Path:
    """The same model in int8."""
    out = compiled.parent / "quantized"
    options = ["--cache", str(compiled.parent / "cache"), "--no-speed"]
    options += [
        "--set",
        "passes.quantize=[quantize.linear: {scheme: int8-g64}]",
        "--set",
        "check.limits.kl=1",
    ]
    assert main(["compile", str(model), str(recipe), "-o", str(out), *options]) in (0, 1)
    return out


def test_the_same(cli: Cli, compiled: Path, artifact: Path) -> None:
    told = cli("diff", compiled, artifact)
    assert told.code == 0
    assert "the same bytes" in told.out
    told = cli("diff", compiled, artifact, "--tensors", "--json")
    assert told.code == 0
    data = told.data
    assert data["identical"]
    assert [data[key] for key in ("recipe", "pipeline", "tensors", "sizes")] == [[], [], [], []]
    assert {row["outcome"] for row in data["accuracy"]} == {"same"}


def test_what_differs(cli: Cli, compiled: Path, quantized: Path, tmp_path: Path) -> None:
    page = tmp_path / "d.md"
    told = cli("diff", compiled, quantized, "--markdown", page)
    assert told.code == 1
    assert "+quantize.linear{scheme=int8-g64}" in told.out
    assert "worse" in told.out
    assert "<details><summary>Recipe: " in page.read_text()
    data = cli("diff", compiled, quantized, "--json").data
    assert {c["name"] for c in data["recipe"]} == {"passes.quantize", "check.limits.kl"}
    names = {t["name"] for t in data["tensors"]}
    assert any(name.endswith(".packed") for name in names)
    assert next(c for c in data["sizes"] if c["name"] == "artifact")["left"] is not None
    kl = next(row for row in data["accuracy"] if (row["text"], row["metric"]) == ("total", "kl"))
    assert kl["outcome"] == "worse"
    assert kl["low"] > 0
    back = cli("diff", quantized, compiled, "--json").data
    assert next(r for r in back["accuracy"] if r["metric"] == "kl")["outcome"] == "better"


def test_values_are_compared_by_the_original_names(cli: Cli, compiled: Path, quantized: Path) -> None:
    data = cli("diff", compiled, quantized, "--tensors", "--json").data
    changed = {t["name"]: t for t in data["tensors"]}
    weight = changed["model.layers.0.mlp.down_proj.weight"]
    assert (weight["left"], weight["right"]) == ("float32", "int8-g64")
    assert 0 < weight["relative_rms"] < 0.02
    assert weight["right_bytes"] < weight["left_bytes"]
    assert all(t["left"] and t["right"] for t in data["tensors"])


def test_not_an_artifact(cli: Cli, compiled: Path, tmp_path: Path) -> None:
    told = cli("diff", compiled, tmp_path, "--json")
    assert (told.code, told.error["code"]) == (2, "E601")


def report(digest: str, kls: list[float]) -> dict[str, Any]:
    windows = [{"rows": 10, "kl": kl, "nll": kl, "top1": 1 - kl} for kl in kls]
    return {"check": {"measurements": {"texts": [{"name": "prose", "digest": digest, "windows": windows}]}}}


def test_pairing_sees_what_the_spread_between_windows_hides() -> None:
    hard = [0.1, 0.5, 0.9, 0.2, 0.7]
    found, reason = accuracy_changes(report("a", hard), report("a", [kl + 0.01 for kl in hard]))
    assert reason == ""
    assert [(c.metric, c.outcome) for c in found] == [("kl", "worse"), ("nll", "worse"), ("top1", "worse")]
    assert found[0].difference == pytest.approx(0.01)
    noisy, _ = accuracy_changes(
        report("a", hard), report("a", [kl + d for kl, d in zip(hard, (1, -1, 0.9, -1, 0.2))])
    )
    assert noisy[0].outcome == "undecided"
    assert accuracy_changes(report("a", hard), report("b", hard)) == (
        [],
        "other tokens were compared on prose",
    )
    assert accuracy_changes(report("a", hard), {"check": None}) == ([], "one of the two was not checked")


def test_one_inserted_operator_is_one_line() -> None:
    lines = [
        f"  %v_{i} : f32[4] = aten.add.Tensor(%v_{i - 1}, @layers.{i}.bias)  // m.py:{i}"
        for i in range(1, 300)
    ]
    more = [*lines[:100], "  %x : f32[4] = aten.relu.default(%v_100)  // m.py:1", *lines[100:]]
    found = graph_change("\n".join(lines), "\n".join(more))
    assert found.operators == (("aten.relu.default", 0, 1),)
    assert (found.same, found.removed, found.added) == (299, 0, 1)
    assert found.lines == ("+aten.relu.default() -> f32[4]",)
    gone = graph_change("\n".join(lines), "\n".join(line.replace("bias", "b") for line in lines))
    assert gone.lines[0] == "-299 x aten.add.Tensor(@layers.*.bias) -> f32[4]"


def test_distance() -> None:
    x = np.array([[3.0, 4.0]], np.float32)
    assert distance(x, x) == (0.0, 0.0)
    assert distance(x, x + np.array([[0.5, 0.0]], np.float32)) == (0.5, pytest.approx(0.1))
    assert distance(x, x.T) == (None, None)
    assert np.isnan(distance(x, x * np.nan)[0] or 0)
    assert json.dumps(distance(np.zeros((1, 2)), np.zeros((1, 2)))) == "[0.0, 0.0]"
