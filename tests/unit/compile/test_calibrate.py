"""What passes learn from: never what is checked, part of their cache key, and a place for unfinished work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optcc.compile import CompileOptions, compile_model
from optcc.compile.calibrate import calibration
from optcc.compile.samples import random_windows
from optcc.errors import NoCalibration
from optcc.frontend import LoadOptions, capture, resolve
from optcc.frontend.lift import to_module
from optcc.ir.interpret import interpret
from optcc.pm import Context
from optcc.recipe import CalibrateOptions, load_recipe
from tests import zoo
from tests.unit.compile.test_compile import SMALL

PROBE = '''\
from dataclasses import dataclass

from optcc.pm import Context, Pass


@dataclass(frozen=True)
class Probe(Pass):
    """Says what it was given."""

    calibrates = True
    fail: bool = False

    def run(self, module, ctx: Context) -> bool:
        data = ctx.need_calibration("probe")
        kept = ctx.keep("work") / "started"
        ctx.note(f"{data.tokens} {data.digest} {kept.exists()}")
        kept.touch()
        if self.fail:
            raise RuntimeError("killed")
        ctx.table("batches", [{"rows": len(b["input_ids"])} for b in data.batches])
        return False
'''
RECIPE = """\
version: 1
extends: cpu-fp32
passes:
  quantize: [./probe.py:Probe]
calibrate: {tokens: 96, window: 32}
"""


def test_a_pass_is_given_data_and_a_place_and_the_report_its_tables(tmp_path: Path) -> None:
    zoo.save("llama", tmp_path / "llama")
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    options = CompileOptions(cache=tmp_path / "cache", speed=False)

    def rows(*overrides: str) -> list[tuple[str, bool, list[str], object]]:
        recipe = load_recipe(tmp_path / "mine.yaml", [*SMALL, *overrides])
        made = compile_model(str(tmp_path / "llama"), recipe, tmp_path / "out", options).report.passes
        return [(r.step, r.cached, r.notes, r.tables) for r in made]

    first = next(r for r in rows() if "Probe" in r[0])
    assert first[2][0].startswith("96 ") and first[2][0].endswith("False")
    assert first[3] == {"batches": [{"rows": 32}] * 3}
    again = next(r for r in rows() if "Probe" in r[0])
    assert again == (first[0], True, *first[2:])
    more = rows("calibrate.tokens=128")
    assert all(r[1] for r in more if r[0].startswith("canonicalize"))
    changed = next(r for r in more if "Probe" in r[0])
    assert not changed[1] and changed[2][0].startswith("128 ")
    assert not list((tmp_path / "cache" / "scratch").iterdir())


def test_calibration_and_check_share_nothing(tmp_path: Path) -> None:
    """Models without a tokenizer: random windows of other seeds; encoders: other ids."""
    zoo.save("llama", tmp_path / "llama")
    source, load = resolve(str(tmp_path / "llama")), LoadOptions()
    module = to_module(capture(source, load))
    made = calibration(source, load, module, CalibrateOptions(tokens=64, window=32), None)
    checked = random_windows(module.attrs["decoder"]["vocab"], 64, 32)  # type: ignore[index, call-overload]
    assert made.tokens == 64
    pairs = zip(made.batches, checked.windows, strict=True)
    assert not any((b["input_ids"].numpy() == w).all() for b, w in pairs)
    logits = interpret(module, made.batches[0])["logits"]
    assert logits.shape[0] == 32 and torch.isfinite(logits).all()


def test_without_data_the_pass_is_named() -> None:
    with pytest.raises(NoCalibration, match=r"quantize\.gptq"):
        Context().need_calibration("quantize.gptq")
