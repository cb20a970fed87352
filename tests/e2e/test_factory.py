"""Any nn.Module by `package.module:factory`: an image classifier in float32, and the real MiniLM in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from optcc.artifact import Artifact
from optcc.backends.registry import load_backend
from optcc.compile import CompileOptions, CompileResult, compile_model
from optcc.recipe import load_recipe
from tests.e2e import factories
from tests.needs import demo_model, package

FLOAT = """
version: 1
description: any function in float32
extends: encoder-int8
passes: {quantize: []}
check: {limits: {cosine: 0.999999, cosine_min: 0.999999, sqnr: 90, max_abs: 1.0e-4}}
"""


def compiled(factory: str, recipe: str | Path, out: Path) -> CompileResult:
    """The factory's module on ONNX Runtime with one thread."""
    package("onnxruntime")
    options = CompileOptions(cache=None, speed=False)
    return compile_model(factory, load_recipe(recipe, ["target.threads=1"]), out, options)


@pytest.mark.parametrize("by", ["module", "file"])
def test_a_convolutional_network(by: str, tmp_path: Path) -> None:
    recipe = tmp_path / "float.yaml"
    recipe.write_text(FLOAT)
    place = "tests.e2e.factories" if by == "module" else str(Path(factories.__file__))
    result = compiled(f"{place}:classifier", recipe, tmp_path / "out")
    assert result.ok, result.report.check
    artifact = Artifact.open(tmp_path / "out")
    function = load_backend("onnxruntime").open_function(artifact.root, artifact.spec, 1)
    torch.manual_seed(0)  # as the front end calls a factory
    module, _, _ = factories.classifier()
    for size in (1, 2, 7):
        pixels = torch.randn(size, 3, 16, 16)
        with torch.inference_mode():
            wanted = module.eval()(pixels).numpy()
        assert wanted.std() > 0.1
        found = function.call({"pixels": pixels.numpy()})
        np.testing.assert_allclose(found["output"], wanted, atol=1e-4)


@pytest.mark.e2e
def test_the_real_encoder_as_a_users_module(tmp_path: Path) -> None:
    demo_model("minilm")
    result = compiled("tests.e2e.factories:sentences", "encoder-int8", tmp_path / "out")
    assert result.ok, result.report.check
    assert result.report.ledger.quantized == 37
    assert result.report.artifact_bytes < 26e6
