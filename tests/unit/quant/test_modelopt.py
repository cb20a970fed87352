"""modelopt's scales, read into our schemes and packed by us, give what modelopt itself computes."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from optcc.compile import CompileOptions, compile_model
from optcc.errors import BadOption, GroupSize, MissingPackage, NoCalibration
from optcc.ir.formats import find_format
from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from optcc.ir.ops.quantized import dequantize
from optcc.pm import Context, build_pass, parse_pipeline, run_pipeline
from optcc.pm.context import Calibration
from optcc.pm.instruments import Check
from optcc.quant import rounding
from optcc.quant.modelopt.apply import calibrated_view, take_over
from optcc.quant.modelopt.backend import fake_quantize
from optcc.quant.modelopt.calibrate import Found, Method, pack
from optcc.quant.modelopt.histogram import least_error
from optcc.quant.rounding import round_to_nearest, to_groups
from optcc.quant.select import select_weights
from optcc.recipe import load_recipe
from optcc.recipe.schemes import ActivationFormat, Scheme, WeightFormat, load_scheme
from tests import zoo
from tests.unit.passes.conftest import step
from tests.unit.quant.conftest import Canonical

BAR = 1e-3
_E4M3 = ActivationFormat("e4m3", static=True)


@dataclass(frozen=True)
class Case:
    """A scheme and a method."""

    scheme: Scheme
    method: Method


def _scheme(name: str, weight: WeightFormat, activation: ActivationFormat | None = None) -> Scheme:
    return Scheme(name, "", weight, activation, embedding=False)


_MAX = Method({"method": "max"})
_AWQ = Method({"method": "awq_lite", "alpha_step": 0.25}, smooths=True, passes=2)
_SMOOTH = Method({"method": "smoothquant", "alpha": 0.5}, smooths=True, by_inputs=True, passes=1)
CASES = {
    "int8 weights": Case(load_scheme("int8-channel"), _MAX),
    "int8 weights by least error": Case(load_scheme("int8-channel"), Method({"method": "mse"})),
    "int8 weights and inputs": Case(load_scheme("int8-channel-static"), _MAX),
    "int8 inputs by percentile": Case(
        load_scheme("int8-channel-static"), Method({"method": "max"}, "percentile", 99.0)
    ),
    "int8 inputs by least error": Case(load_scheme("int8-channel-static"), Method({"method": "max"}, "mse")),
    "int8 smoothed": Case(load_scheme("int8-channel-static"), _SMOOTH),
    "fp8 weights and inputs": Case(load_scheme("fp8-tensor-static"), _MAX),
    "fp8 weights by channel": Case(_scheme("channel", WeightFormat("e4m3", 0), _E4M3), _MAX),
    "fp8 weights in blocks": Case(_scheme("blocks", WeightFormat("e4m3", 32, rows=48)), _MAX),
    "int4 AWQ": Case(load_scheme("int4-g64"), _AWQ),
    "int4 AWQ, clipped": Case(
        load_scheme("int4-g32"), Method({"method": "awq_full", "alpha_step": 0.5}, smooths=True, passes=3)
    ),
    "int4 AWQ with zero points": Case(load_scheme("int4-g32-asym"), _AWQ),
    "nvfp4": Case(load_scheme("nvfp4"), _MAX),
    "nvfp4 AWQ": Case(load_scheme("nvfp4"), _AWQ),
    "mxfp4": Case(load_scheme("mxfp4"), _MAX),
}


def _context() -> Context:
    return Context(calibration=Calibration((step(),), "a step", 32))


def _head_too(module: Module, scheme: Scheme) -> list[Any]:
    return select_weights(module, scheme, part="body")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_our_packed_weights_compute_what_modelopt_does(canonical: Canonical, case: str) -> None:
    module, (scheme, method), inputs = canonical("llama"), vars(CASES[case]).values(), step()
    plain = interpret(module, inputs)["logits"]
    ctx, selected = _context(), _head_too(module, scheme)
    view = calibrated_view(module, selected, scheme, method, ctx, "test")
    theirs = view(**inputs)["logits"]
    take_over(module, view, selected, scheme, ctx)
    Check().after(build_pass("quantize.calibrated", {}), module, ctx, True)
    ours = interpret(module, inputs)["logits"]
    # The last bit of a sum, which processors round differently, decides how an input between two levels is rounded:
    # that may strike one token, and no other is a thousandth as far off.
    of_tokens = ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).flatten().sort().values
    assert float(of_tokens[-2]) < BAR
    assert float(of_tokens[-1]) < 20 * BAR
    assert float((theirs - plain).norm() / plain.norm()) > 5 * BAR, "modelopt rounded nothing"
    held = sum(module.weights.nbytes(f"{s.name}.packed") for s in selected)
    assert held == sum(scheme.weight.bytes(*s.shape)[0] for s in selected)


def test_our_nvfp4_is_modelopts_own() -> None:
    """The backend's rounding against the packing that modelopt exports checkpoints with."""
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    torch.manual_seed(0)
    weight, form = torch.randn(48, 64) * torch.rand(48, 1) * 3, WeightFormat("e2m1", 16, scale="e4m3")
    stored, scale, whole = NVFP4QTensor.quantize(weight, 16)
    theirs = stored.dequantize(dtype=torch.float32, scale=scale, double_scale=whole, block_sizes={-1: 16})
    mine = round_to_nearest(weight, form)
    assert mine.tensor_scale is not None
    torch.testing.assert_close(mine.tensor_scale.reshape(()), whole.reshape(()))
    assert torch.equal(mine.scale.float(), scale.float().reshape(mine.scale.shape))
    back = dequantize(mine.packed, mine.scale, None, mine.tensor_scale, "e2m1", 16, 1, torch.float32)
    assert float((back - theirs).norm() / theirs.norm()) < BAR
    assert torch.equal(fake_quantize(weight.reshape(-1, 16), form, None).reshape(48, 64), back)


