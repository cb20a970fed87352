"""`quantize.gptq` on graphs: better results than rounding, and a killed calibration goes on where it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from optcc.errors import BadOption, NoCalibration
from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from optcc.ir.text import module_text
from optcc.pm import Context, Pipeline, build_pass, run_pipeline
from optcc.pm.instruments import Check, Record
from optcc.pm.passes import Pass
from tests.conftest import ROOT
from tests.unit.passes.gptq_run import LAYERS, chain, context, inputs


def _run(module: Module, step: Pass, ctx: Context) -> Record:
    record = Record()
    run_pipeline(module, Pipeline((step,)), ctx, [record, Check()])
    return record


def _bytes(module: Module) -> dict[str, bytes]:
    return {name: module.weights[name].view(torch.uint8).numpy().tobytes() for name in module.weights}


@pytest.mark.parametrize("scheme", ["int4-g32", "int4-g64-asym-a8", "int3-g32", "nvfp4"])
def test_the_model_is_closer_than_with_rounding(scheme: str) -> None:
    batch = inputs(9, 200)
    exact, error = interpret(chain(), batch)["y"], {}
    for name in ("quantize.gptq", "quantize.linear"):
        module = chain()
        _run(module, build_pass(name, {"scheme": scheme}), context(None))
        error[name] = float((interpret(module, batch)["y"] - exact).norm())
    assert error["quantize.gptq"] < 0.75 * error["quantize.linear"]


def test_the_report_has_a_row_for_every_weight() -> None:
    record = _run(chain(), build_pass("quantize.gptq", {"scheme": "int4-g32-a8"}), context(None))
    rows = record.rows[0].tables["weights"]
    assert [row["weight"] for row in rows] == [f"{i}.{name}" for i in range(LAYERS) for name in "abc"]
    assert all(0 < row["error"] < row["nearest_error"] < 0.5 for row in rows)  # type: ignore[operator]
    assert type(record.rows[0]).from_json(record.rows[0].to_json()) == record.rows[0]


def test_without_memory_the_same_bytes() -> None:
    one, two = chain(), chain()
    _run(one, build_pass("quantize.gptq", {"scheme": "int4-g32-a8"}), context(None))
    _run(two, build_pass("quantize.gptq", {"scheme": "int4-g32-a8", "memory": 0}), context(None))
    assert _bytes(one) == _bytes(two)


def test_a_killed_calibration_goes_on(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        undisturbed, resumed = chain(), chain()
        step = build_pass("quantize.gptq", {"scheme": "int4-g32-a8"})
        expected = _run(undisturbed, step, context(None))
        run = [sys.executable, "-m", "tests.unit.passes.gptq_run", str(tmp_path / "scratch"), "7"]
        assert subprocess.run(run, cwd=ROOT, check=False).returncode == -9
        finished = sorted((tmp_path / "scratch" / "weights").glob("*.json"))
        written = [f.stat().st_mtime_ns for f in finished]
        assert len(finished) == 7
        again = _run(resumed, step, context(tmp_path / "scratch"))
    finally:
        torch.set_num_threads(threads)
    assert [f.stat().st_mtime_ns for f in finished] == written, "a finished weight was made again"
    assert module_text(resumed) == module_text(undisturbed)
    assert _bytes(resumed) == _bytes(undisturbed)
    assert again.rows[0].tables == expected.rows[0].tables


def test_a_damaged_leftover_is_made_again(tmp_path: Path) -> None:
    undisturbed, resumed = chain(), chain()
    step = build_pass("quantize.gptq", {"scheme": "int4-g32-a8"})
    _run(undisturbed, step, context(tmp_path))
    for damaged in (
        *(tmp_path / "weights" / "tensors").iterdir(),
        next((tmp_path / "weights").glob("*.json")),
    ):
        damaged.write_bytes(damaged.read_bytes()[:-3] + b"xyz")
    _run(resumed, step, context(tmp_path))
    assert _bytes(resumed) == _bytes(undisturbed)


def test_without_data_it_refuses() -> None:
    with pytest.raises(NoCalibration, match=r"quantize\.gptq"):
        build_pass("quantize.gptq", {"scheme": "int4-g32"}).run(chain(), Context())


def test_options_out_of_range() -> None:
    with pytest.raises(BadOption, match="damp"):
        build_pass("quantize.gptq", {"scheme": "int4-g32", "damp": -1.0}).run(chain(), context(None))


def test_static_scales_of_activations_are_refused() -> None:
    with pytest.raises(BadOption, match="static"):
        build_pass("quantize.gptq", {"scheme": "fp8-tensor-static"}).run(chain(), context(None))
