"""Every preset for GPUs compiles here, simulated, and stays within limits on a small decoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from optcc.compile import compile_model
from optcc.compile.ledger import KvBytes
from optcc.recipe import load_recipe
from tests import shared, zoo

# A tiny random model is closer to guessing than a trained one, so limits of its own, above what was measured; each is
# still one that a compile with a wrong scale or a dropped part fails.
SMALL = ["target.threads=1", "calibrate.tokens=512", "check.tokens=192", "check.window=32"]
TINY = {
    "gpu-fp8": ("fp8-channel-a8", KvBytes("e4m3", "float32", 240, 768), (0.1, 0.62, 0.3)),
    "gpu-w4a16": ("int4-g64", KvBytes("bfloat16", "", 384, 384), (0.5, 0.3, 0.5)),
    "nvfp4": ("nvfp4", KvBytes("e4m3", "float32", 240, 768), (0.45, 0.38, 0.4)),
}


@pytest.mark.parametrize("preset", TINY)
def test_preset(preset: str, tmp_path: Path) -> None:
    zoo.save("llama", tmp_path / "model")
    scheme, cache, limits = TINY[preset]
    own = [
        f"check.limits.{metric}={limit}" for metric, limit in zip(("kl", "top1", "nll"), limits, strict=True)
    ]
    recipe = load_recipe(preset, [*SMALL, *own])
    assert recipe.target.backend == "reference" and "simulated" in recipe.description
    made = compile_model(str(tmp_path / "model"), recipe, tmp_path / "out", shared.quick())
    (row,) = made.report.ledger.schemes
    assert (row.scheme, made.report.ledger.kv) == (scheme, cache)
    assert made.report.status == "ok", made.report.check
