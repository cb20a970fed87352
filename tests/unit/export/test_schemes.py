"""Every scheme: compiled, fused, exported, loaded again, and the same to the bit; other tools' own code agrees."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from optcc.errors import ExportRefused, OutputInTheWay
from optcc.export.hf import Exported, Origin, export_hf
from optcc.export.stored import stored_weights
from optcc.frontend import capture, resolve
from optcc.frontend.lift import to_module
from optcc.frontend.quantized import find_quantized
from optcc.frontend.safetensors import read_directory
from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from optcc.pm import Context, run_pipeline
from optcc.pm.context import Calibration
from optcc.pm.text import parse_pipeline
from optcc.recipe import load_recipe
from optcc.recipe.schemes import list_schemes, load_scheme
from tests import zoo
from tests.needs import package
from tests.unit.passes.conftest import step

FUSE = "fuse.dequant-linear,fuse.gated-mlp,fuse.qkv,fuse.add-rms-norm,fuse.early-rows"
SCHEMES = list_schemes()
MODELOPT = {
    "fp8-tensor-static": "FP8",
    "int8-channel-static": "W8A8_SQ_PER_CHANNEL",
    "int8-channel": "W8A16",
    "fp8-channel-a8": "FP8_PER_CHANNEL_PER_TOKEN",
    "fp8-b128": "FP8_PB_WO",
    "int4-g32": "W4A16_AWQ",
    "int4-g64": "W4A16_AWQ",
    "int4-g128": "W4A16_AWQ",
    "nvfp4": "W4A16_NVFP4",
    "mxfp8-a8": "MXFP8",
}
Compiled = Callable[[str], Module]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama whose widths are multiples of 128, with biases and an untied head."""
    return zoo.save("llama", tmp_path_factory.mktemp("m") / "m", hidden_size=128, intermediate_size=256)


@pytest.fixture(scope="module")
def compiled(model: Path) -> Compiled:
    """The model in a scheme, fused."""
    base = to_module(capture(resolve(str(model))))
    passes = load_recipe("cpu-fp32").passes["canonicalize"]
    run_pipeline(base, parse_pipeline(",".join(p.ref for p in passes)), Context("reference", 1))

    @cache
    def get(scheme: str) -> Module:
        module = base.clone()
        if scheme:
            text = f"quantize.{'calibrated' if _is_static(scheme) else 'linear'}{{scheme={scheme}}}"
            run_pipeline(module, parse_pipeline(text), _context())
        run_pipeline(module, parse_pipeline(FUSE), Context("reference", 1))
        return module

    return get


def _is_static(scheme: str) -> bool:
    """Whether its scales of activations come from a pass that calibrates."""
    activation = load_scheme(scheme).activation
    return activation is not None and activation.static


def _context() -> Context:
    return Context("reference", 1, calibration=Calibration((step(),), "tiny", zoo.TEXT))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTCC_CACHE", str(tmp_path / "cache"))


def _export(module: Module, model: Path, out: Path, **options: Any) -> Exported:
    return export_hf(module, Origin("m", {"config.json": model / "config.json"}), out, **options)


def _loaded(path: Path) -> Module:
    return to_module(capture(resolve(str(path))))


def _error(a: Module, b: Module) -> float:
    """Largest difference of their logits."""
    return float((interpret(a, step())["logits"] - interpret(b, step())["logits"]).abs().max())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_round_trip(scheme: str, compiled: Compiled, model: Path, tmp_path: Path) -> None:
    """Packed values, scales and zero points of every weight, from the files, to the bit."""
    module = compiled(scheme)
    done = _export(module, model, tmp_path / "out", vocabulary="packed")
    assert done.compared == sum(done.schemes.values()) == (23 if load_scheme(scheme).embedding else 21)
    found = {f"{item.module}.weight": item.read() for item in find_quantized(tmp_path / "out")}
    packed = {w.name: w for w in stored_weights(module)}
    assert set(found) == set(packed)
    for name, parts in found.items():
        for part in ("packed", "scale", "zero", "tensor_scale"):
            before, after = packed[name].part(module, part), getattr(parts, part)
            assert (before is None) == (after is None)
            if before is not None:
                assert before.dtype == after.dtype
                assert torch.equal(
                    before.contiguous().view(torch.uint8), after.contiguous().view(torch.uint8)
                )
        given = packed[name].rounding
        assert (
            (given is not None and given.form.static) == (parts.input_scale is not None) == _is_static(scheme)
        )
        if given and given.scale:
            assert torch.equal(module.weights[given.scale], parts.input_scale)


@pytest.mark.parametrize(
    "scheme",
    ["int4-g32-asym-a8", "int8-channel-a8", "fp8-b128-a8", "nvfp4", "mxfp8-a8"]
    + [s for s in SCHEMES if _is_static(s)],
)
def test_loaded_model_computes_the_same(scheme: str, compiled: Compiled, model: Path, tmp_path: Path) -> None:
    module = compiled(scheme)
    _export(module, model, tmp_path / "out", vocabulary="packed")
    again = _loaded(tmp_path / "out")
    assert {w.name for w in stored_weights(again)} == {w.name for w in stored_weights(module)}
    assert _error(module, again) < 1e-4


