"""What nvidia-modelopt's own exporter writes of a tiny llama is read as it computes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from optcc.errors import UnsupportedCheckpoint
from optcc.frontend import capture, resolve
from optcc.frontend.lift import to_module
from optcc.frontend.quantized import find_quantized
from optcc.ir.interpret import interpret
from optcc.ir.ops.quantized import PARTS, dequantize
from tests import zoo
from tests.needs import package
from tests.unit.passes.conftest import step

package("modelopt")

LENGTH = 24


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama whose widths are multiples of 128."""
    return zoo.save("llama", tmp_path_factory.mktemp("m") / "m", hidden_size=128, intermediate_size=256)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTCC_CACHE", str(tmp_path / "cache"))


def _export(plain: Path, out: Path, config: str, run: bool = True) -> tuple[Tensor, Tensor]:
    """modelopt's checkpoint, and logits [T, V] of the model before, and with modelopt's own rounding if it can run."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()
    ids = step()["input_ids"][:LENGTH][None]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        before = model(input_ids=ids).logits[0]
        mtq.quantize(model, getattr(mtq, config), lambda m: m(input_ids=ids))
        after = model(input_ids=ids).logits[0] if run else before
        export_hf_checkpoint(model, export_dir=str(out))
    return before, after


def _errors(plain: Path, out: Path, config: str) -> tuple[float, float, float]:
    """Of the logits: modelopt's from the original's, ours from the original's, ours from modelopt's; relative."""
    before, theirs = _export(plain, out, config)
    inputs = step()
    rows = [i for i, row in enumerate(inputs["logit_rows"].tolist()) if row < LENGTH]
    wanted = inputs["logit_rows"][rows]
    ours = interpret(to_module(capture(resolve(str(out)))), inputs)["logits"][rows]
    before, theirs = before[wanted], theirs[wanted]
    return tuple(
        float((a - b).norm() / before.norm()) for a, b in ((theirs, before), (ours, before), (ours, theirs))
    )  # type: ignore[return-value]


@pytest.mark.parametrize(
    "config",
    ["FP8_DEFAULT_CFG", "FP8_PER_CHANNEL_PER_TOKEN_CFG", "INT8_DEFAULT_CFG", "INT8_WEIGHT_ONLY_CFG"],
)
def test_the_same_logits(config: str, plain: Path, tmp_path: Path) -> None:
    theirs, _, between = _errors(plain, tmp_path / "out", config)
    assert between < 1e-4
    assert theirs > 20 * between, "modelopt rounded nothing"


@pytest.mark.parametrize(
    "config", ["INT8_SMOOTHQUANT_CFG", "INT4_AWQ_CFG", "FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG"]
)
def test_as_near_to_the_original(config: str, plain: Path, tmp_path: Path) -> None:
    """The exporter rounds again with scales and factors that query, key and value share, so levels differ."""
    theirs, ours, _ = _errors(plain, tmp_path / "out", config)
    assert 0 < ours < 1.3 * theirs


def test_nvfp4(plain: Path, tmp_path: Path) -> None:
    """It can be exported on a CPU, but modelopt runs it on a GPU only: the values are held against the weights."""
    _export(plain, tmp_path / "out", "NVFP4_DEFAULT_CFG", run=False)
    original = load_file(plain / "model.safetensors")
    found = find_quantized(tmp_path / "out")
    assert len(found) == 21
    for item in found:
        parts, weight = item.read(), original[f"{item.module}.weight"]
        tensors = [getattr(parts, part) for part in PARTS]
        values = dequantize(*tensors, item.format, item.group, item.rows, torch.float32)
        assert 0.05 < float((values - weight).norm() / weight.norm()) < 0.12
        assert item.activation is not None
        assert parts.input_scale is not None
    logits = interpret(to_module(capture(resolve(str(tmp_path / "out")))), step())["logits"]
    assert bool(logits.isfinite().all())


def test_what_has_no_format_here(plain: Path, tmp_path: Path) -> None:
    _export(plain, tmp_path / "out", "W4A8_AWQ_BETA_CFG", run=False)
    with pytest.raises(UnsupportedCheckpoint, match="W4A8_AWQ"):
        capture(resolve(str(tmp_path / "out")))
