"""A strict reader of GGUF files: metadata as plain values, tensors as mapped bytes.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Every length is checked against the file
before it is used, so a damaged or shortened file is an error and never a wrong model. The `gguf` package
knows the block formats; its own reader takes seconds for a vocabulary, this one milliseconds.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optcc.errors import CorruptWeights, MissingPackage, UnsupportedArchitecture
from optcc.frontend.gguf.metadata import Fields

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_LIMIT = 1 << 26  # most entries a table may claim to have
_RANK = 4


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: name, ggml type number, shape in row-major order (the file has it reversed), and its
    mapped bytes."""

    name: str
    kind: int
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def dequantize(self) -> NDArray[np.float32]:
        """The values in float32, in `shape`."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

        kind = GGMLQuantizationType(self.kind)
        plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
        raw = self.data
        if kind in plain:
            return raw.view(plain[kind]).astype(np.float32).reshape(self.shape)
        block, size = GGML_QUANT_SIZES[kind]
        rows = raw.reshape(*self.shape[:-1], self.shape[-1] // block * size)
        return np.asarray(quants.dequantize(rows, kind), dtype=np.float32).reshape(self.shape)


@dataclass(frozen=True)
class GgufFile:
    """An open file: `general.architecture`, every metadata value by key, every tensor by name."""

    path: Path
    architecture: str
    fields: Fields
    tensors: Mapping[str, GgufTensor]


class _Cursor:
    """Reads little-endian values one after the other; raises ValueError at the end of the file."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.data = data
        self.view = memoryview(data.data)
        self.at = 0

    def take(self, size: int) -> memoryview:
        if size < 0 or self.at + size > len(self.view):
            raise ValueError(f"the file ends at byte {len(self.view)}, {self.at + size} are needed")
        self.at += size
        return self.view[self.at - size : self.at]

    def scalar(self, code: str) -> int | float | bool:
        value: int | float | bool = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]
        return value

    def count(self, code: str) -> int:
        value = int(self.scalar(code))
        if value > _LIMIT:
            raise ValueError(f"a table claims to have {value} entries")
        return value

    def string(self) -> str:
        return bytes(self.take(int(self.scalar("Q")))).decode("utf-8", "replace")

    def value(self, kind: int) -> object:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(_code(kind))
        inner, count = int(self.scalar("I")), self.count("Q")
        if inner in (_STRING, _ARRAY):
            return [self.value(inner) for _ in range(count)]
        code = _code(inner)
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code))))


def _code(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"{kind} is not a type of metadata")
    return _SCALARS[kind]


def open_gguf(path: Path) -> GgufFile:
    """Open and check a file; no tensor is read.

    Raises:
        CorruptWeights: it isn't GGUF, is cut short, or its tables are damaged.
        UnsupportedArchitecture: big-endian or version 1, a part of a split file, or a tensor type that is
            not known.
        MissingPackage: the `gguf` package is not installed.
    """
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise MissingPackage("reading .gguf files needs the package gguf", hint="pip install gguf") from error
    try:
        return _open(path)
    except (ValueError, KeyError, struct.error, OverflowError) as error:
        raise CorruptWeights(
            f"the file is damaged or cut short ({error})", where=str(path), hint="download the file again"
        ) from error


def _open(path: Path) -> GgufFile:
    if path.stat().st_size < 24:
        raise ValueError("shorter than a header")
    cursor = _Cursor(np.memmap(path, dtype=np.uint8, mode="r"))
    if bytes(cursor.take(4)) != b"GGUF":
        raise ValueError("it doesn't begin with GGUF")
    version = int(cursor.scalar("I"))
    if version not in (2, 3):
        raise UnsupportedArchitecture(f"GGUF version {version}", where=str(path))
    tensor_count, field_count = cursor.count("Q"), cursor.count("Q")
    fields: dict[str, object] = {}
    for _ in range(field_count):
        key = cursor.string()
        fields[key] = cursor.value(int(cursor.scalar("I")))
    if fields.get("split.count", 0) not in (0, 1):
        hint = "join the parts with llama-gguf-split --merge"
        raise UnsupportedArchitecture("split GGUF files", where=str(path), hint=hint)
    tensors = _tensors(cursor, tensor_count, fields.get("general.alignment", 32), path)
    return GgufFile(path, str(fields["general.architecture"]), fields, tensors)


def _tensors(cursor: _Cursor, count: int, alignment: object, path: Path) -> dict[str, GgufTensor]:
    from gguf import GGML_QUANT_SIZES

    sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    table: list[tuple[str, tuple[int, ...], int, int]] = []
    for _ in range(count):
        name, rank = cursor.string(), int(cursor.scalar("I"))
        if rank > _RANK:
            raise ValueError(f"tensor {name} has {rank} axes")
        shape = tuple(int(cursor.scalar("Q")) for _ in range(rank))[::-1]
        table.append((name, shape, int(cursor.scalar("I")), int(cursor.scalar("Q"))))
    if not isinstance(alignment, int) or alignment <= 0:
        raise ValueError(f"an alignment of {alignment}")
    start = -(-cursor.at // alignment) * alignment
    found: dict[str, GgufTensor] = {}
    for name, shape, kind, offset in table:
        if kind not in sizes:
            raise UnsupportedArchitecture(f"tensor {name} has the unknown type {kind}", where=str(path))
        block, size = sizes[kind]
        if not shape or shape[-1] % block:
            raise ValueError(f"tensor {name} of shape {list(shape)} is not made of blocks of {block}")
        cursor.at = start + offset
        first, length = cursor.at, math.prod(shape) // block * size
        cursor.take(length)
        found[name] = GgufTensor(name, kind, shape, cursor.data[first : first + length])
    return found
