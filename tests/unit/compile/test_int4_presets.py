"""The 4-bit presets on a small decoder: every linear calibrated, bytes as promised, KL below plain rounding's."""

from __future__ import annotations

from pathlib import Path

import pytest

from optcc.compile import CompileResult, compile_model
from optcc.recipe import load_recipe
from tests import shared, zoo

SMALL = ["target.threads=1", "calibrate.tokens=1024", "check.tokens=256", "check.window=64"]
OPEN = ["check.limits.kl=20", "check.limits.top1=0", "check.limits.nll=20"]


def _compile(model: Path, out: Path, recipe: str, *overrides: str) -> CompileResult:
    wanted = load_recipe(recipe, [*SMALL, *OPEN, *overrides])
    return compile_model(str(model), wanted, out, shared.quick())


def _kl(made: CompileResult) -> float:
    assert made.report.check is not None
    return float(made.report.check["measurements"]["total"]["metrics"]["kl"]["value"])


@pytest.mark.parametrize("preset", ["cpu-int4", "cpu-int4-small"])
def test_preset(preset: str, tmp_path: Path) -> None:
    zoo.save("llama", tmp_path / "model")
    made = _compile(tmp_path / "model", tmp_path / "out", preset)
    assert made.ok
    [record] = [row for row in made.report.passes if "part=body" in row.step]
    rows = record.tables["weights"]
    assert len(rows) == 3 * 7 and {row["method"] for row in rows} == {"gptq"}
    assert all(row["error"] <= row["nearest_error"] for row in rows)  # type: ignore[operator]
    schemes = {s.scheme for s in made.report.ledger.schemes}
    assert (
        schemes
        == {
            "cpu-int4": {"int8-g64-a8", "int4-g64-a8"},
            "cpu-int4-small": {"int4-g32-half-a8", "int4-g64-half-a8"},
        }[preset]
    )
    rounded = _compile(
        tmp_path / "model", tmp_path / "rounded", "cpu-int8", "quantize.linear.scheme=int4-g64-a8"
    )
    assert _kl(made) < _kl(rounded)


def test_preset_with_trained_scales(tmp_path: Path) -> None:
    zoo.save("llama", tmp_path / "model")
    short = ["quantize.distill.steps=12", "calibrate.window=64"]
    made = _compile(tmp_path / "model", tmp_path / "out", "cpu-int4-trained", *short)
    assert made.ok
    [record] = [row for row in made.report.passes if "part=body" in row.step]
    assert len(record.tables["weights"]) == 3 * 7
    assert {s.scheme for s in made.report.ledger.schemes} == {"int8-g64-a8", "int4-g64-a8"}
    _compile(tmp_path / "model", tmp_path / "started", "cpu-int4")
    sizes = [(tmp_path / name / "weights.safetensors").stat().st_size for name in ("out", "started")]
    assert sizes[0] == sizes[1]
