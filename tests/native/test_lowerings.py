"""A tiny Llama compiled for our own operators and for ONNX Runtime's: the same model, stored otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from optcc.artifact import Artifact
from optcc.backends.onnxruntime import native
from optcc.backends.registry import load_backend
from optcc.compile import CompileOptions, compile_model
from optcc.recipe import load_recipe
from optcc.runtime.executor import Batch
from tests import zoo

pytestmark = pytest.mark.skipif(native.library() is None, reason=str(native.status()))
RECIPE = """\
version: 1
extends: cpu-fp32
passes:
  quantize:
    - quantize.linear: {scheme: int8-g64-a8, part: vocabulary}
    - quantize.linear: {scheme: SCHEME, part: body}
check: {enabled: false}
"""
BLOCKS = 3


@pytest.fixture(params=["int4-g64-half-a8", "int4-g32-asym-a8", "int4-g32"])
def pair(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """The two artifacts, our own operators' first."""
    zoo.save("llama", tmp_path / "llama")
    file = tmp_path / "mine.yaml"
    file.write_text(RECIPE.replace("SCHEME", request.param))
    for switch in ("auto", "off"):
        monkeypatch.setenv("OPTCC_NATIVE", switch)
        options = CompileOptions(cache=tmp_path / "cache", speed=False)
        compile_model(str(tmp_path / "llama"), load_recipe(str(file), []), tmp_path / switch, options)
    monkeypatch.delenv("OPTCC_NATIVE")
    return tmp_path / "auto", tmp_path / "off"


def _logits(root: Path, *chunks: int) -> npt.NDArray[np.float32]:
    """Of every token of one text that is fed in pieces, [tokens, vocabulary]."""
    artifact = Artifact.open(root, force=True)
    executor = load_backend("onnxruntime").open_decoder(artifact.root, artifact.manifest.spec, 1)
    executor.bind(BLOCKS)
    text = np.random.default_rng(3).integers(3, zoo.VOCAB, sum(chunks))
    pages, done, found = np.arange(BLOCKS, dtype=np.int32)[None], 0, []
    for size in chunks:
        end = done + size
        places = np.arange(done, end)
        starts, lengths = np.array([0, size], np.int32), np.array([end], np.int32)
        step = executor.step(Batch(text[done:end], places, starts, lengths, pages, np.arange(size)))
        found.append(executor.logits(step).copy())
        done = end
    return np.concatenate(found)


def test_both_lowerings_are_the_same_model(pair: tuple[Path, Path]) -> None:
    ours, theirs = pair
    backend = load_backend("onnxruntime")
    first, second = backend.unpack(ours).weights, backend.unpack(theirs).weights
    assert set(first) == set(second)
    for name in first:
        assert first.spec(name) == second.spec(name)
        assert torch.equal(first[name], second[name]), name
    used = {use.kernel.split()[0] for use in backend.kernels(ours)}
    assert used - {"Gather", "GatherBlockQuantized"} == {"optcc.QuantizedLinear"}, (
        "an untied table is looked up"
    )
    loops = [use.kernel.rpartition(", ")[2] for use in backend.kernels(ours) if "in one loop" in use.kernel]
    assert loops == [f"{place} of 4 in one loop" for place in (1, 2, 3, 4)] * (len(loops) // 4) and loops
    assert not any("in one loop" in use.kernel for use in backend.kernels(theirs))
    reasons = {use.reason for use in backend.kernels(theirs) if "MatMulNBits" in use.kernel}
    assert reasons == {"compiled without native operators"}
    said = [str(Artifact.open(root, force=True).report()["host"]["backend"]) for root in pair]
    assert "built with" in said[0] and "OPTCC_NATIVE=off" in said[1]

    wanted = _logits(theirs, 24)
    # A level of the activations may be rounded the other way: a disturbance of one part in a thousand.
    scale = float(np.abs(wanted).max())
    for chunks in ((24,), (7, 16, 1), (1,) * 24):
        assert np.abs(_logits(ours, *chunks) - wanted).max() < 0.01 * scale


def test_attention_quantizes_what_it_caches(tmp_path: Path) -> None:
    """Rows of queries, keys and values come as one linear leaves them; what checks compare caches them as floats."""
    zoo.save("llama", tmp_path / "llama")
    file = tmp_path / "mine.yaml"
    file.write_text(
        "version: 1\nextends: cpu-fp32\ncheck: {enabled: false}\n"
        "passes: {quantize: [quantize.linear: {scheme: int8-g64-a8}, quantize.kv: {type: int8}]}\n"
    )
    options = CompileOptions(cache=tmp_path / "cache", speed=False)
    made = compile_model(str(tmp_path / "llama"), load_recipe(str(file), []), tmp_path / "out", options)
    graph = onnx.load_model(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    attentions = [list(node.input) for node in graph.node if node.op_type == "PagedAttention"]
    assert attentions
    for inputs in attentions:
        absent = [i for i, name in enumerate(inputs) if not name]
        assert absent == [1, 2, 8, 9], inputs
        assert len(inputs) == 14
    # All layers' pools are one input of each kind.
    pools = {
        value.name: len(value.type.tensor_type.shape.dim) for value in graph.input if "_pool" in value.name
    }
    assert pools == dict.fromkeys(("k_pools", "v_pools", "k_scale_pools", "v_scale_pools"), 5)
    nodes = [node for node in graph.node if node.op_type == "PagedAttention"]
    assert [a.i for node in nodes for a in node.attribute if a.name == "layer"] == list(range(len(nodes)))
    assert not any(node.op_type in ("Round", "RotaryEmbedding") for node in graph.node)
    # The logits come from the head as they are, and a layer is attention and a chain.
    made_by = {name: node for node in graph.node for name in node.output}
    last = made_by["logits"]
    assert (last.op_type, made_by[last.input[0]].op_type) == ("Identity", "QuantizedLinears")
    assert sum(node.op_type == "QuantizedLinears" for node in graph.node) == len(attentions)
    spec = Artifact.open(made.artifact, force=True).manifest.spec
    assert spec["kv_dtype"] == "int8"
    wide = load_backend("onnxruntime").open_unrounded(made.artifact, spec, 1)
    assert wide is not None
    assert (wide.spec.kv_dtype, wide.spec.kv_scale) == ("float32", "")
    wide.bind(BLOCKS)
