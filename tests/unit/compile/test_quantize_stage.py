"""Recipes whose quantize stage does more than round: rotation before packing, training after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from optcc.artifact import Artifact
from optcc.compile import CompileOptions, compile_model
from optcc.errors import PreconditionFailed
from optcc.recipe import load_recipe
from tests import shared, zoo
from tests.unit.compile.test_compile import LOOSE, files

ROTATED = """\
version: 1
extends: cpu-fp32
passes:
  quantize:
    - quantize.rotate
    - quantize.linear: {scheme: int8-g64, only: ["*.head_factor"]}
    - quantize.linear: {scheme: int4-g64}
"""
TRAINED = """\
version: 1
extends: cpu-fp32
passes:
  quantize:
    - quantize.distill: {scheme: int4-g64, steps: 4, lr: 0.001}
calibrate: {tokens: 128, window: 32}
"""


def _recipe(folder: Path, text: str) -> str:
    file = folder / "mine.yaml"
    file.write_text(text)
    return str(file)


def test_rotation_is_seen_by_preflight_and_the_ledger(tmp_path: Path) -> None:
    """The factor of a tied head is a weight that only the rotation makes; it is packed as the recipe says."""
    zoo.save("qwen2", tmp_path / "qwen2")
    recipe = load_recipe(_recipe(tmp_path, ROTATED), LOOSE)
    done = compile_model(str(tmp_path / "qwen2"), recipe, tmp_path / "a", shared.quick())
    # Random weights are not accurate in 4 bits: the bytes are what this is about.
    text = Artifact.open(tmp_path / "a", force=True).path("model.ir").read_text()
    assert "head_factor.packed : i8[64, 64]" in text
    assert done.report.ledger.quantized == 22


def test_a_recipe_that_can_not_have_its_rotation_fails(tmp_path: Path) -> None:
    zoo.save("gemma2", tmp_path / "gemma2")
    recipe = load_recipe(_recipe(tmp_path, ROTATED), LOOSE)
    with pytest.raises(PreconditionFailed, match="norm after a branch"):
        compile_model(str(tmp_path / "gemma2"), recipe, tmp_path / "a", shared.quick())


@pytest.mark.prove
def test_training_is_cached_and_repeatable(tmp_path: Path) -> None:
    zoo.save("llama", tmp_path / "llama")
    recipe = load_recipe(_recipe(tmp_path, TRAINED), LOOSE)
    options = CompileOptions(cache=tmp_path / "cache", speed=False)
    first = compile_model(str(tmp_path / "llama"), recipe, tmp_path / "a", options)
    again = compile_model(str(tmp_path / "llama"), recipe, tmp_path / "b", options)
    fresh = compile_model(
        str(tmp_path / "llama"), recipe, tmp_path / "c", CompileOptions(cache=None, speed=False)
    )
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")
    rows = [r for r in again.report.passes if r.step.startswith("quantize.distill")]
    assert rows[0].cached
    assert len(rows[0].tables["distillation"]) == 4
    assert fresh.report.ledger == first.report.ledger
    assert not list((tmp_path / "cache" / "scratch").glob("*"))
