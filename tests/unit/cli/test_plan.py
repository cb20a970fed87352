"""`optcc plan` and `optcc passes`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optcc.cli.passes import _tell
from optcc.pm import parse_pipeline, pass_ids
from optcc.pm.instruments import PassRecord
from tests.unit.cli.conftest import Cli


@pytest.mark.parametrize("preset", ["cpu-fp32", "cpu-int8", "cpu-mixed"])
def test_pipeline_text_parses_back(preset: str, cli: Cli) -> None:
    data = cli("plan", preset, "--json").data
    steps = [str(step) for step in parse_pipeline(data["pipeline"])]
    assert steps == [step for stage in data["stages"].values() for step in stage]
    told = cli("plan", preset).out.partition("\npasses\n")[2]
    text = "\n".join(line for line in told.splitlines() if not line.lstrip().startswith("#"))
    assert [str(step) for step in parse_pipeline(text)] == steps


def test_limits_say_where_they_come_from(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "version: 1\ntarget: {backend: reference}\n"
        "passes:\n  quantize: [quantize.linear: {scheme: int8-g32-a8}]\n  serve: [serve.paged-kv]\n"
        "check: {limits: {nll: 0.5, greedy: 0.1}}\n"
    )
    child = tmp_path / "child.yaml"
    child.write_text("version: 1\nextends: ./base.yaml\ncheck: {limits: {greedy: 0.2}}\n")
    data = cli("plan", child, "--set", "check.limits.kl=0.5", "--json").data
    assert {bound["metric"]: (bound["value"], bound["origin"]) for bound in data["limits"]} == {
        "kl": (0.5, "--set"),
        "top1": (0.91, "scheme int8-g32-a8"),
        "nll": (0.5, "recipe ./base.yaml"),
        "greedy": (0.2, "recipe child"),
        "structure": (1e-9, "every decoder"),
        "lowering": (1e-7, "every decoder"),
        "rounding": (0.03, "every decoder"),
        "noise": (1.5, "every decoder"),
        "serving": (1e-6, "every decoder"),
        "weights": (1.5, "every decoder"),
    }


def test_prediction_is_near_what_a_compile_makes(cli: Cli, compiled: Path, model: Path, recipe: Path) -> None:
    told = cli("plan", model, recipe, "--json")
    assert told.code == 0
    predicted = told.data["preflight"]["predicted"]
    report = cli("inspect", compiled, "--json").data["report"]
    assert predicted["artifact_bytes"] == pytest.approx(report["artifact_bytes"], rel=0.001)
    assert report["preflight"]["predicted"]["artifact_bytes"] == predicted["artifact_bytes"]
    assert report["preflight"]["measured"]["artifact_bytes"] == report["artifact_bytes"]
    assert 0 < report["anonymous_bytes"] <= report["peak_bytes"]
    assert predicted["context"]["token_bytes"] == 3 * 2 * 2 * 16 * 4
    assert "nothing stands in the way" in cli("plan", model, recipe, "--preflight").out


def test_all_problems_at_once(cli: Cli, model: Path, tmp_path: Path) -> None:
    """Of the recipe and of the model; each with its code, its place and what to do."""
    (tmp_path / "odd.yaml").write_text(
        "version: 1\ndescription: groups of 48\nweight: {type: int8, group: 48}\nactivation: null\nembedding: true\n"
    )
    path = tmp_path / "wrong.yaml"
    path.write_text(
        "version: 1\nextends: cpu-fp32\npasses:\n"
        "  quantize: [quantize.linear: {scheme: ./odd.yaml}, quantize.kv: {type: int9}]\n"
        "  fuse: [fuse.nothing]\n"
        "check: {data: [./missing.txt, prose]}\n"
    )
    told = cli("plan", model, path, "--preflight", "--json")
    assert told.code == 2
    found = {p["code"]: p for p in told.data["problems"]}
    assert set(found) == {"E104", "E106", "E401", "E802"}
    assert "wrong.yaml:5" in found["E104"]["where"]
    assert "quantize.linear" in found["E401"]["where"] and "int9" in found["E106"]["what"]
    assert all(p["hint"] for p in found.values())
    printed = cli("plan", model, path, "--preflight").err
    assert all(f"error [{code}]" in printed for code in found)


def test_a_configuration_is_enough(cli: Cli, model: Path, recipe: Path, tmp_path: Path) -> None:
    """Without weights: the same bytes, to what the name and the digest of a model take."""
    alone = tmp_path / "talker"
    alone.mkdir()
    for file in model.iterdir():
        if file.suffix == ".json":
            (alone / file.name).write_bytes(file.read_bytes())
    quantized = ["--set", "passes.quantize=[quantize.linear: {scheme: int4-g32}]"]
    for setting in ([], quantized):
        whole, bare = (
            cli("plan", place, recipe, "--preflight", "--json", *setting).data["preflight"]
            for place in (model, alone)
        )
        assert bare["predicted"]["artifact_bytes"] == whole["predicted"]["artifact_bytes"]
        assert "no weights" in bare["notes"][0]


def test_a_deep_configuration_is_extrapolated(cli: Cli, model: Path, recipe: Path, tmp_path: Path) -> None:
    """Two shallow captures give what one of all layers gives, but for digits in names."""
    for layers, folder in ((4, "whole"), (12, "deep")):
        (tmp_path / folder).mkdir()
        config = json.loads((model / "config.json").read_text()) | {"num_hidden_layers": layers}
        if config.get("layer_types"):
            config["layer_types"] = config["layer_types"][:1] * layers
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    setting = ["--set", "passes.quantize=[quantize.linear: {scheme: int8-g64}]"]

    def predicted(folder: str) -> dict[str, Any]:
        data = cli("plan", tmp_path / folder, recipe, "--preflight", "--json", *setting).data
        return dict(data["preflight"]["predicted"])

    deep = predicted("deep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optcc.compile.survey.shallow", lambda kinds: (1, 100))
        whole = predicted("deep")
    assert deep["artifact_bytes"] == pytest.approx(whole["artifact_bytes"], rel=0.002)
    assert deep["captured_bytes"] == whole["captured_bytes"]
    assert deep["quantized"] == whole["quantized"]
    assert deep["context"]["token_bytes"] == whole["context"]["token_bytes"]
    assert 2.5 < deep["captured_bytes"] / predicted("whole")["captured_bytes"] < 3.0


def test_context_that_fits(cli: Cli, model: Path, recipe: Path) -> None:
    def context(size: str) -> dict[str, int]:
        data = cli("plan", model, recipe, "--memory", size, "--json").data
        return dict(data["preflight"]["predicted"]["context"])

    roomy, tight = context("8GB"), context("151MB")
    assert roomy["longest"] == roomy["limit"] == 128
    spare = roomy["memory_bytes"] - roomy["serving_bytes"]
    assert spare - 16 * roomy["token_bytes"] <= roomy["fits"] * roomy["token_bytes"] <= spare
    assert tight["fits"] < roomy["fits"]
    assert cli("plan", model, recipe, "--memory", "much").code == 2


def test_plan_refuses_what_a_compile_would(cli: Cli, model: Path, recipe: Path) -> None:
    assert cli("plan", model, recipe, "--set", "passes.fuse=[fuse.nothing]", "--json").error["code"] == "E104"
    assert cli("plan", "absent", recipe, "--json").error["code"] == "E201"


def test_passes_list(cli: Cli) -> None:
    data = cli("passes", "list", "--json").data
    assert [row["id"] for row in data] == pass_ids()
    assert all(row["does"] for row in data)
    told = cli("passes", "list").out
    assert max(map(len, told.splitlines())) <= 100
    assert "  serve.paged-kv " in told


def test_passes_show(cli: Cli) -> None:
    data = cli("passes", "show", "serve.paged-kv", "--json").data
    (option,) = data["options"]
    assert (option["name"], option["type"], option["default"]) == ("block-size", "int", "16")
    assert option["does"].startswith("tokens per block")
    assert "Options:" not in data["doc"]
    assert "block-size: int, default 16" in cli("passes", "show", "serve.paged-kv").out
    assert cli("passes", "show", "serve.paged", "--json").error["code"] == "E104"


FUSION = """\
from dataclasses import dataclass
from typing import ClassVar

