"""The real MiniLM sentence encoder, from its transformers directory: int8 on ONNX Runtime, pooling included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from optcc.frontend import LoadOptions, load_original, resolve
from optcc.runtime.tokenizer import Tokenizer
from tests.e2e.conftest import LISTING, Compiled, Workshop, optcc

pytestmark = pytest.mark.e2e

Array = npt.NDArray[np.generic]
TEXTS = (
    "The cat sleeps on the warm windowsill.",
    "A kitten naps by the window in the sun.",
    "The central bank raised interest rates by a quarter of a point.",
    "for i in range(10): print(i)",
)


@pytest.fixture(scope="module")
def minilm(workshop: Workshop) -> Compiled:
    """Checked on half of the recipe's tokens."""
    return workshop.compile("minilm", "encoder-int8", "check.tokens=4096")


@pytest.fixture(scope="module")
def batch(minilm: Compiled) -> dict[str, Array]:
    """Four sentences, padded."""
    tokenizer = Tokenizer.load(minilm.root / "tokenizer")
    rows = [tokenizer.encode(text, add_special=True) for text in TEXTS]
    mask = np.array([[int(i < len(r)) for i in range(max(map(len, rows)))] for r in rows], np.int64)
    ids = np.zeros_like(mask)
    ids[mask == 1] = np.concatenate(rows)
    return {"input_ids": ids, "attention_mask": mask}


def run(minilm: Compiled, inputs: dict[str, Array], folder: Path) -> npt.NDArray[np.float32]:
    """Embeddings by `optcc run`, in a process that may not import torch."""
    np.savez(folder / "in.npz", **inputs)  # type: ignore[arg-type]
    files = ("--inputs", folder / "in.npz", "-o", folder / "out.npz")
    result = optcc("run", minilm.root, *files, program=("-c", LISTING))
    assert result.returncode == 0, result.stderr
    assert result.stderr.split()[-1] == "onnxruntime"
    with np.load(folder / "out.npz") as found:
        assert found.files == ["embeddings"]
        embeddings: npt.NDArray[np.float32] = found["embeddings"]
    return embeddings


def test_it_passes_its_limits(minilm: Compiled) -> None:
    verdicts = minilm.report["check"]["gate"]["verdicts"]
    assert {v["metric"]: v["outcome"] for v in verdicts} == dict.fromkeys(
        ("cosine", "cosine_min", "sqnr"), "pass"
    )
    assert all(row["found"] == row["expected"] for row in minilm.report["fusions"]), minilm.report["fusions"]
    assert minilm.report["ledger"]["quantized"] == 37


def test_it_takes_less_than_a_third_of_the_bytes(minilm: Compiled) -> None:
    original = (minilm.model / "model.safetensors").stat().st_size
    assert minilm.bytes_on_disk() <= 0.30 * original


def test_sentences_are_where_the_original_puts_them(
    minilm: Compiled, batch: dict[str, Array], tmp_path: Path
) -> None:
    found = run(minilm, batch, tmp_path)
    options = LoadOptions(pooling="mean", normalize=True)
    original = load_original(resolve(str(minilm.model), options), None, options)
    with torch.inference_mode():
        wanted = original(**{name: torch.from_numpy(value) for name, value in batch.items()}).numpy()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    assert (found * wanted).sum(1).min() >= 0.995
    likeness = found @ found.T
    assert likeness[0, 1] > 0.5 > likeness[0, 2:].max()


def test_padding_changes_nothing(minilm: Compiled, batch: dict[str, Array], tmp_path: Path) -> None:
    together = run(minilm, batch, tmp_path)
    length = int(batch["attention_mask"][3].sum())
    assert length < batch["input_ids"].shape[1]
    alone = run(minilm, {name: value[3:, :length] for name, value in batch.items()}, tmp_path)
    np.testing.assert_allclose(alone[0], together[3], atol=2e-3)