@pytest.mark.parametrize("scheme", ["int4-g64-asym", "nvfp4", "fp8-b128", "int8-channel"])
def test_large_weights_are_packed_in_pieces_with_the_same_result(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = load_scheme(scheme).weight
    torch.manual_seed(0)
    weight = torch.randn(400, 256)
    groups = to_groups(weight, form)
    found = Found(weight, groups.abs().amax(-1, keepdim=True), float(weight.abs().max()), None, None)
    whole = pack(found, form)
    monkeypatch.setattr(rounding, "_ELEMENTS_AT_ONCE", 1 << 15)
    parts = pack(found, form)
    for one, other in zip(vars(whole).values(), vars(parts).values(), strict=True):
        assert (one is None and other is None) or torch.equal(one.float(), other.float())
    plain = round_to_nearest(weight, form)
    assert torch.equal(plain.packed.float(), whole.packed.float())


def test_factors_are_folded_where_a_model_allows_it(canonical: Canonical) -> None:
    """Llama: into both norms and the up projection; grouped value heads leave a multiplication before o."""
    module, ctx = canonical("llama"), _context()
    run_pipeline(module, parse_pipeline("quantize.awq{scheme=int4-g32 alpha-step=0.5}"), ctx, [Check()])
    rows = ctx.tables["factors of inputs"]
    assert Counter(r["moved into"] for r in rows) == {"norm": 6, "linear": 3, "multiply": 3}
    assert sum(n.endswith(".pre_scale") for n in module.weights) == 3
    assert not any(n.endswith("proj.weight") for n in module.weights)
    assert module.attrs["schemes"] == {
        s.name: "int4-g32" for s in _head_too(canonical("llama"), load_scheme("int4-g32"))
    }


def test_awq_has_less_error_than_rounding_where_channels_differ(canonical: Canonical) -> None:
    module, inputs = canonical("llama"), step()
    torch.manual_seed(0)
    for name in list(module.weights):
        if name.endswith("layernorm.weight"):  # a few channels are many times as large as the others
            module.weights.put(name, module.weights[name] * torch.where(torch.rand(64) < 0.1, 12.0, 1.0))
    plain = interpret(module, inputs)["logits"]
    errors = {}
    for name in ("linear", "awq"):
        made = module.clone()
        run_pipeline(made, parse_pipeline(f"quantize.{name}{{scheme=int4-g32}}"), _context(), [Check()])
        errors[name] = float((interpret(made, inputs)["logits"] - plain).norm() / plain.norm())
    assert errors["awq"] < 0.9 * errors["linear"]


def test_a_tied_head_is_rounded_and_keeps_its_embedding(canonical: Canonical) -> None:
    module, inputs = canonical("qwen2"), step()
    plain = interpret(module, inputs)["logits"]
    run_pipeline(module, parse_pipeline("quantize.smoothquant"), _context(), [Check()])
    assert [n for n in module.weights if "embed" in n] == [
        "model.embed_tokens.weight.packed",
        "model.embed_tokens.weight.scale",
    ]
    assert 0 < float((interpret(module, inputs)["logits"] - plain).norm() / plain.norm()) < 0.1


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("quantize.awq{alpha-step=0.0}", BadOption, "alpha-step"),
        ("quantize.awq{scheme=int8-channel-static}", BadOption, "static activations"),
        ("quantize.awq{scheme=fp8-b128}", BadOption, "single rows"),
        ("quantize.awq{scheme=int4-g128}", GroupSize, "groups of 128"),
        ("quantize.smoothquant{alpha=1.5}", BadOption, "from 0 to 1"),
        ("quantize.smoothquant{scheme=int4-g64-a8}", BadOption, "int8 weights"),
        ("quantize.smoothquant{scheme=int8-channel-static part=all only=[*]}", None, ""),
        ("quantize.smoothquant{scheme=int8-channel-static part=vocabulary}", BadOption, "tied head"),
        ("quantize.calibrated{inputs=maximum}", BadOption, "no range 'maximum'"),
        ("quantize.calibrated{percentile=12.0}", BadOption, "50 to 100"),
        ("quantize.calibrated{scheme=int8-channel inputs=mse}", BadOption, "no static activations"),
        ("quantize.calibrated{scheme=nvfp4 weights=mse}", BadOption, "vary the scales"),
    ],
)
def test_what_can_not_work_is_refused_before_weights_are_read(
    canonical: Canonical, text: str, error: type[Exception] | None, says: str
) -> None:
    module, (made,) = canonical("qwen2"), parse_pipeline(text).passes
    if error is None:
        assert made.select(module, Context().base)  # type: ignore[attr-defined]
        return
    with pytest.raises(error, match=says):
        made.select(module, Context().base)  # type: ignore[attr-defined]


