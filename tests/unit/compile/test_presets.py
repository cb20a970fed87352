"""Every preset for GPUs compiles here, simulated, and keeps its own limits on a small decoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from optcc.compile import CompileOptions, compile_model
from optcc.compile.ledger import KvBytes
from optcc.recipe import load_recipe
from tests import zoo

SMALL = ["target.threads=1", "check.tokens=192", "check.window=32"]
# Random weights have no outliers and no structure: limits come from the recipe, intervals need no help.
TINY = {
    "gpu-fp8": ("fp8-channel-a8", KvBytes("e4m3", "float32", 240, 768)),
    "gpu-w4a16": ("int4-g64", KvBytes("bfloat16", "", 384, 384)),
    "nvfp4": ("nvfp4", KvBytes("e4m3", "float32", 240, 768)),
}


@pytest.mark.parametrize("preset", TINY)
def test_preset(preset: str, tmp_path: Path) -> None:
    zoo.save("llama", tmp_path / "model")
    recipe = load_recipe(preset, SMALL)
    assert recipe.target.backend == "reference" and "simulated" in recipe.description
    made = compile_model(
        str(tmp_path / "model"), recipe, tmp_path / "out", CompileOptions(cache=None, speed=False)
    )
    (row,) = made.report.ledger.schemes
    assert (row.scheme, made.report.ledger.kv) == TINY[preset]
    assert made.report.status == "ok", made.report.check
