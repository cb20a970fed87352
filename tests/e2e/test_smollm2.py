"""The real SmolLM2 from its GGUF file on ONNX Runtime: float32 as exact as can be, int8 within its limits and sizes."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from optcc.accuracy.data import load_text_set
from optcc.artifact import Artifact
from optcc.backends.registry import load_backend
from optcc.frontend import load_original, resolve
from optcc.runtime.executor import Batch, Executor
from optcc.runtime.tokenizer import Tokenizer
from tests.e2e.conftest import LISTING, Compiled, Workshop, optcc

pytestmark = pytest.mark.e2e

WINDOW = 128
QUESTION = "Name the capital of France."
"""At every token of the original's answer the likeliest is ahead by a logit or more, so rounding doesn't decide it."""


@pytest.fixture(scope="module")
def fp32(workshop: Workshop) -> Compiled:
    """Not checked by the compile: that is what this file does."""
    return workshop.compile("smollm2", "cpu-fp32", "check.enabled=false")


@pytest.fixture(scope="module")
def int8(workshop: Workshop) -> Compiled:
    """Checked on two windows of each text, too few to decide the limit of top-1 by its interval."""
    return workshop.compile("smollm2", "cpu-int8", "check.tokens=3072", "check.limits.top1=0.9")


def logits(executor: Executor, window: list[int], cuts: list[int]) -> np.ndarray:
    """f32[S, V] of a window run in steps that end at `cuts`, from an empty pool with its pages in reverse."""
    blocks = executor.spec.blocks_for(len(window))
    executor.bind(blocks)
    rows = []
    for start, end in pairwise([0, *cuts, len(window)]):
        batch = Batch(
            token_ids=np.array(window[start:end], np.int64),
            positions=np.arange(start, end, dtype=np.int64),
            query_starts=np.array([0, end - start], np.int32),
            kv_lengths=np.array([end], np.int32),
            block_table=np.arange(blocks, dtype=np.int32)[None, ::-1][
                :, : executor.spec.blocks_for(end)
            ].copy(),
            wanted_rows=np.arange(end - start, dtype=np.int64),
        )
        rows.append(executor.logits(executor.step(batch)).copy())
    return np.concatenate(rows)


def test_float32_logits_are_the_originals_on_real_text(fp32: Compiled) -> None:
    artifact = Artifact.open(fp32.root)
    tokenizer = Tokenizer.load(fp32.root / "tokenizer")
    windows = [
        ids.tolist()
        for name, count in (("prose", 2), ("code", 1))
        for ids in load_text_set(
            name, lambda t: tokenizer.encode(t, add_special=False), tokens=count * WINDOW, window=WINDOW
        ).windows
    ]
    original = load_original(resolve(str(fp32.model)))
    executor = load_backend("onnxruntime").open_decoder(artifact.root, artifact.spec, 1)
    for window, cuts in zip(windows, ([], [50, 51], [16, 32, 33, 100]), strict=True):
        with torch.inference_mode():
            wanted = original(input_ids=torch.tensor([window]), use_cache=False).logits[0].numpy()
        assert wanted.std() > 1
        np.testing.assert_allclose(logits(executor, window, cuts), wanted, rtol=0, atol=1e-3)


def test_int8_is_near_the_original_on_every_text(int8: Compiled) -> None:
    measured = {text["name"]: text for text in int8.report["check"]["measurements"]["texts"]}
    assert set(measured) == {"prose", "code", "chat"}
    assert {name: text["tokens"] for name, text in measured.items()} == dict.fromkeys(measured, 1024)
    for name, text in measured.items():
        assert text["metrics"]["kl"]["value"] <= 0.012, name
    assert int8.report["status"] == "ok"
    assert all(row["found"] == row["expected"] for row in int8.report["fusions"]), int8.report["fusions"]


def test_int8_is_small_and_its_compile_too(int8: Compiled) -> None:
    assert int8.bytes_on_disk() <= 148e6
    assert int8.report["artifact_bytes"] <= 148e6
    assert 0.5e9 < int8.report["peak_bytes"] < 1.8e9


def test_int8_knows_paris_without_torch(int8: Compiled) -> None:
    result = optcc("run", int8.root, QUESTION, program=("-c", LISTING))
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    assert result.stderr.split()[-1] == "onnxruntime", "torch or transformers was imported"


def test_one_flipped_byte_is_found_by_verify_and_by_opening(int8: Compiled, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(int8.root, tmp_path / "damaged"))
    assert optcc("verify", damaged).returncode == 0
    weights = damaged / "weights.safetensors"
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    for command in (("verify", damaged), ("run", damaged, QUESTION)):
        result = optcc(*command)
        assert (result.returncode, "weights.safetensors" in result.stderr + result.stdout) == (2, True)
        assert "Paris" not in result.stdout
        assert "Traceback" not in result.stderr
