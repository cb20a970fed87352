"""What the onnxruntime backend writes: stored once, the same bytes every time, readable by others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from optcc.artifact.weights import SafetensorsIndex
from optcc.backends.onnxruntime import native
from optcc.backends.onnxruntime.unpack import unpack
from optcc.backends.registry import load_backend
from optcc.ir.module import Module
from tests.conformance.cases import CASES
from tests.conformance.decoder import SHAPES, paged, spec_of
from tests.conformance.harness import Case, build, module_of
from tests.conformance.quantized_cases import QUANTIZED

NATIVE = pytest.mark.skipif(native.library() is None, reason=str(native.status()))
BY_NAME = {case.name: case for case in [*CASES, *QUANTIZED]}


def _size(module: Module) -> int:
    return sum(module.weights.nbytes(name) for name in module.weights)


@pytest.mark.parametrize(
    "name", ["tied", "quantized-tied-g32-a8", "quantized-tied-g32-a0", "quantized-linear-bias"]
)
def test_every_weight_is_stored_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTCC_NATIVE", "off")
    module = module_of(BY_NAME[name])
    build(module, "onnxruntime", tmp_path)
    index = SafetensorsIndex.open(tmp_path / "weights.safetensors")
    assert set(index.tensors) == set(module.weights)
    assert sum(t.nbytes for t in index.tensors.values()) == _size(module)
    assert (tmp_path / "model.onnx").stat().st_size < 4000, "weights belong into the weight file"


@NATIVE
@pytest.mark.parametrize("name", ["quantized-tied-g32-a8", "quantized-linear-zero", "quantized-linear-bias"])
def test_tables_of_native_operators_hold_all_their_parts(name: str, tmp_path: Path) -> None:
    module = module_of(BY_NAME[name])
    build(module, "onnxruntime", tmp_path)
    index = SafetensorsIndex.open(tmp_path / "weights.safetensors")
    assert set(module.weights) - set(index.tensors) == {"w.scale", "zero"} & set(module.weights)
    planned = {t.name: t for t in load_backend("onnxruntime").plan_weights(module)}
    assert set(planned) == set(index.tensors)
    padding = sum(t.padding for t in planned.values())
    assert sum(t.nbytes for t in index.tensors.values()) == _size(module) + padding


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build(paged(SHAPES["windows"]), "onnxruntime", tmp_path / name)
    for file in ("model.onnx", "weights.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_bytes_do_not_depend_on_where_they_are_written(tmp_path: Path) -> None:
    build(paged(SHAPES["plain"]), "onnxruntime", tmp_path)
    data = (tmp_path / "model.onnx").read_bytes()
    assert str(tmp_path).encode() not in data
    assert b"weights.safetensors" in data


@pytest.mark.parametrize(
    "case", [c for c in QUANTIZED if "linear" in c.name or "tied" in c.name], ids=lambda c: c.name
)
@pytest.mark.parametrize("switch", ["auto", "off"])
def test_unpacked_weights_are_the_modules(
    case: Case, switch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTCC_NATIVE", switch)
    module = module_of(case)
    build(module, "onnxruntime", tmp_path)
    monkeypatch.setenv("OPTCC_NATIVE", "off")  # another machine reads it too
    found = unpack(tmp_path)
    for name in module.weights:
        assert found.weights.spec(name) == module.weights.spec(name)
        assert torch.equal(found.weights[name], module.weights[name])


def test_only_block_kernels_get_shifted_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTCC_NATIVE", "off")
    kinds = {}
    for name in ("quantized-tied-g32-a8", "quantized-tied-g32-a0"):
        build(module_of(BY_NAME[name]), "onnxruntime", tmp_path / name)
        kinds[name] = SafetensorsIndex.open(tmp_path / name / "weights.safetensors").tensors["w.packed"].dtype
    assert kinds == {"quantized-tied-g32-a8": "U8", "quantized-tied-g32-a0": "I8"}


def test_serving_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    build(paged(SHAPES["plain"]), "onnxruntime", tmp_path)
    program = f"""
import sys
from pathlib import Path
import numpy as np
from optcc.backends.registry import load_backend
from optcc.runtime.executor import Batch
executor = load_backend("onnxruntime").open_decoder(Path({str(tmp_path)!r}), {json.dumps(spec_of(SHAPES["plain"]))}, 1)
executor.bind(2)
i32, i64 = np.int32, np.int64
batch = Batch(np.array([5, 6], i64), np.arange(2, dtype=i64), np.array([0, 2], i32), np.array([2], i32),
              np.array([[1]], i32), np.array([1], i64))
logits = executor.logits(executor.step(batch))
assert logits.shape == (1, 23) and np.isfinite(logits).all()
loaded = {{"torch", "transformers", "onnx", "onnx_ir"}} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr


def test_logits_survive_until_the_next_step(tmp_path: Path) -> None:
    from tests.conformance.decoder import Play, texts_of

    build(paged(SHAPES["plain"]), "onnxruntime", tmp_path)
    executor = load_backend("onnxruntime").open_decoder(tmp_path, spec_of(SHAPES["plain"]), 1)
    play = Play(executor, texts_of((6,)))
    first = play.step({0: 3})[0]
    executor.export_blocks([0])
    assert np.isfinite(first).all()
    assert executor.block_bytes == 2 * 2 * 4 * 2 * 8 * 4
    executor.close()
    executor.close()
