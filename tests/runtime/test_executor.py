"""The contract's data: batches that disagree with themselves are refused, specs survive the manifest."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from optcc.errors import IncompatibleArtifact
from optcc.runtime import Batch, ModelSpec

GOOD: dict[str, Any] = {
    "token_ids": np.array([5, 6, 7], np.int64),
    "positions": np.array([0, 1, 8], np.int64),
    "query_starts": np.array([0, 2, 3], np.int32),
    "kv_lengths": np.array([2, 9], np.int32),
    "block_table": np.array([[0, 0], [3, 1]], np.int32),
    "wanted_rows": np.array([1, 2], np.int64),
}
SPEC = ModelSpec(2, 1, 4, 32, 16, 64, (0, 2), "float32")


def test_good_batches() -> None:
    Batch(**GOOD)
    Batch(**{**GOOD, "wanted_rows": np.array([], np.int64)})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token_ids", np.array([5, 6, 7], np.int32)),
        ("token_ids", np.array([[5, 6, 7]], np.int64)),
        ("token_ids", np.array([], np.int64)),
        ("positions", np.array([0, 1], np.int64)),
        ("query_starts", np.array([0, 2, 2], np.int32)),
        ("query_starts", np.array([0, 0, 3], np.int32)),
        ("query_starts", np.array([1, 2, 3], np.int32)),
        ("query_starts", np.array([0, 3], np.int32)),
        ("kv_lengths", np.array([1, 9], np.int32)),
        ("kv_lengths", np.array([2, 9], np.int64)),
        ("block_table", np.array([[0, 0]], np.int32)),
        ("block_table", np.array([0, 0], np.int32)),
        ("wanted_rows", np.array([1, 3], np.int64)),
        ("wanted_rows", np.array([2, 1], np.int64)),
        ("wanted_rows", np.array([1, 1], np.int64)),
        ("wanted_rows", np.array([-1], np.int64)),
    ],
)
def test_bad_batches(name: str, value: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"Batch"):
        Batch(**{**GOOD, name: value})


def test_spec_round_trip() -> None:
    assert ModelSpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC
    assert [SPEC.blocks_for(n) for n in (0, 1, 16, 17)] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    "change",
    [{"vocab": "32"}, {"layers": True}, {"eos_token_ids": [0.5]}, {"eos_token_ids": None}, {"new": 1}],
)
def test_bad_specs(change: dict[str, object]) -> None:
    with pytest.raises(IncompatibleArtifact):
        ModelSpec.from_json({**SPEC.to_json(), **change})


def test_spec_needs_positive_sizes() -> None:
    with pytest.raises(ValueError, match="block_size"):
        ModelSpec(2, 1, 4, 32, 0, 64, (), "float32")


def test_importing_the_runtime_imports_no_vendor() -> None:
    code = (
        "import sys, optcc.runtime;"
        "print(sorted({'torch','transformers','onnxruntime','tokenizers','jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
