"""Compiles with a quantized KV cache: what the engine computes, what the ledger says, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from optcc.artifact import Artifact
from optcc.backends.registry import load_backend
from optcc.compile import compile_model
from optcc.compile.calibrate import window_batch
from optcc.compile.ledger import KvBytes, balance
from optcc.errors import BadOption, LedgerMismatch, PreconditionFailed, UnsupportedOp
from optcc.ir.interpret import interpret
from optcc.ir.parse import parse_module
from optcc.pm import Context, parse_pipeline, run_pipeline
from optcc.quant.kv import KvFormat
from optcc.recipe import load_recipe
from optcc.runtime import Engine, Limits, StopConditions
from optcc.runtime.score import score_windows
from tests import shared, zoo
from tests.unit.passes.pipelines import CANONICALIZE

QUIET = shared.quick()
SMALL = ["target.threads=1", "serve.paged-kv.block-size=4", "check.tokens=64", "check.window=32"]
TOKENS = 24


def recipe(folder: Path, kind: str, backend: str, weights: str = "") -> Path:
    """A recipe with a quantized cache."""
    steps = [f"quantize.linear: {{scheme: {weights}}}"] * bool(weights) + [f"quantize.kv: {{type: {kind}}}"]
    path = folder / "kv.yaml"
    path.write_text(
        f"version: 1\nextends: cpu-fp32\ntarget: {{backend: {backend}}}\n"
        f"passes: {{quantize: [{', '.join(steps)}]}}\ncheck: {{limits: {{kl: 1, top1: 0, nll: 1}}}}\n"
    )
    return path


@pytest.mark.parametrize(
    ("name", "kind", "backend"),
    [
        ("llama", "int8", "onnxruntime"),
        ("gemma2", "int8", "onnxruntime"),
        ("llama", "float16", "onnxruntime"),
        ("llama", "e4m3", "reference"),
    ],
)
def test_chunks_and_batches_give_the_same(name: str, kind: str, backend: str, tmp_path: Path) -> None:
    """Scored in chunks of any size, and generated beside others: the quantized graph's own logits, stateless."""
    zoo.save(name, tmp_path / "model")
    made = compile_model(
        str(tmp_path / "model"), load_recipe(recipe(tmp_path, kind, backend), SMALL), tmp_path / "out", QUIET
    )
    assert made.ok
    artifact = Artifact.open(tmp_path / "out")
    executor = load_backend(backend).open_decoder(artifact.root, artifact.spec, 1)
    plain = shared.captured(name).module
    module = plain.clone()
    run_pipeline(module, parse_pipeline(f"{CANONICALIZE},quantize.kv{{type={kind}}}"), Context(), [])
    ids = zoo.text(TOKENS, 3)
    wanted = interpret(module, window_batch(ids))["logits"].numpy()
    rows = [
        np.concatenate([r.copy() for r in score_windows(executor, [ids.tolist()], max_step_tokens=chunk)])
        for chunk in (1, 5, TOKENS)
    ]
    # Sums in another order move a value across the middle of two levels now and then: much less than all the rounding.
    exact = interpret(plain, window_batch(ids))["logits"].numpy()
    noise = float(np.square(wanted - exact).mean() ** 0.5)
    assert noise > 10 * zoo.BAR, "the test could not tell a plain cache"
    for found in rows:
        assert float(np.square(found - wanted).mean() ** 0.5) < 0.2 * noise
    prompts = [tuple(ids[:n].tolist()) for n in (9, 1, 14)]
    alone = [generate(executor, [p], Limits(max_step_tokens=64, max_requests=1))[0] for p in prompts]
    together = generate(executor, prompts, Limits(max_step_tokens=6, max_requests=3))
    assert sum(a == b for a, b in zip(together, alone, strict=True)) >= 2
    executor.close()


def generate(executor: object, prompts: list[tuple[int, ...]], limits: Limits) -> list[list[int]]:
    """Greedy answers of a pool that is just large enough."""
    engine = Engine(executor, blocks=24, limits=limits)  # type: ignore[arg-type]
    return [list(e.tokens) for e in engine.generate(prompts, stop=StopConditions(max_tokens=10))]