import torch
from optcc.pm import RewritePass, Rule, Var, op


def only_wide(match):
    width = match.shape("x")[-1]
    return None if width > 1000 else f"only {width} channels"


@dataclass(frozen=True)
class Relu(RewritePass):
    \"\"\"silu of wide values becomes relu.\"\"\"

    rules: ClassVar = (
        Rule("wide-silu", op("aten.silu.default", Var("x")),
             lambda match, build: build.call(torch.ops.aten.relu.default, match["x"]), only_wide),
    )
"""


def test_passes_why_names_rule_place_and_reason(
    cli: Cli, model: Path, recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "relu.py").write_text(FUSION)
    setting = ["--set", f"passes.fuse=[{tmp_path / 'relu.py'}:Relu]"]
    ref = cli("plan", recipe, *setting, "--json").data["stages"]["fuse"][0]
    data = cli("passes", "why", ref, model, recipe, *setting, "--json").data
    assert [miss["reason"] for miss in data["misses"]] == ["only 128 channels"] * 3
    capfd.readouterr()
    _tell(PassRecord.from_json(data))
    told = capfd.readouterr().out
    assert "wide-silu: only 128 channels" in told
    assert "transformers/" in told
    refused = cli("passes", "why", "quantize.linear", model, recipe, "--json")
    assert (refused.code, refused.error["code"]) == (2, "E104")
    assert "doesn't run" in refused.error["what"]


READS = """\
from dataclasses import dataclass
import torch
from optcc.pm import Context, Module, Pass

@dataclass(frozen=True)
class Reads(Pass):
    \"\"\"Reads weights before it decides anything.\"\"\"

    def run(self, module: Module, ctx: Context) -> bool:
        name = next(n for n in module.weights if n.endswith("q_proj.weight"))
        return bool((module.weights[name].abs() > 100).any().item())
"""


def test_a_pass_that_reads_weights_is_left_out_of_the_prediction(
    cli: Cli, model: Path, recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "reads.py").write_text(READS)
    path = tmp_path / "reading.yaml"
    path.write_text(f"version: 1\nextends: {recipe}\npasses:\n  quantize: [./reads.py:Reads]\n")
    plain, reading = (
        cli("plan", model, r, "--preflight", "--json").data["preflight"] for r in (recipe, path)
    )
    assert plain["predicted"]["left_out"] == []
    assert reading["predicted"]["left_out"] == ["./reads.py:Reads"]
    assert any("./reads.py:Reads" in note for note in reading["notes"])
    near = pytest.approx(plain["predicted"]["artifact_bytes"], rel=0.01)
    assert reading["predicted"]["artifact_bytes"] == near
    assert "isn't in the prediction" in cli("plan", model, path, "--preflight").out