def test_without_data_or_without_modelopt_it_says_so(
    canonical: Canonical, monkeypatch: pytest.MonkeyPatch
) -> None:
    awq = parse_pipeline("quantize.awq{scheme=int4-g32}")
    with pytest.raises(NoCalibration, match=r"quantize\.awq"):
        run_pipeline(canonical("llama"), awq, Context())
    for name in [n for n in sys.modules if n.partition(".")[0] == "modelopt"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "modelopt", None)
    with pytest.raises(MissingPackage, match=r"quantize\.awq needs nvidia-modelopt") as caught:
        run_pipeline(canonical("llama"), awq, _context())
    assert "pip install 'optcc-compiler[modelopt]'" in str(caught.value)


def test_nothing_is_printed(canonical: Canonical, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[str, int, int]] = []
    ctx = _context()
    ctx.progress = lambda *args: told.append(args)
    run_pipeline(canonical("llama"), parse_pipeline("quantize.awq{scheme=int4-g32 alpha-step=0.5}"), ctx)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert told == [("quantize.awq", 1, 2), ("quantize.awq", 2, 2)]


@pytest.mark.parametrize(
    ("backend", "step_text"),
    [
        ("onnxruntime", "quantize.awq: {scheme: int4-g32-a8, alpha-step: 0.5}"),
        ("reference", "quantize.calibrated: {scheme: fp8-tensor-static}"),
    ],
)
def test_compiled(backend: str, step_text: str, tmp_path: Path) -> None:
    """Preflight, ledger, fusions and the check of the artifact; q, k and v still become one linear."""
    zoo.save("llama", tmp_path / "model")
    (tmp_path / "mine.yaml").write_text(
        f"version: 1\nextends: cpu-fp32\ntarget: {{backend: {backend}}}\npasses:\n  quantize:\n    - {step_text}\n"
        "calibrate: {tokens: 64, window: 32}\n"
        "check: {tokens: 64, window: 32, limits: {kl: 20, top1: 0, nll: 20}}\n"
    )
    made = compile_model(
        str(tmp_path / "model"),
        load_recipe(tmp_path / "mine.yaml"),
        tmp_path / "out",
        CompileOptions(cache=None, speed=False),
    )
    assert made.ok
    assert made.report.ledger.quantized == 21
    row = next(r for r in made.report.passes if r.step.startswith("quantize."))
    if "awq" in step_text:
        assert len(row.tables["factors of inputs"]) == 12


@pytest.mark.parametrize("format", ["int8", "e4m3"])
def test_the_range_of_least_error_is_found(format: str) -> None:
    """Against trying ranges on the values themselves: few outliers are worth clipping in 8 bits, not in floats."""
    torch.manual_seed(1)
    values = torch.cat([torch.randn(20000), torch.tensor([40.0])]).abs()
    edges = torch.linspace(0, 40, 2049)
    found = least_error(torch.histc(values, 2048, 0, 40), edges, format)
    number = find_format(format)

    def error(amax: float) -> float:
        back = number.round(values / amax * number.highest) * amax / number.highest
        return float((back - values).square().sum())

    best = min(error(a) for a in torch.linspace(3, 40, 200).tolist())
    assert error(found) < 1.05 * best and error(found) <= error(40.0)
    assert format != "int8" or found < 39.0