def test_ledger_tells_bytes_by_scheme_and_of_the_cache(tmp_path: Path) -> None:
    zoo.save("llama", tmp_path / "model")
    path = recipe(tmp_path, "int8", "onnxruntime", weights="int8-g64-a8")
    made = compile_model(str(tmp_path / "model"), load_recipe(path, SMALL), tmp_path / "out", QUIET)
    ledger = made.report.ledger
    (row,) = ledger.schemes
    assert (row.scheme, row.weights) == ("int8-g64-a8", ledger.quantized)
    assert row.values + row.scales == ledger.quantized_bytes and row.values == 16 * row.scales
    # 3 layers, keys and values, 2 heads of 16 channels
    assert ledger.kv == KvBytes("int8", "float32", 3 * 2 * 2 * (16 + 4), 3 * 2 * 2 * 16 * 4)
    data = ledger.to_json()
    assert data["schemes"] == [dataclasses.asdict(row)] and data["kv"] == dataclasses.asdict(ledger.kv)
    artifact = Artifact.open(tmp_path / "out")
    executor = load_backend("onnxruntime").open_decoder(artifact.root, artifact.spec, 1)
    assert executor.block_bytes == 4 * ledger.kv.token_bytes
    executor.close()


PLAIN = """\
optcc.ir 1
attrs {"form": "canonical", "kind": "decoder"}
graph model {
  %position_ids : i64[T] = input
  %query_starts : i32[R + 1] = input
  %x : f32[T, 4, 8] = input
  %k : f32[T, 2, 8] = aten.slice.Tensor(%x, 1, 0, 2)
  %att : f32[T, 4, 8] = optcc.attention.default(%x, %k, %k, %query_starts, 0.5)
  return y = %att
}
weights {
}
"""


@pytest.mark.parametrize(
    "pipeline", ["serve.paged-kv", "quantize.kv{type=e4m3},serve.paged-kv", "quantize.kv"]
)
def test_a_cache_of_another_type_than_promised_fails(pipeline: str) -> None:
    """Also when a promise came to nothing because nobody made pools of it."""
    module = parse_module(PLAIN)
    run_pipeline(module, parse_pipeline(pipeline), Context(), [])
    with pytest.raises(LedgerMismatch, match="should be cached as int8 with float32 scales"):
        balance(0, [], module, {}, Path("weights"), KvFormat("int8"))


@pytest.mark.parametrize(
    ("kind", "form", "cached"),
    [
        ("int8", KvFormat("int8"), KvBytes("int8", "float32", 48, 128)),
        ("float16", KvFormat("float16", ""), KvBytes("float16", "", 64, 128)),
    ],
)
def test_promises_kept(kind: str, form: KvFormat, cached: KvBytes) -> None:
    module = parse_module(PLAIN)
    run_pipeline(module, parse_pipeline(f"quantize.kv{{type={kind}}},serve.paged-kv"), Context(), [])
    assert balance(0, [], module, {}, Path("weights"), form).kv == cached


@pytest.mark.parametrize(
    ("pipeline", "error", "what"),
    [
        ("quantize.kv{type=int4}", BadOption, "'int4' is none of float16, int8, e4m3"),
        ("quantize.kv{scale=bfloat16}", BadOption, "'bfloat16' is none of float32, float16"),
        ("quantize.kv,quantize.kv", PreconditionFailed, "quantized already"),
        ("serve.paged-kv,quantize.kv", PreconditionFailed, "found no attention"),
    ],
)
def test_refused(pipeline: str, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=what):
        run_pipeline(parse_module(PLAIN), parse_pipeline(pipeline), Context(), [])


def test_keys_of_one_layer_alone_are_refused() -> None:
    """Nobody quantizes only some; a pass that undid a part must not go unnoticed."""
    module = parse_module(PLAIN)
    run_pipeline(module, parse_pipeline("quantize.kv"), Context(), [])
    (attention,) = module.find(torch.ops.optcc.attention.default)
    plain = next(n for n in module.nodes() if n.name == "k")
    attention.update_arg(2, plain)
    with pytest.raises(PreconditionFailed, match="only one of keys and values"):
        run_pipeline(module, parse_pipeline("serve.paged-kv"), Context(), [])


def test_a_backend_refuses_before_weights_are_read(tmp_path: Path) -> None:
    zoo.save("llama", tmp_path / "model")
    path = recipe(tmp_path, "e4m3", "onnxruntime")
    with pytest.raises(UnsupportedOp, match="no kernel for 8-bit floats"):
        compile_model(str(tmp_path / "model"), load_recipe(path, SMALL), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()
