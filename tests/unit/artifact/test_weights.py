"""safetensors: what we write the reference package reads, and damaged headers are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from optcc.artifact import SafetensorsIndex, TensorSource, write_safetensors
from optcc.artifact.weights import DTYPES, TensorData
from optcc.errors import CannotWrite, CorruptWeights

NUMPY = {"F32": "f4", "F16": "f2", "F64": "f8", "I8": "i1", "U8": "u1", "I32": "i4", "I64": "i8", "BOOL": "?"}


def source(name: str, dtype: str, array: np.ndarray[Any, Any]) -> TensorSource:
    return TensorSource(name, dtype, array.shape, lambda: array)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(st.sampled_from(sorted(NUMPY)), st.lists(st.integers(0, 9), max_size=3)), max_size=8
    )
)
def test_the_reference_package_reads_it(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[str, list[int]]]
) -> None:
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    rng = np.random.default_rng(len(shapes))
    arrays = {f"t{i}.é": rng.integers(0, 2, shape).astype(NUMPY[d]) for i, (d, shape) in enumerate(shapes)}
    spans = write_safetensors(
        path, [source(n, d, a) for (n, a), (d, _) in zip(arrays.items(), shapes)], {"k": "v"}
    )
    loaded = load_file(path)
    assert set(loaded) == set(arrays) == set(spans)
    index = SafetensorsIndex.open(path)
    raw = path.read_bytes()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
        np.testing.assert_array_equal(index.view(name), array)
        offset, nbytes = spans[name]
        assert (index.tensors[name].offset, index.tensors[name].nbytes) == (offset, nbytes)
        assert raw[offset : offset + nbytes] == array.tobytes()
        assert offset % np.gcd(nbytes, 64) == 0
    assert index.metadata == {"k": "v"}


def test_whole_lines_are_aligned_and_nothing_is_between(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    sizes = [3, 64, 10, 128, 4, 32, 64]
    tensors = [source(f"t{i}", "U8", np.zeros(n, np.uint8)) for i, n in enumerate(sizes)]
    spans = write_safetensors(path, tensors)
    assert all(spans[f"t{i}"].offset % 64 == 0 for i, n in enumerate(sizes) if n % 64 == 0)
    assert [name for name, _ in sorted(spans.items(), key=lambda s: s[1].offset)] == [
        "t1", "t3", "t6", "t5", "t4", "t2", "t0",
    ]  # fmt: skip
    assert path.stat().st_size == min(s.offset for s in spans.values()) + sum(sizes)


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    alive: list[str] = []

    class Loud(np.ndarray):  # type: ignore[type-arg]
        def __del__(self) -> None:
            alive.append("dropped")

    def read() -> TensorData:
        made = len(alive)
        alive.append("made")
        assert made % 2 == 0, "the tensor before is still held"
        return np.zeros(64, np.uint8).view(Loud)

    write_safetensors(tmp_path / "w", [TensorSource(str(i), "U8", (64,), read) for i in range(3)])
    assert alive.count("made") == 3


def test_kinds_of_data(tmp_path: Path) -> None:
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    bf16 = array.astype(ml_dtypes.bfloat16)
    kinds = [
        source("strided", "F32", array.T),
        TensorSource("bytes", "F32", (2, 3), array.tobytes),
        TensorSource("view", "F32", (2, 3), lambda: memoryview(array)),
        TensorSource("none", "F32", (0, 3), lambda: b""),
        TensorSource("scalar", "F32", (), lambda: np.float32(2).reshape(())),
        source("bf16", "BF16", bf16),
    ]
    write_safetensors(tmp_path / "w", kinds)
    loaded = load_file(tmp_path / "w")
    np.testing.assert_array_equal(loaded["strided"], array.T)
    np.testing.assert_array_equal(loaded["bytes"], array)
    np.testing.assert_array_equal(loaded["view"], array)
    assert loaded["none"].shape == (0, 3)
    assert loaded["scalar"] == 2
    index = SafetensorsIndex.open(tmp_path / "w")
    np.testing.assert_array_equal(index.view("bf16").view(ml_dtypes.bfloat16), bf16)
    assert not index.view("strided").flags.writeable


def test_callers_mistakes(tmp_path: Path) -> None:
    one = TensorSource("a", "U8", (2,), lambda: b"xy")
    with pytest.raises(ValueError, match="twice"):
        write_safetensors(tmp_path / "w", [one, one])
    with pytest.raises(ValueError, match="3 bytes"):
        write_safetensors(tmp_path / "w", [one, TensorSource("b", "U8", (2,), lambda: b"xyz")])
    assert not (tmp_path / "w").exists()
    with pytest.raises(CannotWrite):
        write_safetensors(Path("/dev/null/w"), [one])


def test_files_of_the_reference_package_are_read(tmp_path: Path) -> None:
    arrays = {"b": np.arange(5, dtype="i2"), "a": np.ones((2, 3), "f4"), "e": np.zeros((0,), "f4")}
    save_file(arrays, tmp_path / "w", {"format": "pt"})
    index = SafetensorsIndex.open(tmp_path / "w")
    assert set(index.tensors) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(index.view(name), array)
    assert index.tensors["b"].dtype == "I16"


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape: object = None, dtype: object = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


DAMAGED = [
    (b"", "the header says"),
    (b"\x01\x00", "the header says"),
    ((2**63).to_bytes(8, "little") + b"{}", "the header says"),
    ((3).to_bytes(8, "little") + b"{}", "the header says 3 bytes, the file has 10"),
    (raw(b"{]"), "not valid JSON"),
    (raw(b"\xff\xfe"), "not valid JSON"),
    (raw(b'{"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}, "a": 1}'), "used twice"),
    (raw([]), "not a JSON object"),
    (raw({"a": 1}), "a: expected dtype"),
    (raw({"a": {"dtype": "U8", "shape": [0]}}), "a: expected dtype"),
    (raw({"a": entry(0, 2, dtype="F5")}, b"xy"), "a: type 'F5'"),
    (raw({"a": entry(0, 2, dtype=["U8"])}, b"xy"), "a: type"),
    (raw({"a": entry(0, 2, shape=[-2])}, b"xy"), "a: bad shape"),
    (raw({"a": entry(0, 2, shape=[True])}, b"xy"), "a: bad shape"),
    (raw({"a": entry(0, 2, shape=[3])}, b"xy"), "a: 2 bytes for U8[3]"),
    (raw({"a": entry(2, 0, shape=[2])}, b"xy"), "a: -2 bytes"),
    (raw({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2.0]}}, b"xy"), "a: bad data_offsets"),
    (raw({"a": entry(0, 2), "b": entry(3, 4)}, b"wxyz"), "b: starts at"),
    (raw({"a": entry(0, 2), "b": entry(1, 3)}, b"xyz"), "b: starts at"),
    (raw({"a": entry(0, 4)}, b"xyz"), "cut short: 1 of"),
    (raw({"a": entry(0, 2)}, b"xyz"), "1 bytes after the last tensor"),
    (raw({"__metadata__": {"a": 1}}), "metadata"),
]


@pytest.mark.parametrize(("data", "what"), DAMAGED)
def test_damaged_files_are_refused_by_name(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(CorruptWeights) as caught:
        SafetensorsIndex.open(path)
    assert what in caught.value.what
    assert caught.value.where == str(path)
    with pytest.raises((SafetensorError, TypeError, OSError, ValueError)):
        load_file(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CorruptWeights, match="No such file"):
        SafetensorsIndex.open(tmp_path / "none")


def test_type_widths() -> None:
    assert {name: np.dtype(kind).itemsize for name, kind in DTYPES.items() if name[-2:].isdigit()} == {
        name: int(name[-2:]) // 8 for name in DTYPES if name[-2:].isdigit()
    }
