"""compare_function on arrays with known errors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
import pytest

from optcc.accuracy.functions import Array, CallFn, compare_function
from optcc.accuracy.gates import judge, parse_limits

RNG = np.random.default_rng(0)
INPUTS: list[dict[str, Array]] = [
    {
        "x": RNG.standard_normal((3, 7, 16)).astype(np.float32),
        "attention_mask": (np.arange(7)[None] < RNG.integers(2, 8, (3, 1))).astype(np.int64),
    }
    for _ in range(4)
]


def function(scale: float, *, garbage: float = 0.0) -> CallFn:
    def call(arguments: Mapping[str, Array]) -> dict[str, Array]:
        hidden = arguments["x"] * np.float32(scale)
        hidden = np.where(arguments["attention_mask"][..., None] == 0, np.float32(garbage), hidden)
        return {"hidden": hidden, "logits": arguments["x"][:, 0]}

    return call


def test_equal_functions() -> None:
    report = compare_function(function(1), function(1), INPUTS)
    hidden = report.outputs["hidden"]
    assert hidden["cosine"].value == 1.0
    assert hidden["max_abs"].value == 0.0
    assert hidden["sqnr"].value == math.inf
    assert "top1" not in hidden
    assert report.outputs["logits"]["top1"].value == 1.0
    limits = parse_limits({"cosine": 1, "cosine_min": 1, "max_abs": 0, "sqnr": 60, "top1": 1})
    assert judge(limits, report.measurements()).status == "ok"
    json.dumps(report.to_json(), allow_nan=False)


def test_a_known_error() -> None:
    report = compare_function(function(1), function(1.01), INPUTS)
    hidden = report.outputs["hidden"]
    assert hidden["sqnr"].value == pytest.approx(40.0, abs=0.01)  # 1 % error is -40 dB
    assert hidden["sqnr"].low <= hidden["sqnr"].value <= hidden["sqnr"].high
    assert hidden["cosine"].value == pytest.approx(1.0)
    largest = max(
        float(np.abs(np.where(i["attention_mask"][..., None] == 1, i["x"], 0)).max()) for i in INPUTS
    )
    assert hidden["max_abs"].value == pytest.approx(0.01 * largest, rel=1e-3)
    assert hidden["cosine"].units == 12


def test_padding_may_hold_anything() -> None:
    report = compare_function(function(1), function(1, garbage=1e6), INPUTS)
    assert report.outputs["hidden"]["max_abs"].value == 0.0


def test_opposite_and_zero_vectors() -> None:
    one = {"x": np.ones((5, 4), np.float32)}
    flipped = compare_function(lambda a: {"y": a["x"]}, lambda a: {"y": -a["x"]}, [one])
    assert flipped.outputs["y"]["cosine"].value == -1.0
    zero = compare_function(lambda a: {"y": a["x"]}, lambda a: {"y": 0 * a["x"]}, [one])
    assert zero.outputs["y"]["cosine"].value == 0.0
    both = compare_function(lambda a: {"y": 0 * a["x"]}, lambda a: {"y": 0 * a["x"]}, [one])
    assert both.outputs["y"]["cosine"].value == 1.0
    assert both.outputs["y"]["sqnr"].value == math.inf


def test_nan_fails_every_limit() -> None:
    one = {"x": np.ones((5, 4), np.float32)}
    report = compare_function(lambda a: {"y": a["x"]}, lambda a: {"y": a["x"] * np.nan}, [one])
    for metric, bound in {"cosine": -1.0, "cosine_min": -1.0, "max_abs": 1e9, "sqnr": -1e9}.items():
        assert judge(parse_limits({metric: bound}), report.measurements()).status == "failed"


def test_different_outputs_are_refused() -> None:
    one = {"x": np.ones((5, 4), np.float32)}
    with pytest.raises(ValueError, match="outputs differ"):
        compare_function(lambda a: {"y": a["x"]}, lambda a: {"z": a["x"]}, [one])
    with pytest.raises(ValueError, match="output y"):
        compare_function(lambda a: {"y": a["x"]}, lambda a: {"y": a["x"][:2]}, [one])
    with pytest.raises(ValueError, match="no inputs"):
        compare_function(lambda a: {}, lambda a: {}, [])