@pytest.mark.parametrize("scheme", SCHEMES)
def test_modelopt(scheme: str, compiled: Compiled, model: Path, tmp_path: Path) -> None:
    """Every scheme in modelopt's format to the bit, or refused by its name with what there is."""
    if scheme not in MODELOPT:
        with pytest.raises(ExportRefused, match=rf"no spelling for {scheme}\s") as error:
            _export(compiled(scheme), model, tmp_path / "out", format="modelopt")
        assert "W4A16_AWQ" in str(error.value.hint)
        return
    done = _export(compiled(scheme), model, tmp_path / "out", format="modelopt")
    # An int8 head is written as plain numbers.
    assert (done.schemes, done.compared) == ({MODELOPT[scheme]: 21}, 21)
    beside = json.loads((tmp_path / "out" / "hf_quant_config.json").read_text())
    assert beside["quantization"]["quant_algo"] == MODELOPT[scheme]
    if scheme in ("int4-g64", "fp8-b128", "fp8-tensor-static"):
        assert _error(compiled(scheme), _loaded(tmp_path / "out")) < 1e-4


def test_plain_vocabulary(compiled: Compiled, model: Path, tmp_path: Path) -> None:
    """A quantized embedding becomes numbers of the same value."""
    module = compiled("int8-g64")
    done = _export(module, model, tmp_path / "out")
    assert done.plain == ("lm_head.weight", "model.embed_tokens.weight")
    assert _error(module, _loaded(tmp_path / "out")) < 1e-4


def test_nothing_quantized(compiled: Compiled, model: Path, tmp_path: Path) -> None:
    assert _export(compiled(""), model, tmp_path / "out").format == "plain"
    before, after = read_directory(model), read_directory(tmp_path / "out")
    assert set(before) == set(after)
    assert all(torch.equal(before[n].stored(), after[n].stored()) for n in before)


def test_mixed(compiled: Compiled, model: Path, tmp_path: Path) -> None:
    """Several schemes in one checkpoint, each with a config group of its own."""
    module = compiled("").clone()
    text = (
        "quantize.linear{scheme=int4-g64 only=[*down_proj*]},quantize.linear{scheme=fp8-channel-a8 part=body}"
    )
    run_pipeline(module, parse_pipeline(f"{text},fuse.dequant-linear"), Context("reference", 1))
    done = _export(module, model, tmp_path / "out")
    assert done.schemes == {"pack-quantized": 3, "float-quantized": 18}
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["format"] == "mixed-precision"
    assert _error(module, _loaded(tmp_path / "out")) < 1e-4


def test_refusals(compiled: Compiled, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="FP8_PER_CHANNEL_PER_TOKEN"):
        _export(compiled("int8-g64-asym"), model, tmp_path / "out", format="modelopt")
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(OutputInTheWay):
        _export(compiled(""), model, tmp_path / "full")
    changed = compiled("").clone()
    changed.weights.rename("model.norm.weight", "model.norm.weight.add")
    with pytest.raises(ExportRefused, match=r"model\.norm\.weight"):
        _export(changed, model, tmp_path / "out")


def test_a_weight_the_model_has_not(compiled: Compiled, model: Path, tmp_path: Path) -> None:
    """What a pass added would be missing in the model's own code."""
    changed = compiled("").clone()
    changed.weights.put("rotation", torch.eye(128))
    with pytest.raises(ExportRefused, match="rotation"):
        _export(changed, model, tmp_path / "out")


def test_damage_is_found(
    compiled: Compiled, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading back catches a writer that writes something else."""
    from optcc.export import compressed

    right = compressed._words
    monkeypatch.setattr(compressed, "_words", lambda module, weight: right(module, weight) ^ 1)
    with pytest.raises(ExportRefused, match="read back"):
        _export(compiled("int4-g64"), model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_reference_reader(scheme: str, compiled: Compiled, model: Path, tmp_path: Path) -> None:
    """compressed-tensors' own decompression of what is written gives our dequantized values."""
    package("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    _export(compiled(scheme), model, tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    config = QuantizationConfig.model_validate(settings)
    (group,) = config.config_groups.values()
    stored = read_directory(tmp_path / "out")
    item = next(i for i in find_quantized(tmp_path / "out") if i.module.endswith("layers.1.mlp.down_proj"))
    state = {n.removeprefix(f"{item.module}."): stored[n].stored().clone() for n in item.used}
    state.pop("input_scale", None)  # it decompresses weights
    found = BaseCompressor.get_value_from_registry(settings["format"]).decompress(state, group)["weight"]
    ours = next(w for w in stored_weights(compiled(scheme)) if w.module == item.module).dequantized(
        compiled(scheme)
    )
    # It multiplies in the scales' own type.
    rtol = {torch.bfloat16: 1e-2, torch.float16: 2e-3}.get(found.dtype, 1e-6)
    assert torch.allclose(found.float(), ours, rtol=rtol, atol=1e-7)
