"""Reading safetensors headers, strictly: a damaged file is found before anything else is done.

Format: https://huggingface.co/docs/safetensors, section "Format".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from optcc.errors import CorruptWeights, ModelNotFound, UnsupportedArchitecture
from optcc.frontend.program import WeightSource

_INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
}
_HEADER_LIMIT = 100_000_000  # bytes; the format's own limit


def weight_files(directory: Path) -> tuple[Path, ...]:
    """The safetensors files of a model directory: those its index names, or all there are.

    Raises:
        ModelNotFound: there are none, or one that the index names is missing.
        CorruptWeights: the index can't be read.
    """
    index = directory / _INDEX
    if index.is_file():
        try:
            mapping = json.loads(index.read_text("utf-8"))["weight_map"]
            names = sorted({str(name) for name in mapping.values()})
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CorruptWeights(
                f"the index of the weight files can't be read ({error})", where=str(index)
            ) from error
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise ModelNotFound(
                f"{len(missing)} of {len(names)} weight files are missing: {', '.join(missing[:4])}",
                where=str(directory),
                hint="finish the download; the index names every file",
            )
        return tuple(directory / name for name in names)
    found = tuple(sorted(directory.glob("*.safetensors")))
    if not found:
        other = sorted(
            path.name for path in directory.glob("*") if path.suffix in {".bin", ".pt", ".pth", ".h5"}
        )
        hint = "save the model with save_pretrained(safe_serialization=True)" if other else None
        raise ModelNotFound("the directory has no *.safetensors file", where=str(directory), hint=hint)
    return found


def read_header(path: Path) -> dict[str, WeightSource]:
    """Every tensor of one file by name; nothing but the header is read.

    Raises:
        CorruptWeights: the header is damaged, or the file isn't as long as its header says.
        UnsupportedArchitecture: a tensor has a type that optcc doesn't know.
    """
    try:
        return _read_header(path)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CorruptWeights(
            str(error) or type(error).__name__, where=str(path), hint="download the file again"
        ) from error


def _read_header(path: Path) -> dict[str, WeightSource]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise ValueError(f"the header says it is {length} bytes long, the file has {size}")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    header.pop("__metadata__", None)
    start, end, found = 8 + length, 0, {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = (int(offset) for offset in entry["data_offsets"])
        shape = tuple(int(extent) for extent in entry["shape"])
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise UnsupportedArchitecture(
                f"tensor {name} is stored as {entry['dtype']}, which no format of optcc is",
                where=str(path),
            )
        if first != end or last - first != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"tensor {name} does not lie where the header says")
        end = last
        found[name] = WeightSource(
            dtype=dtype, shape=shape, path=path, offset=start + first, nbytes=last - first
        )
    if start + end != size:
        raise ValueError(f"the file is {size} bytes long, its header describes {start + end}")
    return found


def read_directory(directory: Path) -> Mapping[str, WeightSource]:
    """Every tensor of a model directory by name. Raises as `weight_files` and `read_header` do."""
    tensors: dict[str, WeightSource] = {}
    for path in weight_files(directory):
        tensors.update(read_header(path))
    return tensors
