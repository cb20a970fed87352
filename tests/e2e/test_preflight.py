"""Preflight of real models: what it says of a compile comes true, and a shape is enough for it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import hold_prediction, optcc
from tests.needs import demo_model, package

pytestmark = pytest.mark.e2e

SEVEN_BILLION = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PARAMETERS = 2 * 32000 * 4096 + 32 * (4 * 4096**2 + 3 * 4096 * 11008)
"""Of its matrices; norms have 4096 each."""


@pytest.mark.prove
@pytest.mark.parametrize("recipe", ["cpu-int8", "cpu-int4"])
def test_a_compile_of_smollm2_is_as_predicted(recipe: str, tmp_path: Path) -> None:
    package("onnxruntime")
    # Accuracy is not what this is about; what the check holds in memory doesn't depend on how many windows there are.
    few = ("--set", "check.tokens=1536", "--set", "check.limits.top1=0", "--set", "check.limits.kl=9")
    told = optcc(
        "compile", demo_model("smollm2"), recipe, "-o", tmp_path / "out", "--no-cache", "--no-speed", "--json", *few,
        seconds=1800,
    )  # fmt: skip
    report = json.loads(told.stdout)
    hold_prediction(report)
    assert len(report["ledger"]["rows"]) == 273
    assert all(row["error"] is not None for row in report["ledger"]["rows"] if row["scheme"] != "plain")


def _seven(folder: Path, recipe: str) -> tuple[dict[str, object], float]:
    """What preflight says of the shape, and the seconds that the whole command took."""
    (folder / "config.json").write_text(json.dumps(SEVEN_BILLION))
    began = time.perf_counter()
    told = optcc("plan", folder, recipe, "--preflight", "--memory", "16GB", "--json")
    took = time.perf_counter() - began
    assert told.returncode == 0, told.stderr
    found: dict[str, object] = json.loads(told.stdout)["preflight"]["predicted"]
    return found, took


@pytest.mark.prove
def test_the_bytes_of_seven_billion_follow_from_a_configuration(tmp_path: Path) -> None:
    """Against what is worked out by hand: a byte for each value, a float32 scale for 64 of them."""
    found, _ = _seven(tmp_path, "cpu-int8")
    assert found["artifact_bytes"] == pytest.approx(PARAMETERS * (1 + 4 / 64), rel=0.02)
    assert found["captured_bytes"] == 4 * (PARAMETERS + 65 * 4096) + 4 * 64
    context = found["context"]
    assert isinstance(context, dict)
    assert context["token_bytes"] == 32 * 2 * 4096 * 4
    assert context["longest"] == 4096
    assert 7000 < context["fits"] < 9000


@pytest.mark.prove
def test_seven_billion_take_ten_seconds(tmp_path: Path) -> None:
    assert min(_seven(tmp_path, "cpu-int8")[1] for _ in range(3)) < 10
