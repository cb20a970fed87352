"""The image example: trained, compiled to int8, and held to its decisions; from its factory and from a `.pt2` file."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optcc.artifact import Artifact
from optcc.backends.registry import load_backend
from optcc.compile import CompileOptions, CompileResult, compile_model
from optcc.recipe import load_recipe
from tests.needs import package

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def example(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The example's module in a copy of its folder, with a network that was trained there for fewer steps."""
    package("onnxruntime")
    folder = shutil.copytree(root / "examples" / "vision", tmp_path_factory.mktemp("vision") / "vision")
    spec = importlib.util.spec_from_file_location("vision_net", folder / "net.py")
    assert spec is not None
    assert spec.loader is not None
    net = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(net)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    net.save(net.train(steps=120))
    yield net
    torch.set_num_threads(threads)


def compiled(model: str, recipe: str, out: Path, *changes: str) -> CompileResult:
    """On ONNX Runtime with one thread."""
    options = CompileOptions(cache=None, speed=False)
    return compile_model(model, load_recipe(recipe, ["target.threads=1", *changes]), out, options)


def test_int8_keeps_the_decisions(example: Any, tmp_path: Path) -> None:
    result = compiled(f"{example.__file__}:classifier", "vision-int8", tmp_path / "out")
    assert result.ok, result.report.check
    assert result.report.check is not None
    measured = result.report.check["measurements"]["outputs"]["output"]
    assert measured["top1"]["value"] >= 0.99
    assert result.report.check["notes"] == []
    ledger = result.report.ledger
    assert (ledger.quantized, ledger.quantized_bytes) == (11, 102_376)
    assert ledger.stored_bytes < 0.3 * ledger.original_bytes
    notes = {record.step.partition("{")[0]: record.notes for record in result.report.passes}
    assert "7 clamps folded" in " ".join(notes["quantize.static"])
    images, labels = example.draw(512, seed=9)
    function = load_backend("onnxruntime").open_function(tmp_path / "out", {}, 1)
    scores = function.call({"pixels": images.numpy()})["output"]
    assert (scores.argmax(-1) == labels.numpy()).mean() > 0.8, "the network has learned nothing"


def test_integer_kernels_run_it(example: Any, tmp_path: Path) -> None:
    import onnx
    import onnxruntime as ort

    from optcc.backends.onnxruntime.session import DISABLED, options

    compiled(f"{example.__file__}:classifier", "vision-int8", tmp_path / "out", "check.enabled=false")
    made = options(1)
    made.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(
        str(tmp_path / "out" / "model.onnx"),
        made,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=DISABLED,
    )
    kinds = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node]
    counts = {
        kind: kinds.count(kind) for kind in ("QLinearConv", "Conv", "QLinearAdd", "MatMulIntegerToFloat")
    }
    assert counts == {"QLinearConv": 10, "Conv": 1, "QLinearAdd": 3, "MatMulIntegerToFloat": 1}
    assert not {"Relu", "BatchNormalization", "Gemm"} & set(kinds)


def test_both_backends_agree(example: Any, tmp_path: Path) -> None:
    """Integer kernels against the interpreter, up to levels that a tie moved."""
    images = example.draw(64, seed=10)[0].numpy()
    scores = {}
    for backend in ("onnxruntime", "reference"):
        out = tmp_path / backend
        changes = (f"target.backend={backend}", "check.enabled=false")
        compiled(f"{example.__file__}:classifier", "vision-int8", out, *changes)
        function = load_backend(backend).open_function(out, Artifact.open(out).spec, 1)
        scores[backend] = function.call({"pixels": images})["output"]
    error = np.abs(scores["onnxruntime"] - scores["reference"])
    assert np.square(error).sum() < 1e-3 * np.square(scores["reference"]).sum()
    assert (scores["onnxruntime"].argmax(-1) == scores["reference"].argmax(-1)).mean() >= 0.98


def test_from_an_exported_program(example: Any, tmp_path: Path) -> None:
    """The same network from a `.pt2` file, with images from `.npz` files."""
    net, example_inputs, _, data = example.classifier()
    sizes = {"pixels": {0: torch.export.Dim("batch")}}
    program = torch.export.export(net.eval(), (), example_inputs, dynamic_shapes=sizes, strict=False)
    torch.export.save(program, tmp_path / "net.pt2")
    for split, batches in data.items():
        np.savez(tmp_path / f"{split}.npz", pixels=torch.cat(batches).numpy())
    changes = [
        f"{part}.data=[{tmp_path / part}.npz]".replace("calibrate.npz", "calibration.npz")
        for part in ("calibrate", "check")
    ]
    result = compiled(str(tmp_path / "net.pt2"), "vision-int8", tmp_path / "out", *changes)
    assert result.ok, result.report.check
    assert result.report.check is not None
    assert result.report.check["notes"] == []


TRANSFORMER = """
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 32, "patch_size": 8}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = ViTForImageClassification(ViTConfig(**SIZES, num_hidden_layers=2, num_labels=10))

    def forward(self, pixels):
        return self.model(pixels).logits


def make():
    return Net(), {"pixels": torch.randn(4, 3, 32, 32)}, {"pixels": {0: "B"}}
"""


@pytest.mark.parametrize("recipe", ["vision-fp32", "vision-int8"])
def test_a_transformer_computes_its_last_layer_for_one_token(recipe: str, tmp_path: Path) -> None:
    (tmp_path / "vit.py").write_text(TRANSFORMER)
    result = compiled(f"{tmp_path / 'vit.py'}:make", recipe, tmp_path / "out")
    assert result.ok, result.report.check
    text = (tmp_path / "out" / "model.ir").read_text()
    last = text[text.rindex("aten.scaled_dot_product_attention") : text.index("  return ")]
    linears = re.findall(r"f32\[(.*)\] = aten.linear.default", last)
    assert linears == ["B, 1, 64", "B, 1, 128", "B, 1, 64", "B, 10"]
