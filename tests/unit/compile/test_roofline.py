"""Bytes and operations by hand, ONNX Runtime's events, whole rooflines of tiny models, and speed as a limit."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from optcc.accuracy.gates import Limit, outcome
from optcc.accuracy.intervals import Estimate
from optcc.artifact import Artifact
from optcc.backends.onnxruntime.profile import read_events
from optcc.backends.registry import load_backend
from optcc.compile import CompileOptions, compile_model
from optcc.compile.roofline import Load, roofline
from optcc.compile.roofline.limits import Limits, machine_limits
from optcc.compile.roofline.work import Step, works
from optcc.errors import RecipeField
from optcc.ir.parse import parse_module
from optcc.recipe import Recipe, SpeedLimit, load_recipe
from tests import zoo

QUIET = CompileOptions(cache=None, speed=False)
SMALL = ["target.threads=1", "check.tokens=64", "check.window=32"]
LOOSE = [*SMALL, "check.limits.kl=9", "check.limits.top1=0", "check.limits.nll=9"]
MACHINE = Limits(1, 10.0, 100.0, 200.0, "2026-01-01T00:00:00Z")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(zoo.save("llama", tmp_path_factory.mktemp("model") / "llama"))


@pytest.fixture(scope="module")
def artifact(model: str, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("made") / "out"
    compile_model(model, load_recipe("cpu-int8", [*LOOSE, "check.enabled=false"]), out, QUIET)
    return Artifact.open(out)


def test_work_of_a_step(artifact: Artifact) -> None:
    """Against figures worked out by hand: 64 channels, 4 heads and 2 KV heads of 16, 128 in the MLP, 160 tokens."""
    module = parse_module(artifact.path("model.ir").read_text())
    found = works(module, Step(requests=3, tokens=2, length=10), block=16)
    qkv = next(w for w in found if w.weight.endswith("0.self_attn.qkv_proj.weight"))
    assert qkv.operations == 2 * 6 * (64 + 32 + 32) * 64
    assert qkv.bytes == 128 * 64 + 128 * 4 + 128 * 4 + 4 * 6 * (64 + 128), (
        "values, scales, bias, input and output"
    )
    assert qkv.integer and qkv.form == "int8"
    head = [w for w in found if w.operator == "quantized_linear"][-1]
    assert head.operations == 2 * 3 * 160 * 64, "logits of one row for each request"
    attention = next(w for w in found if w.operator == "paged_attention")
    assert attention.operations == 4 * 64 * 3 * (9 + 10), "the first of two tokens attends to one less"
    assert attention.bytes == 3 * 10 * 2 * 2 * 16 * 2 + 4 * 6 * (64 + 32 + 32) + 4 * 6 * 64
    table = next(w for w in found if w.operator == "quantized_embedding")
    assert table.bytes == 6 * (64 + 4) + 4 * 6 * 64, "only the rows that are looked up"


def test_limits_follow_from_work(artifact: Artifact) -> None:
    backend = load_backend("onnxruntime")
    loads = (Load("one", 1, 1, 15), Load("many", 16, 1, 15), Load("prompt", 1, 512, 0))
    found = roofline(artifact.root, artifact.spec, backend, 1, loads=loads, limits=MACHINE)
    assert [step["tokens"] for step in found["steps"]] == [1, 1, 128], "a prompt is cut to the context"
    for row in found["rows"]:
        rate = 200.0 if "int8" in row["op"] and "linear" in row["op"] else 100.0
        memory, compute = row["bytes"] / 10.0 / 1e6, row["operations"] / rate / 1e6
        assert row["limit_ms"] == pytest.approx(max(memory, compute))
        assert row["bound"] == ("memory" if memory >= compute else "compute")
        if row["measured_ms"] is not None:
            assert row["share"] == pytest.approx(row["limit_ms"] / row["measured_ms"])
    linears = [r for r in found["rows"] if r["name"] == "layers.*.mlp.down_proj"]
    assert [r["count"] for r in linears] == [3, 3, 3]
    assert all(r["measured_ms"] for r in linears), "the profiler's names are those of the graph"
    for step in found["steps"]:
        own = sum(r["measured_ms"] or 0 for r in found["rows"] if r["load"] == step["name"])
        assert 0 < own <= step["measured_ms"] * 1.05
    assert any("int8 linears" in s and "take" in s for s in found["sentences"])


def test_a_backend_that_cannot_say_gives_limits_alone(model: str, tmp_path: Path) -> None:
    overrides = [*LOOSE, "check.enabled=false", "target.backend=reference"]
    compile_model(model, load_recipe("cpu-int8", overrides), tmp_path / "out", QUIET)
    made = Artifact.open(tmp_path / "out")
    found = roofline(made.root, made.spec, load_backend("reference"), 1, limits=MACHINE)
    assert found["rows"] and all(row["measured_ms"] is None for row in found["rows"])


def test_events_are_medians_of_the_last_runs() -> None:
    def node(name: str, at: int, took: int) -> dict[str, object]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "ts": at, "dur": took}

    runs = [{"cat": "Session", "name": "model_run", "ts": at, "dur": 90} for at in (0, 100, 200, 300)]
    times = {0: 80, 100: 10, 200: 30, 300: 20}
    events = [node("linear/MatMul", at + 1, took) for at, took in times.items()]
    events += [node("linear/Add", at + 70, 1) for at in times] + [node("made_by_the_runtime", 205, 4)]
    found = read_events([*events, *runs], rounds=3)
    assert found.seconds == pytest.approx(90e-6)
    assert found.nodes["linear"] == pytest.approx(21e-6)
    assert found.nodes[""] == 0, "in one of three runs"
    assert found.outside == pytest.approx(69e-6), "79, 59 and 69 of 90 in the last three"


def test_limits_are_the_best_of_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = machine_limits(1, tmp_path)
    assert first.read_gb_s > 0 and first.int8_gops >= first.fp32_gops > 0
    (kept,) = (tmp_path / "limits").iterdir()
    busy = replace(
        first, read_gb_s=first.read_gb_s / 2, int8_gops=first.int8_gops * 2, measured="2999-01-01T00:00:00Z"
    )
    monkeypatch.setattr("optcc.compile.roofline.limits.measure_limits", lambda threads: busy)
    assert machine_limits(1, tmp_path) == replace(first, int8_gops=busy.int8_gops)
    kept.write_text(json.dumps(asdict(replace(first, measured="2000-01-01T00:00:00Z"))))
    assert machine_limits(1, tmp_path) == busy, "yesterday's count no more"
    kept.write_text("{}")
    assert machine_limits(1, tmp_path) == busy


def test_speed_in_a_recipe(tmp_path: Path) -> None:
    assert load_recipe("cpu-int8").check.speed is None
    assert "speed" not in load_recipe("cpu-int8").to_json()["check"]
    file = tmp_path / "fast.yaml"
    file.write_text("version: 1\nextends: cpu-int8\ncheck: {speed: {requests: 4, at-least: 1.5}}\n")
    found: Recipe = load_recipe(file)
    assert found.check.speed == SpeedLimit(4, 1.5)
    assert found.to_json()["check"]["speed"] == {"requests": 4, "at-least": 1.5}
    file.write_text("version: 1\nextends: cpu-int8\ncheck: {speed: {least: 1.5}}\n")
    with pytest.raises(RecipeField, match=r"check\.speed\.least"):
        load_recipe(file)


@pytest.mark.parametrize(("least", "ok"), [(1e-6, True), (1e6, False)])
def test_an_artifact_that_is_too_slow_fails(model: str, tmp_path: Path, least: float, ok: bool) -> None:
    recipe = load_recipe("cpu-int8", [*LOOSE, "check.speed.requests=2", f"check.speed.at-least={least}"])
    made = compile_model(model, recipe, tmp_path / "out", QUIET)
    assert made.ok == ok
    verdict = made.report.to_json()["speed_limit"]
    assert verdict["outcome"] == ("pass" if ok else "fail")
    assert verdict["measured"]["units"] == 5
    assert verdict["measured"]["low"] < verdict["measured"]["value"] < verdict["measured"]["high"]


def test_an_interval_across_the_limit_is_undecided() -> None:
    limit = Limit("speed", 1.0, "at-least")
    assert outcome(limit, Estimate(1.1, 0.9, 1.3, 5, "t")) == "undecided"
    assert outcome(limit, Estimate(1.1, 1.0, 1.3, 5, "t")) == "pass"
    assert outcome(limit, Estimate(0.8, 0.7, 0.9, 5, "t")) == "fail"
