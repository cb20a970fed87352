"""`optcc export hf`: an artifact becomes a checkpoint, and the checkpoint the same artifact again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from optcc.artifact import Artifact
from optcc.backends.registry import load_backend
from optcc.export.stored import stored_weights
from tests.unit.cli.conftest import Cli

RECIPE = """\
version: 1
description: 4 bits, fused, on ONNX Runtime
extends: cpu-fp32
target: {threads: 1}
passes:
  quantize: [{quantize.linear: {scheme: int4-g32}}]
check: {enabled: false}
"""
AGAIN = """\
version: 1
description: what the checkpoint says, on the reference backend
extends: cpu-fp32
target: {backend: reference, threads: 1}
check: {data: [prose, code], tokens: 256, window: 64}
"""


@pytest.fixture(scope="module")
def quantized(place: Path, model: Path) -> Path:
    """A 4-bit artifact of ONNX Runtime."""
    from optcc.cli.main import main

    recipe = place / "int4.yaml"
    recipe.write_text(RECIPE)
    out = place / "int4"
    assert main(["compile", str(model), str(recipe), "-o", str(out), "--no-cache", "--no-speed"]) == 0
    return out


def test_there_and_back(
    cli: Cli, quantized: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled again on another backend, the checkpoint gives the same packed bytes, and passes cpu-fp32's limits."""
    monkeypatch.setenv("OPTCC_CACHE", str(tmp_path / "cache"))
    found = cli("export", "hf", quantized, "-o", tmp_path / "hf", "--json")
    assert found.code == 0
    assert found.data["schemes"] == {"pack-quantized": 21}
    assert found.data["compared"] == 21
    files = {path.name for path in (tmp_path / "hf").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= files

    (tmp_path / "again.yaml").write_text(AGAIN)
    again = cli(
        "compile", tmp_path / "hf", tmp_path / "again.yaml", "-o", tmp_path / "out", "--json", "--no-speed"
    )
    assert again.code == 0, again.out
    assert [(s["scheme"], s["weights"]) for s in again.data["ledger"]["schemes"]] == [
        ("checkpoint-int4-g32", 21)
    ]
    modules = []
    for root in (quantized, tmp_path / "out"):
        backend = str(Artifact.open(root).manifest.target["backend"])
        modules.append(load_backend(backend).unpack(root))
    before, after = ({w.name: w for w in stored_weights(module)} for module in modules)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        for part in ("packed", "scale"):
            a, b = weight.part(modules[0], part), after[name].part(modules[1], part)
            assert a is not None
            assert b is not None
            assert torch.equal(a, b), (name, part)


def test_words_for_people(cli: Cli, quantized: Path, tmp_path: Path) -> None:
    found = cli("export", "hf", quantized, "-o", tmp_path / "hf", "--format", "modelopt")
    assert found.code == 0
    assert "W4A16_AWQ" in found.out
    assert "equal to the bit" in found.out


def test_refusals(cli: Cli, quantized: Path, function: Path, tmp_path: Path) -> None:
    assert cli("export", "hf", tmp_path, "-o", tmp_path / "x", "--json").error["code"] == "E601"
    assert cli("export", "hf", function, "-o", tmp_path / "x", "--json").error["code"] == "E608"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    assert cli("export", "hf", quantized, "-o", tmp_path / "full", "--json").error["code"] == "E606"
    damaged = Path(shutil.copytree(quantized, tmp_path / "damaged"))
    with (damaged / "weights.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    assert cli("export", "hf", damaged, "-o", tmp_path / "y", "--json").error["code"] == "E602"
    assert not (tmp_path / "y").exists()
