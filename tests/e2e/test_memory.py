"""What a compile costs in memory that no file backs, sampled from outside while it runs.

Weights are mapped and processed one at a time, so the size that matters is the artifact's (the runtime that checks it
holds it once) plus the largest layer, not the model's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from optcc.artifact import TensorSource
from optcc.artifact.weights import write_safetensors
from tests.e2e.conftest import hold_prediction

INTERVAL = 0.05
"""Seconds between two samples."""


@dataclass(frozen=True)
class Size:
    """A Llama's dimensions."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight as transformers names it."""
        head = self.hidden // self.heads
        layer: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (self.kv_heads * head, self.hidden),
            "self_attn.v_proj": (self.kv_heads * head, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.ffn, self.hidden),
            "mlp.up_proj": (self.ffn, self.hidden),
            "mlp.down_proj": (self.hidden, self.ffn),
            "input_layernorm": (self.hidden,),
            "post_attention_layernorm": (self.hidden,),
        }
        found = {f"model.layers.{i}.{n}.weight": s for i in range(self.layers) for n, s in layer.items()}
        table = (self.vocab, self.hidden)
        return {
            "model.embed_tokens.weight": table,
            **found,
            "model.norm.weight": (self.hidden,),
            "lm_head.weight": table,
        }


SMALL = Size(hidden=512, layers=12, heads=8, kv_heads=4, ffn=1536, vocab=16000)
LARGE = Size(hidden=2048, layers=22, heads=32, kv_heads=4, ffn=5632, vocab=32000)


def bfloat16(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Normal values with deviation 0.02 for matrices, ones for norms, as the upper halves of float32."""
    if len(shape) == 1:
        return np.full(shape, 0x3F80, np.uint16)
    draw = np.random.default_rng(seed).standard_normal(shape, np.float32)
    draw *= 0.02
    return (draw.view(np.uint32) >> 16).astype(np.uint16)


def save(size: Size, directory: Path) -> int:
    """Write configuration and weights, one weight in memory at a time; the number of parameters."""
    directory.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": size.hidden,
        "intermediate_size": size.ffn,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "vocab_size": size.vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (directory / "config.json").write_text(json.dumps(config))
    shapes = size.shapes()
    sources = [
        TensorSource(name, "BF16", shape, lambda s=shape, i=i: bfloat16(s, i))  # type: ignore[misc]
        for i, (name, shape) in enumerate(shapes.items())
    ]
    write_safetensors(directory / "model.safetensors", sources, {"format": "pt"})
    return sum(int(np.prod(shape)) for shape in shapes.values())


def anonymous(pid: int) -> int:
    """Bytes of a process that no file backs; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def watched(command: Sequence[str], log: Path) -> tuple[int, list[tuple[float, int]]]:
    """Run a command; its exit code, and (seconds, anonymous bytes) every 50 ms."""
    begin = time.perf_counter()
    samples: list[tuple[float, int]] = []
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ})
        while child.poll() is None:
            samples.append((time.perf_counter() - begin, anonymous(child.pid)))
            time.sleep(INTERVAL)
    return child.returncode, samples


def peak_of_compile(size: Size, folder: Path) -> tuple[int, int]:
    """Parameters of a random model, and the highest anonymous memory of its compile, which must have been predicted."""
    parameters = save(size, folder / "model")
    command = [sys.executable, "-m", "optcc", "compile", str(folder / "model"), "cpu-int8"]
    command += ["-o", str(folder / "out"), "--cache", str(folder / "cache"), "--no-speed", "--json"]
    # A random model says nothing about accuracy; what the check holds in memory is what counts here.
    for setting in ("tokens=512", "limits.kl=1", "limits.top1=0", "limits.nll=1"):
        command += ["--set", f"check.{setting}"]
    code, samples = watched(command, folder / "log")
    assert code == 0, (folder / "log").read_text()[-3000:]
    hold_prediction(json.loads((folder / "out" / "report" / "report.json").read_text()))
    at, highest = max(samples, key=lambda sample: sample[1])
    print(
        f"{parameters / 1e6:.0f}M parameters: {highest / 1e6:.0f} MB anonymous at {at:.0f} s of {samples[-1][0]:.0f}"
    )
    return parameters, highest


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux says how much memory no file backs"
)


@pytest.mark.prove
@needs_proc
def test_memory_is_the_artifact_and_a_layer(tmp_path: Path) -> None:
    parameters, highest = peak_of_compile(SMALL, tmp_path)
    assert 50e6 < parameters < 70e6
    # torch, transformers, ONNX Runtime and a captured graph come to about 450 MB.
    assert highest <= 450e6 + 4 * parameters, (
        "more was held than the artifact, two windows of logits and a layer"
    )


@needs_proc
@pytest.mark.prove
def test_a_llama_of_1_1_billion_stays_under_two_gigabytes(tmp_path: Path) -> None:
    parameters, highest = peak_of_compile(LARGE, tmp_path)
    assert 1.05e9 < parameters < 1.15e9
    assert highest <= 2e9
