"""Inputs of functions: a factory's data, arrays of the recipe, and that learning and checking never share any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optcc.compile.calibrate import require_disjoint
from optcc.compile.samples import Inputs, function_inputs
from optcc.errors import BadCheckData, BadFactory
from optcc.frontend import resolve
from optcc.recipe import CheckOptions, load_recipe

IO = {"inputs": {"x": {"type": "f32[B, 4]", "dtype": "float32"}}, "outputs": {}}
FACTORY = """
import torch
def make():
    x = torch.arange(8.0).reshape(2, 4)
    return torch.nn.Linear(4, 2), {{"input": x}}, {{"input": {{0: "B"}}}}, {data}
"""


def factory(folder: Path, data: str, name: str = "a") -> str:
    """A reference to a factory that returns this data."""
    (folder / f"{name}.py").write_text(FACTORY.format(data=data))
    return f"{folder / name}.py:make"


def inputs(reference: str, split: Any, data: Sequence[str] = (), base: Path | None = None) -> Inputs:
    """What a function is called with."""
    return function_inputs(resolve(reference), IO, None, CheckOptions(data=tuple(data)), base, split=split)


def rows(found: Inputs) -> set[bytes]:
    """Every row of every input."""
    return {row.tobytes() for batch in found.batches for value in batch.values() for row in value}


def test_a_factory_s_own_data(tmp_path: Path) -> None:
    made = factory(tmp_path, '{"calibration": [{"input": x + 1}], "check": [x + 2, x[:1] + 3]}')
    learned, checked = inputs(made, "calibration"), inputs(made, "check")
    assert [b["input"].shape for b in checked.batches] == [(2, 4), (1, 4)]
    assert learned.note is checked.note is None
    assert not rows(learned) & rows(checked)


def test_variations_where_there_is_no_data(tmp_path: Path) -> None:
    made = factory(tmp_path, "{}")
    learned, checked = inputs(made, "calibration"), inputs(made, "check")
    assert "no calibration data" in str(learned.note)
    assert "no check data" in str(checked.note)
    assert len(learned.batches) == len(checked.batches) == 8
    assert not rows(learned) & rows(checked)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ('{"calibration": [x], "check": [x]}', "in both"),
        ('{"check": [x[:, :3]]}', "batch 0 of check: input is"),
        ('{"check": [{"pixels": x}]}', "its inputs are pixels"),
        ('{"train": [x]}', "data must be a dict"),
        ("[x]", "data must be a dict"),
    ],
)
def test_data_that_is_refused(tmp_path: Path, data: str, what: str) -> None:
    with pytest.raises(BadFactory, match=what):
        resolve(factory(tmp_path, data))


def test_the_digest_covers_data_and_weights(tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    file = tmp_path / "b.py"
    file.write_text(f"""
import torch
def make():
    net = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(net.weight, float(open({str(weights)!r}).read()))
    return net, torch.ones(2, 1)
""")
    digests = set()
    for text in ("1.0", "2.0", "1.0"):
        weights.write_text(text)
        digests.add(resolve(f"{file}:make").digest)
    assert len(digests) == 2


def test_arrays_of_the_recipe(tmp_path: Path) -> None:
    made = factory(tmp_path, "{}")
    array = np.arange(40 * 4, dtype=np.float32).reshape(40, 4)
    np.savez(tmp_path / "a.npz", x=array, other=array)
    found = inputs(made, "check", ["a.npz"], tmp_path)
    assert [b["x"].shape for b in found.batches] == [(32, 4), (8, 4)]
    np.testing.assert_array_equal(np.concatenate([b["x"] for b in found.batches]), array)


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"y": np.zeros((2, 4), np.float32)}, "no array 'x'"),
        ({"x": np.zeros((2, 4))}, "float64"),
        ({"x": np.zeros((2, 5), np.float32)}, "the input is"),
        ({"x": np.array([object()])}, "can't be read"),
    ],
)
def test_arrays_that_are_refused(tmp_path: Path, arrays: dict[str, Any], what: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(BadCheckData, match=what):
        inputs(factory(tmp_path, "{}"), "check", ["a.npz"], tmp_path)


def test_the_same_arrays_for_both_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 4), np.float32))
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes())
    np.savez(tmp_path / "c.npz", x=np.ones((4, 4), np.float32))
    (tmp_path / "r.yaml").write_text("version: 1\ncalibrate: {data: [a.npz]}\ncheck: {data: [b.npz]}\n")
    with pytest.raises(BadCheckData, match="are the same"):
        require_disjoint(load_recipe(tmp_path / "r.yaml"))
    require_disjoint(load_recipe(tmp_path / "r.yaml", ["check.data=[c.npz]"]))
