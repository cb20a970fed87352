"""The model as transformers directories, float32 and bfloat16, which other tools' converters read.

    python -m benchmarks.cpu.checkpoint MODEL FLOAT32 BFLOAT16

optcc's reader dequantizes the GGUF file; transformers can load one too, but refuses to save what it loaded.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from optcc.frontend import LoadOptions, resolve

_WEIGHTS = "model.safetensors"


def write_checkpoints(model: str, float32: Path, bfloat16: Path) -> None:
    """Write both directories anew."""
    found = resolve(model, LoadOptions(dtype="float32")).directory
    if found is None:
        raise SystemExit(f"{model} is no model file or directory")
    for folder in (float32, bfloat16):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(found, float32)
    shutil.copytree(found, bfloat16, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((found / "config.json").read_text())
    config["dtype"] = config["torch_dtype"] = "bfloat16"
    (bfloat16 / "config.json").write_text(json.dumps(config, indent=2))
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(found / _WEIGHTS).items()}
    save_file(weights, bfloat16 / _WEIGHTS, metadata={"format": "pt"})


if __name__ == "__main__":
    write_checkpoints(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
