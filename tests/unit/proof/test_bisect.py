"""`optcc bisect`: the planted pass is named, in few questions, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from optcc.compile.bisect import BisectResult, bisect
from optcc.compile.progress import Silent
from optcc.recipe import Recipe
from tests.unit.passes.pipelines import CANONICALIZE

Recipes = Callable[..., Recipe]
DOWN = "model.layers.1.mlp.down_proj.weight"
CANONICAL = list(dict.fromkeys(CANONICALIZE.split(",")))


def run(
    model: str, recipe: Recipe, cache: Path, metric: str = "kl", limit: float | None = None
) -> BisectResult:
    return bisect(model, recipe, "recipe.yaml", metric, limit, cache, Silent())  # type: ignore[arg-type]


def canonicalize(fault: str, at: int) -> str:
    """The stage with a fault in it."""
    return "[" + ", ".join([*CANONICAL[:at], fault, *CANONICAL[at:]]) + "]"


def test_a_good_recipe_has_nobody_to_blame(model: str, cache: Path, recipe: Recipes) -> None:
    result = run(model, recipe(), cache)
    assert result.step is None and not any(p.bad for p in result.probes)
    assert len(result.probes) == 4


@pytest.mark.parametrize("at", [0, 4, 9, 12])
def test_a_fault_in_a_long_stage_takes_log_n_questions(
    model: str, cache: Path, recipe: Recipes, at: int
) -> None:
    faulty = recipe(canonicalize=canonicalize(f"'./faulty.py:Scaled': {{weight: {DOWN}}}", at))
    result = run(model, faulty, cache)
    assert result.step is not None and "Scaled" in result.step and result.place == at
    assert len(result.probes) <= 5
    assert result.line is not None and "recipe.yaml:" in result.line
    assert any("aten.mul" in line for line in result.diff)


@pytest.mark.parametrize(
    ("stages", "name"),
    [
        (
            {"fuse": "[fuse.dequant-linear, fuse.gated-mlp, './faulty.py:Epsilon': {number: 2}, fuse.qkv]"},
            "Epsilon",
        ),
        ({"quantize": f"[quantize.linear, './faulty.py:DoubleScale': {{weight: {DOWN}}}]"}, "DoubleScale"),
        ({"quantize": "[quantize.linear: {scheme: ternary-g64}]"}, "quantize.linear"),
        ({"quantize": "['./faulty.py:SwapGateUp': {layer: 0}, quantize.linear]"}, "SwapGateUp"),
    ],
)
def test_the_pass_is_named(
    model: str, cache: Path, recipe: Recipes, stages: dict[str, str], name: str
) -> None:
    result = run(model, recipe(**stages), cache)
    assert result.step is not None and name in result.step
    assert len(result.probes) <= 8


def test_a_limit_is_held_against_the_original(model: str, cache: Path, recipe: Recipes) -> None:
    result = run(model, recipe(), cache, limit=1e-5)
    assert result.step is not None and result.step.startswith("quantize.linear")
    assert len(result.probes) <= 6
    assert run(model, recipe(), cache, limit=10.0).step is None


def test_a_crash_and_a_nan_are_found(model: str, cache: Path, recipe: Recipes) -> None:
    crash = run(model, recipe(fuse="[fuse.dequant-linear, './faulty.py:Crash']"), cache, "crash")
    assert crash.step is not None and "Crash" in crash.step and "planted" in crash.told
    assert crash.place == 18
    nan = run(model, recipe(quantize=f"['./faulty.py:Nan': {{weight: {DOWN}}}]"), cache, "crash")
    assert nan.step is not None and "Nan" in nan.step and "NaN" in nan.told


def test_what_is_repaired_later_is_said_not_to_be_monotone(model: str, cache: Path, recipe: Recipes) -> None:
    up, down = (f"'./faulty.py:Scaled': {{weight: {DOWN}, factor: {f}}}" for f in (1.5, 0.7))
    result = run(model, recipe(quantize=f"[{up}, {down}]"), cache)
    assert result.step is not None and "1.5" in result.step
    assert result.note is not None and "not monotone" in result.note


def test_speed_asks_the_lowered_module(model: str, cache: Path, recipe: Recipes) -> None:
    result = run(model, recipe(), cache, "speed", limit=1e9)
    assert result.step is None and "too slow already" in result.told
    assert [p.point for p in result.probes] == [15, 23]
