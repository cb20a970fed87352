"""Every built-in scheme on a small decoder: what is stored is what was promised, and fusions change no number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import fx

from optcc.compile import compile_model
from optcc.compile.ledger import balance, intents
from optcc.errors import BadOption, GroupSize
from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from optcc.passes.quantize.linear import QuantizeLinear
from optcc.pm import Context, parse_pipeline
from optcc.pm.instruments import Check
from optcc.pm.run import run_pipeline
from optcc.quant.weight_pass import PackingPass
from optcc.recipe import list_schemes, load_recipe, load_scheme
from tests import shared, zoo
from tests.unit.passes.conftest import Capture
from tests.unit.passes.pipelines import CANONICALIZE, FUSE

_OPS = torch.ops.optcc
_STATIC = [name for name in list_schemes() if (a := load_scheme(name).activation) and a.static]
_WIDE = [name for name in list_schemes() if load_scheme(name).weight.group == 128]
_REST = [name for name in list_schemes() if name not in (*_STATIC, *_WIDE)]
# Relative error of a weight.
_ERROR = {"int8": 0.012, "e4m3": 0.04, "int4": 0.2, "e2m1": 0.2, "int3": 0.4, "ternary": 0.75}


def _run(module: Module, text: str) -> None:
    run_pipeline(module, parse_pipeline(text), Context(), [Check()])


@pytest.fixture(scope="module")
def canonical(captured: Capture) -> Module:
    """A small decoder, canonicalized once; tests work on clones."""
    module = captured("llama").module.clone()
    _run(module, CANONICALIZE)
    return module


@pytest.mark.parametrize("name", _REST)
def test_scheme(captured: Capture, canonical: Module, name: str, tmp_path: Path) -> None:
    model, scheme = captured("llama"), load_scheme(name)
    module = canonical.clone()
    step = QuantizeLinear(scheme=name)
    promised = intents([step], module, tmp_path)
    _run(module, str(step))
    for node in module.find(_OPS.dequantize.default):
        if node.args[0].op == "get_attr":  # type: ignore[union-attr]
            operands = [module.weights[str(a.target)] if isinstance(a, fx.Node) else a for a in node.args]
            back = _OPS.dequantize.default(*operands)
            weight = canonical.weights[str(node.args[0].target).removesuffix(".packed")]  # type: ignore[union-attr]
            assert (back - weight).norm() / weight.norm() < _ERROR[scheme.weight.type]
    held = {n: module.weights.nbytes(n) for n in module.weights}
    balance(1, promised, module, held, tmp_path)  # raises when bytes and promises differ
    unfused = interpret(module, model.inputs)["logits"]
    _run(module, FUSE)
    linears = module.find(_OPS.quantized_linear.default)
    assert len(linears) >= 4 * model.facts["attentions"]
    assert not module.find(_OPS.dequantize.default, _OPS.quantize_activation.default)
    fused = interpret(module, model.inputs)["logits"]
    # Rounding of activations may flip where sums differ in the last bit.
    bar = 0.02 if scheme.activation else 1e-5
    assert float((fused - unfused).abs().max() / unfused.abs().max()) < bar
    assert model.error(module) > 0


@pytest.mark.parametrize("name", _WIDE)
def test_groups_that_do_not_divide(canonical: Module, name: str) -> None:
    with pytest.raises(GroupSize, match="groups of 128"):
        QuantizeLinear(scheme=name).select(canonical, Path())


@pytest.mark.parametrize("name", _STATIC)
def test_static_activations_need_calibration(canonical: Module, name: str) -> None:
    with pytest.raises(BadOption, match="static"):
        QuantizeLinear(scheme=name).select(canonical, Path())


def test_passes_share_the_work(canonical: Module) -> None:
    """The vocabulary in 8 bits, one layer's weights in 4, the rest in another scheme; nothing is promised twice."""
    module = canonical.clone()
    steps = [
        QuantizeLinear(scheme="int8-g64-a8", part="vocabulary"),
        QuantizeLinear(scheme="int4-g32-a8", only=("*layers.0.*",)),
        QuantizeLinear(scheme="int8-g32-a8", part="body", skip=("*layers.1.*",)),
    ]
    promised = intents(steps, module, Path())
    assert len({i.name for i in promised}) == len(promised)
    _run(module, ",".join(map(str, steps)))
    schemes = module.attrs["schemes"]
    assert isinstance(schemes, dict) and schemes == {i.name: i.scheme for i in promised}
    assert {s for n, s in schemes.items() if "layers.0." in n} == {"int4-g32-a8"}
    assert not [n for n in schemes if "layers.1." in n]
    balance(1, promised, module, {n: module.weights.nbytes(n) for n in module.weights}, Path())


@pytest.mark.parametrize(
    ("backend", "scheme"),
    [
        ("onnxruntime", "int4-g32-a8"),
        ("onnxruntime", "int4-g64-asym-a8"),
        ("onnxruntime", "int4-g64-asym"),
        ("onnxruntime", "int8-channel-a8"),
        ("onnxruntime", "ternary-g64"),
        ("reference", "nvfp4"),
        ("reference", "mxfp8-a8"),
        ("reference", "int3-g64-asym"),
    ],
)
def test_compiled(backend: str, scheme: str, tmp_path: Path) -> None:
    """The artifact computes what the last module computes: its KL is the module's."""
    zoo.save("llama", tmp_path / "model")
    loose = [f"check.limits.{limit}" for limit in ("kl=20", "top1=0", "nll=20")]
    recipe = load_recipe(
        "cpu-int8",
        [
            f"quantize.linear.scheme={scheme}",
            f"target.backend={backend}",
            "check.tokens=64",
            "check.window=32",
            *loose,
        ],
    )
    made = compile_model(str(tmp_path / "model"), recipe, tmp_path / "out", shared.quick())
    assert made.ok
    bits = load_scheme(scheme).weight
    assert made.report.ledger.quantized_bytes < 0.36 * made.report.ledger.original_bytes, bits


@pytest.mark.parametrize(
    ("step", "option"),
    [
        ("quantize.linear{search=-1}", "search"),
        ("quantize.gptq{scheme=int4-g32 refine=-1}", "refine"),
        ("quantize.gptq{scheme=int4-g32 memory=-1}", "memory"),
        ("quantize.static{search=-2}", "search"),
        ("quantize.static{min-channels=-1}", "min-channels"),
        ("quantize.search{kl=0.1 points=-1}", "points"),
        ("quantize.search{kl=0.1 mb=-1.0}", "mb"),
    ],
)
def test_numbers_below_zero_are_refused_in_preflight(canonical: Module, step: str, option: str) -> None:
    """When weights are selected, before any is read."""
    (made,) = parse_pipeline(step).passes
    assert isinstance(made, PackingPass)
    with pytest.raises(BadOption, match=f"^.*{option}: {made.id} needs 0 or more"):
        made.select(canonical, Path())
