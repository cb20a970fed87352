"""Twelve architectures, every feature active: ONNX Runtime float32 against eager transformers.

Each is compiled by the `cpu-fp32` preset, opened from its files, and driven through mixed batches of chunked prefill
and decode over shuffled pages, one-token and one-request steps included.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from optcc.artifact import Artifact
from optcc.backends.registry import load_backend
from optcc.compile import CompileResult, compile_model
from optcc.errors import UnsupportedArchitecture
from optcc.frontend import load_original, resolve
from optcc.recipe import load_recipe
from optcc.runtime.engine import Engine
from optcc.runtime.executor import Batch, Executor
from optcc.runtime.request import StopConditions
from tests import shared, zoo

BAR = 1e-4
BLOCK = 4
SETTINGS = [f"serve.paged-kv.block-size={BLOCK}", "target.threads=1", "check.tokens=64", "check.window=32"]
KINDS = ("attentions", "rms_norms", "layer_norms", "ropes", "gated_mlps")


@pytest.fixture(scope="module", params=zoo.NAMES)
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, CompileResult]:
    name = str(request.param)
    root = tmp_path_factory.mktemp(name)
    zoo.save(name, root / "model")
    recipe = load_recipe("cpu-fp32", SETTINGS)
    result = compile_model(str(root / "model"), recipe, root / "out", shared.quick())
    return name, root, result


def words(n: int, seed: int) -> list[int]:
    return [int(token) for token in zoo.text(n, seed).flatten()]


def eager(root: Path, tokens: list[int]) -> np.ndarray:
    model = load_original(resolve(str(root / "model")))
    with torch.inference_mode():
        logits: np.ndarray = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()
    return logits


def drive(executor: Executor, texts: list[list[int]], seed: int) -> list[np.ndarray]:
    """Run texts of known tokens in steps of random sizes and orders, on shuffled pages; logits of every position."""
    draw = np.random.default_rng(seed)
    blocks = sum(-(-len(t) // BLOCK) for t in texts) + 3
    executor.bind(blocks)
    free = list(draw.permutation(blocks))
    tables = [[int(free.pop()) for _ in range(-(-len(t) // BLOCK))] for t in texts]
    done = [0] * len(texts)
    rows: list[list[np.ndarray]] = [[] for _ in texts]
    first = True
    while any(d < len(t) for d, t in zip(done, texts, strict=True)):
        ready = [r for r, t in enumerate(texts) if done[r] < len(t)]
        chosen = ready[:1] if first else list(draw.permutation(ready)[: draw.integers(1, len(ready) + 1)])
        sizes = [
            1 if first or draw.random() < 0.5 else int(draw.integers(1, len(texts[r]) - done[r] + 1))
            for r in chosen
        ]
        first = False
        parts = [range(done[r], done[r] + n) for r, n in zip(chosen, sizes, strict=True)]
        width = max(len(tables[r]) for r in chosen)
        batch = Batch(
            token_ids=np.array(
                [texts[r][i] for r, part in zip(chosen, parts, strict=True) for i in part], np.int64
            ),
            positions=np.array([i for part in parts for i in part], np.int64),
            query_starts=np.cumsum([0, *sizes]).astype(np.int32),
            kv_lengths=np.array([part.stop for part in parts], np.int32),
            block_table=np.array([tables[r] + [0] * (width - len(tables[r])) for r in chosen], np.int32),
            wanted_rows=np.arange(sum(sizes), dtype=np.int64),
        )
        logits = executor.logits(executor.step(batch)).copy()
        for index, (r, n) in enumerate(zip(chosen, sizes, strict=True)):
            rows[r].append(logits[batch.query_starts[index] : batch.query_starts[index] + n])
            done[r] += n
    return [np.concatenate(found) for found in rows]


def test_logits_equal_eager_through_chunks_pages_and_batches(
    compiled: tuple[str, Path, CompileResult],
) -> None:
    _, root, _ = compiled
    artifact = Artifact.open(root / "out")
    executor = load_backend("onnxruntime").open_decoder(artifact.root, artifact.spec, 1)
    texts = [words(n, n) for n in (24, 17, 1, 9)]
    expected = [eager(root, t) for t in texts]
    assert min(e.std() for e in expected if len(e) > 8) >= 1.0
    for seed in range(3):
        for found, wanted in zip(drive(executor, texts, seed), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=BAR)


def test_greedy_text_is_identical(compiled: tuple[str, Path, CompileResult]) -> None:
    _, root, _ = compiled
    artifact = Artifact.open(root / "out")
    executor = load_backend("onnxruntime").open_decoder(artifact.root, artifact.spec, 1)
    prompts = [words(n, 100 + n) for n in (12, 3, 7)]
    engine = Engine(executor, blocks=64, debug=True)
    stop = StopConditions(max_tokens=12, eos_token_ids=())
    answers = [list(e.tokens) for e in engine.generate([tuple(p) for p in prompts], stop=stop)]
    for prompt, answer in zip(prompts, answers, strict=True):
        logits = eager(root, prompt + answer)
        assert answer == logits[len(prompt) - 1 : -1].argmax(-1).tolist()


def test_counts_are_what_the_configuration_implies(compiled: tuple[str, Path, CompileResult]) -> None:
    _, _, result = compiled
    rows = {f.kind: f for f in result.report.fusions}
    assert set(rows) == set(KINDS)
    assert {k: f.found for k, f in rows.items()} == {k: f.expected for k, f in rows.items()}


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_feature_is_active(name: str) -> None:
    tokens = torch.tensor([words(24, 24)])
    model, _ = zoo.build(name)
    with torch.inference_mode():
        before = model(input_ids=tokens, use_cache=False).logits
        for switch in zoo.ZOO[name].switches:
            changed = zoo.switched(name, switch)
            after = (changed[0] if isinstance(changed, tuple) else changed)(
                input_ids=tokens, use_cache=False
            ).logits
            assert (after - before).abs().max() >= 100 * BAR, f"{name}: {switch} makes no difference"


def test_mixtral_is_refused_by_name_before_any_work(tmp_path: Path) -> None:
    config = zoo.config_of("mixtral")
    config.save_pretrained(tmp_path / "model")
    with pytest.raises(UnsupportedArchitecture, match=r"(?i)expert"):
        compile_model(str(tmp_path / "model"), load_recipe("cpu-fp32"), tmp_path / "out", shared.quick())
    assert not (tmp_path / "out").exists()
