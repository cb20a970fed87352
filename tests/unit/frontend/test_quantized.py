"""Quantized checkpoints: each tool's own layout, written here as that tool writes it, is read to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from optcc.errors import CorruptWeights, UnsupportedCheckpoint
from optcc.frontend import capture, load_original, resolve
from optcc.frontend.lift import to_module
from optcc.frontend.quantized import find_quantized
from optcc.frontend.quantized.found import order_of, without_lowest
from optcc.frontend.quantized.words import AWQ_ORDER, awq_columns, field_words, fields
from optcc.ir.formats import pack_fields
from optcc.ir.interpret import interpret
from tests import zoo
from tests.unit.passes.conftest import step

GROUP = 32
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama before anything is done to it."""
    return zoo.save("llama", tmp_path_factory.mktemp("plain") / "m", num_hidden_layers=1)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTCC_CACHE", str(tmp_path / "cache"))


def _levels(weight: Tensor, group: int, zeros: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Unsigned 4-bit levels [O, K], scales f16 [O, groups], zero points [O, groups]."""
    grouped = weight.float().unflatten(-1, (-1, group))
    if not zeros:
        scale = (grouped.abs().amax(-1) / 7).half()
        zero = torch.full(scale.shape, 8)
    else:
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scale = ((high - low) / 15).half()
        zero = (-low / scale.float()).round().clamp(1, 15).long()
    levels = (grouped / scale.float()[..., None]).round() + zero[..., None]
    return levels.clamp(0, 15).long().flatten(-2), scale, zero


def _values(levels: Tensor, scale: Tensor, zero: Tensor, group: Tensor) -> Tensor:
    """What the levels stand for, float32; `group` i64[K] is each channel's group."""
    return (levels - zero[:, group]) * scale.float()[:, group]


def _pack_rows(values: Tensor, bits: int = 4) -> Tensor:
    """Words along the first dimension, one value after the other, as AutoGPTQ's loop does."""
    per = 32 // bits
    words = torch.zeros(values.shape[0] // per, values.shape[1], dtype=torch.int64)
    for i in range(per):
        words |= values[i::per] << (bits * i)
    return words.to(torch.int32)


def _pack_awq(values: Tensor) -> Tensor:
    """Words along the second dimension in AWQ's order, as AutoAWQ's loop does."""
    words = torch.zeros(values.shape[0], values.shape[1] // 8, dtype=torch.int64)
    for nibble, column in enumerate(AWQ_ORDER):
        words |= values[:, column::8] << (4 * nibble)
    return words.to(torch.int32)


def _save(plain: Path, out: Path, convert: Any, settings: dict[str, Any]) -> tuple[Path, dict[str, Tensor]]:
    """A checkpoint whose linears `convert(name, weight)` has rewritten, and the values they stand for."""
    tensors, values = {}, {}
    for name, tensor in load_file(plain / "model.safetensors").items():
        if not name.endswith(tuple(f"{linear}.weight" for linear in LINEARS)):
            tensors[name] = tensor
            continue
        module = name.removesuffix(".weight")
        parts, values[name] = convert(module, tensor)
        tensors |= {f"{module}.{part}": value.contiguous() for part, value in parts.items()}
    out.mkdir()
    save_file(tensors, str(out / "model.safetensors"))
    config = json.loads((plain / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return out, values


def _check(out: Path, values: dict[str, Tensor]) -> None:
    """The graph computes with exactly these values, and so does the original of the check."""
    module = to_module(capture(resolve(str(out))))
    assert not [name for name in values if name in module.weights]
    original = load_original(resolve(str(out)))
    parameters = dict(original.named_parameters())
    for name, value in values.items():
        assert torch.equal(parameters[name], value), name
    inputs = step()
    logits = interpret(module, inputs)["logits"]
    ids = inputs["input_ids"][:24][None]
    with torch.no_grad():
        wanted = original(input_ids=ids, use_cache=False).logits[0]
    rows = [i for i, r in enumerate(inputs["logit_rows"].tolist()) if r < 24]
    expected = wanted[inputs["logit_rows"][rows]]
    assert (logits[rows] - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("layout", "zeros", "reorder"), [("gptq", True, False), ("gptq_v2", False, True)])
def test_gptq(plain: Path, tmp_path: Path, layout: str, zeros: bool, reorder: bool) -> None:
    def convert(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        width = weight.shape[1]
        seed = 1 if module.endswith("down_proj") else 2  # the others of one width share their order
        order = (
            torch.randperm(width, generator=torch.Generator().manual_seed(seed))
            if reorder
            else torch.arange(width)
        )
        group = torch.empty(width, dtype=torch.long)
        group[order] = torch.arange(width) // GROUP
        ordered, scale, zero = _levels(weight[:, order], GROUP, zeros)
        levels = torch.empty_like(ordered)
        levels[:, order] = ordered
        shift = zero - int(layout == "gptq")
        parts = {"qweight": _pack_rows(levels.T), "scales": scale.T, "g_idx": group.int()}
        return parts | {"qzeros": _pack_rows(shift).T}, _values(levels, scale, zero, group)

    settings = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": reorder}
    out, values = _save(plain, tmp_path / "m", convert, settings | {"checkpoint_format": layout})
    assert all((found.read().zero is None) == (not zeros) for found in find_quantized(out))
    _check(out, values)


def test_awq(plain: Path, tmp_path: Path) -> None:
    def convert(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        levels, scale, zero = _levels(weight, GROUP, zeros=True)
        parts = {"qweight": _pack_awq(levels.T), "qzeros": _pack_awq(zero.T), "scales": scale.T}
        return parts, _values(levels, scale, zero, torch.arange(weight.shape[1]) // GROUP)

    settings = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
    _check(*_save(plain, tmp_path / "m", convert, settings))


def test_modelopt_smoothed(plain: Path, tmp_path: Path) -> None:
    """W4A16_AWQ: packed along the rows, with a factor on the input that the weights were divided by."""

    def convert(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        factor = torch.rand(weight.shape[1]) + 0.5
        levels, scale, zero = _levels(weight / factor, GROUP, zeros=False)
        nibbles = (levels - 8) & 15
        parts = {
            "weight": (nibbles[0::2] | nibbles[1::2] << 4).to(torch.uint8),
            "weight_scale": scale.float(),
        }
        values = _values(levels, scale, zero, torch.arange(weight.shape[1]) // GROUP)
        return parts | {"pre_quant_scale": factor}, values * factor

    settings = {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": GROUP}
    _check(*_save(plain, tmp_path / "m", convert, settings))


def test_fields_that_straddle_words() -> None:
    values = torch.randint(0, 8, (5, 48), dtype=torch.uint8)
    assert torch.equal(fields(field_words(values, 3), 3, 48), values)
    columns = torch.randint(0, 16, (3, 16))
    assert torch.equal(awq_columns(_pack_awq(columns)).long(), columns)


def test_channel_order() -> None:
    index = torch.tensor([1, 0, 1, 0], dtype=torch.int32)
    assert order_of(index, 2, "m", "w").tolist() == [1, 3, 0, 2]  # type: ignore[union-attr]
    assert order_of(torch.tensor([0, 0, 1, 1]), 2, "m", "w") is None
    with pytest.raises(UnsupportedCheckpoint, match="different sizes"):
        order_of(torch.tensor([0, 0, 0, 1]), 2, "m", "w")


def test_two_bits_with_four_levels() -> None:
    assert without_lowest(pack_fields(torch.tensor([1, 2, 3, 2], dtype=torch.uint8), 2), "m", "w") is not None
    with pytest.raises(UnsupportedCheckpoint, match="four levels"):
        without_lowest(pack_fields(torch.tensor([0, 2, 3, 2], dtype=torch.uint8), 2), "m", "w")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"quant_method": "bitsandbytes"}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 5}, "5 bits"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "marlin"),
        ({"quant_method": "gptq", "dynamic": {"-:x": {}}}, "dynamic"),
        ({"quant_method": "awq", "version": "gemv"}, "gemv"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "marlin-24"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4_SVD"}, "NVFP4_SVD"),
    ],
)
def test_refused(plain: Path, tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    def convert(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return {"weight": weight.to(torch.int8), "weight_scale": torch.ones(1)}, weight

    out, _ = _save(plain, tmp_path / "m", convert, settings)
    with pytest.raises(UnsupportedCheckpoint, match=reason) as error:
        capture(resolve(str(out)))
    assert error.value.hint


def test_incomplete(plain: Path, tmp_path: Path) -> None:
    """A missing part is named; a storage type without a scale is never read as numbers."""

    def no_zeros(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        levels, scale, _ = _levels(weight, GROUP, zeros=True)
        return {"qweight": _pack_awq(levels.T), "scales": scale.T}, weight

    awq = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True}
    out, _ = _save(plain, tmp_path / "a", no_zeros, awq)
    with pytest.raises(CorruptWeights, match="no qzeros"):
        capture(resolve(str(out)))

    def no_scale(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return {"weight": weight.to(torch.float8_e4m3fn)}, weight

    out, _ = _save(plain, tmp_path / "b", no_scale, {})
    with pytest.raises(UnsupportedCheckpoint, match="float8_e4m3fn"):
        capture(resolve(str(out)))


@pytest.mark.parametrize("group", [64, 48])
@pytest.mark.parametrize("method", ["gptq", "awq", "modelopt", "compressed-tensors"])
def test_groups_that_the_scales_do_not_have(plain: Path, tmp_path: Path, method: str, group: int) -> None:
    """The configuration says 64 where there are scales for 32; or a group that doesn't divide the width."""

    def convert(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        levels, scale, zero = _levels(weight, GROUP, zeros=True)
        if method == "gptq":
            return {"qweight": _pack_rows(levels.T), "qzeros": _pack_rows(zero).T, "scales": scale.T}, weight
        if method == "awq":
            return {"qweight": _pack_awq(levels.T), "qzeros": _pack_awq(zero.T), "scales": scale.T}, weight
        if method == "modelopt":
            nibbles = (levels - 8) & 15
            parts = {"weight": (nibbles[0::2] | nibbles[1::2] << 4).to(torch.uint8)}
            return parts | {"weight_scale": scale.float()}, weight
        parts = {"weight_packed": _pack_rows(levels.T).T, "weight_shape": torch.tensor(weight.shape)}
        return parts | {"weight_scale": scale}, weight

    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": group}
    settings = {"quant_method": method, "bits": 4, "group_size": group, "quant_algo": "W4A16_AWQ"} | {
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    out, _ = _save(plain, tmp_path / "m", convert, settings)
    with pytest.raises(UnsupportedCheckpoint, match=f"scales for groups of {group}") as error:
        capture(resolve(str(out)))
    assert "divide" in str(error.value.hint)
