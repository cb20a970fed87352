"""safetensors without loading: a writer that streams one tensor at a time, and an index that maps them.

Alignment. The format has no holes: each tensor starts where the one before it ends, so nothing can be padded.
The header is padded with spaces until the data starts at a multiple of 64 bytes, and tensors are ordered by
the largest power of two, up to 64, that divides their size, largest first and otherwise as given. Then every
tensor starts at a multiple of that power of two: weights of whole cache lines are 64-byte aligned, and every
tensor is aligned to its own element type.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from optcc.errors import CorruptWeights
from optcc.files import writing

ALIGNMENT = 64
MAX_HEADER = 100_000_000
"""The limit of the reference reader."""

DTYPES: Mapping[str, str] = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "F8_E5M2": "u1",
    "F8_E4M3": "u1",
    "F8_E8M0": "u1",
    "I16": "<i2",
    "U16": "<u2",
    "F16": "<f2",
    "BF16": "<u2",
    "I32": "<i4",
    "U32": "<u4",
    "F32": "<f4",
    "I64": "<i8",
    "U64": "<u8",
    "F64": "<f8",
}
"""safetensors' type name -> numpy type; types that numpy lacks are seen as unsigned integers of their
width."""

TensorData = bytes | bytearray | memoryview | npt.NDArray[Any]


class TensorSource(NamedTuple):
    """One tensor to write; `read` is called once, when its turn comes, and its result is dropped after."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], TensorData]


class Span(NamedTuple):
    """Where a tensor lies: bytes from the start of the file."""

    offset: int
    nbytes: int


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Size of a tensor in bytes."""
    return math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize


def write_safetensors(
    path: Path, tensors: Sequence[TensorSource], metadata: Mapping[str, str] | None = None
) -> dict[str, Span]:
    """Write a safetensors file, holding one tensor at a time, and return where each one lies.

    The same tensors in the same order give the same bytes.

    Raises:
        ValueError: a name is given twice, a type is unknown, or a source gives another number of bytes than
            its shape.
        CannotWrite: the disk is full or read-only.
    """
    ordered, header, spans = layout(tensors, metadata)
    with writing(path):
        file = io.FileIO(path, "wb")
    try:
        with file:
            _write_all(file, path, memoryview(header))
            for tensor in ordered:
                data = _as_bytes(tensor.read())
                if len(data) != spans[tensor.name].nbytes:
                    raise ValueError(
                        f"{tensor.name}: {len(data)} bytes for {tensor.dtype}{list(tensor.shape)}"
                    )
                _write_all(file, path, data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return spans


def layout(
    tensors: Sequence[TensorSource], metadata: Mapping[str, str] | None = None
) -> tuple[list[TensorSource], bytes, dict[str, Span]]:
    """How a file of these tensors lies: their order, the bytes before the first, and where each one is. Reads none.

    Raises:
        ValueError: a name is given twice or reserved, or a type is unknown.
    """
    ordered = sorted(tensors, key=lambda t: -_power_of_two(tensor_bytes(t.dtype, t.shape)))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for tensor in ordered:
        if tensor.name in header or tensor.name == "__metadata__":
            raise ValueError(f"tensor name used twice or reserved: {tensor.name}")
        end = position + tensor_bytes(tensor.dtype, tensor.shape)
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    start = 8 + len(text)
    places = {t.name: header[t.name]["data_offsets"] for t in ordered}
    spans = {name: Span(start + begin, end - begin) for name, (begin, end) in places.items()}
    return ordered, len(text).to_bytes(8, "little") + text, spans


def _write_all(file: io.FileIO, path: Path, data: memoryview) -> None:
    """Write without a buffer: no copy, and a full disk is noticed at the tensor that meets it."""
    with writing(path):
        while data:
            data = data[file.write(data) :]


def _power_of_two(size: int) -> int:
    """The largest power of two, up to ALIGNMENT, that divides `size`."""
    return math.gcd(size, ALIGNMENT)


def _as_bytes(data: TensorData) -> memoryview:
    """The bytes of `data` in C order, without a copy where they already lie so."""
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    return memoryview(data).cast("B")


@dataclass(frozen=True)
class TensorInfo:
    """Type, shape and place of one tensor; `offset` counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class SafetensorsIndex:
    """The header of a safetensors file, fully checked. Make one with `SafetensorsIndex.open`."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    @staticmethod
    def open(path: Path | str) -> SafetensorsIndex:
        """Read and check the header: types, shapes, and that the tensors fill the file exactly.

        Raises CorruptWeights with the file's name.
        """
        path = Path(path)
        try:
            size = path.stat().st_size
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if size < 8 or length > min(MAX_HEADER, size - 8):
                    raise _corrupt(path, f"the header says {length} bytes, the file has {size}")
                text = file.read(length)
        except OSError as error:
            raise _corrupt(path, f"can't read it: {error.strerror}") from error
        try:
            header = json.loads(text.decode(), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise _corrupt(path, f"the header is not valid JSON: {error}") from error
        if not isinstance(header, dict):
            raise _corrupt(path, "the header is not a JSON object")
        notes = header.pop("__metadata__", None) or {}
        if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
            raise _corrupt(path, "the header's metadata is not text")
        start = 8 + length
        tensors = {name: _info(path, name, entry, start) for name, entry in header.items()}
        _check_layout(path, tensors, start, size)
        return SafetensorsIndex(path, tensors, notes)

    def view(self, name: str) -> npt.NDArray[Any]:
        """A read-only array mapped from the file; BF16 is seen as u16 and F8 as u8. Raises KeyError."""
        info = self.tensors[name]
        kind = np.dtype(DTYPES[info.dtype])
        if info.nbytes == 0:
            return np.empty(info.shape, kind)
        return np.memmap(self.path, kind, mode="r", offset=info.offset, shape=info.shape)


def _corrupt(path: Path, what: str) -> CorruptWeights:
    return CorruptWeights(what, where=str(path), hint="get the file again and compare its size and SHA-256")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is used twice")
    return found


def _info(path: Path, name: str, entry: Any, start: int) -> TensorInfo:
    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _corrupt(path, f"{name}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _corrupt(path, f"{name}: type {dtype!r} is not one that optcc reads")
    if not isinstance(shape, list) or not all(map(whole, shape)):
        raise _corrupt(path, f"{name}: bad shape {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(whole, offsets)):
        raise _corrupt(path, f"{name}: bad data_offsets {offsets!r}")
    begin, end = offsets
    if end - begin != tensor_bytes(dtype, shape):
        raise _corrupt(path, f"{name}: {end - begin} bytes for {dtype}{shape}")
    return TensorInfo(dtype, tuple(shape), start + begin, end - begin)


def _check_layout(path: Path, tensors: Mapping[str, TensorInfo], start: int, size: int) -> None:
    """Every byte of the file belongs to exactly one tensor, or the file is cut short or damaged."""
    position = start
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if info.offset != position:
            raise _corrupt(
                path, f"{name}: starts at byte {info.offset}, the tensor before it ends at {position}"
            )
        position += info.nbytes
    if position > size:
        raise _corrupt(path, f"cut short: {position - size} of {position} bytes are missing")
    if position < size:
        raise _corrupt(path, f"{size - position} bytes after the last tensor belong to none")
