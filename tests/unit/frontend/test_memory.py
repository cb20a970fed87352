"""Weights are mapped, never copied: capturing and loading a model costs little anonymous memory whatever its
size."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

_PROBE = """
import sys, torch, transformers
from transformers import LlamaForCausalLM
from optcc.frontend import capture, load_original, resolve
def anonymous():
    line = next(line for line in open("/proc/self/smaps_rollup") if line.startswith("Anonymous:"))
    return int(line.split()[1]) * 1024
source = resolve(sys.argv[1])
before = anonymous()
original = load_original(source)
loaded = anonymous()
program = capture(source)
print(loaded - before, anonymous() - loaded, program.spec.layers)
"""


def _write_random_llama(directory: Path) -> int:
    """About 200 million parameters in bfloat16, as a file without blocks: its bytes are never looked at
    here."""
    width, inner, layers, vocab = 1024, 4096, 12, 8192
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": vocab,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (directory / "config.json").write_text(json.dumps(config))
    shapes = {
        "model.embed_tokens.weight": [vocab, width],
        "lm_head.weight": [vocab, width],
        "model.norm.weight": [width],
    }
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.{norm}.weight": [width] for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{at}.self_attn.{p}_proj.weight": [width, width] for p in "qkvo"}
        shapes |= {f"{at}.mlp.{p}_proj.weight": [inner, width] for p in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = [width, inner]
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # as every writer of the format does; unaligned data would be copied
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    return offset // 2


@pytest.mark.prove
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_anonymous_memory_stays_small(tmp_path: Path) -> None:
    parameters = _write_random_llama(tmp_path)
    assert parameters > 200e6
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    loading, capturing, layers = (int(word) for word in done.stdout.split())
    assert layers == 12
    # The weights are 0.44 GB as stored and 0.88 GB in the type the graph computes in.
    assert loading < 50e6
    assert capturing < 200e6
