"""A small artifact with every kind of file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optcc.artifact import ArtifactWriter, Manifest, ModelRef, TensorSource

Make = Callable[..., Manifest]


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "kind": "decoder",
        "optcc_version": "0.1.0",
        "target": {"backend": "onnxruntime", "device": "cpu", "threads": 2},
        "recipe": {"version": 1, "name": "cpu-int8"},
        "pipeline": "canonicalize.dce,fuse.qkv",
        "spec": {"layers": 2, "eos_token_ids": [0, 2], "scale": 0.125, "name": "é"},
        "model": ModelRef("tiny", "ab" * 32),
        "min_versions": {"numpy": "1.0"},
    }
    return Manifest(**{**fields, **changes})


def make_artifact(out: Path, status: str = "ok", seed: int = 0, **changes: Any) -> Manifest:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((4, 8)).astype(np.float32)
    with ArtifactWriter(out) as writer:
        writer.write_weights([TensorSource("w", "F32", (4, 8), lambda: weight)])
        writer.write("model.onnx", b"graph" * 10)
        writer.write("model.ir", "graph model {}\n")
        writer.add_tokenizer('{"model": 1}', {"eos": [2]}, "{{ x }}")
        writer.write_report("report.json", {"status": status, "kl": 0.001})
        writer.write_report("page.html", "<p>")
        return writer.commit(manifest(**changes))


@pytest.fixture
def make() -> Make:
    return make_artifact


@pytest.fixture
def make_manifest() -> Make:
    return manifest
