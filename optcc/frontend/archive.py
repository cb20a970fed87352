"""What a `.pt2` archive must look like before torch may load it.

`torch.export.load` warns never to be given data from an untrusted source, for these reasons, read in torch 2.13:
weights and constants may be pickles; inputs that are no plain tensors are unpickled without restrictions; sizes are
evaluated by sympy, which runs Python; names of nodes and arguments become source code of a generated function; compiled
libraries in the archive are loaded. So everything that is not raw tensors and plain JSON is refused here, and every
text that torch would evaluate or write into source is held to a form that is harmless: an identifier, an operator's
name, or an expression of sizes.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from optcc.errors import CorruptWeights, UnsafeProgram
from optcc.frontend.sizes import is_size

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")
_DOTTED = re.compile(r"[\w.\-]*\Z")
_TARGET = re.compile(
    r"(torch\.ops\.\w+\.\w+(\.\w+)?|_operator\.\w+|math\.\w+|torch\.(sym_\w+|_sym_\w+|autograd\.grad_mode\.\w+))\Z"
)
_KEYS_OF_NAMES = (
    "tensor_values",
    "sym_int_values",
    "sym_float_values",
    "sym_bool_values",
    "custom_obj_values",
)
_NAMES = ("name", "as_name", "graph_name")
_WEIGHT_NAMES = ("parameter_name", "buffer_name", "tensor_constant_name", "fqn", "name_in_module")
_FREE = ("metadata", "stack_trace", "in_spec", "out_spec", "as_string", "guards_code")
"""Read by people, parsed as JSON, quoted when written, or never used."""
_SIZES_OF = ("as_expr", "expr_str")
_MODEL, _WEIGHTS, _CONSTANTS = "models/model.json", "data/weights/", "data/constants/"


@dataclass(frozen=True)
class Record:
    """Where one file of an archive lies: stored, not compressed."""

    offset: int
    nbytes: int


def check_archive(path: Path) -> None:
    """Refuse an archive that torch could not load, or not without executing what is in it.

    Raises:
        CorruptWeights: no archive of `torch.export.save`, or a damaged or older one.
        UnsafeProgram: it holds something else than raw tensors and a graph of plain names.
    """
    records = read_records(path)
    with zipfile.ZipFile(path) as archive:
        names = _short_names(archive)
        _check_layout(path, names)
        for name in names:
            if why := _forbidden(name):
                raise UnsafeProgram(f"the archive holds {name}: {why}", where=str(path), hint=_HINT)
        _check_inputs(path, archive.read(names["data/sample_inputs/model.pt"]))
        for folder in (_WEIGHTS, _CONSTANTS):
            config = _json(path, archive.read(names[f"{folder}model_{folder.split('/')[1]}_config.json"]))
            _check_payloads(path, config, folder, records)
        model = _json(path, archive.read(names[_MODEL]))
    for place, text, wanted in _texts(model, ""):
        if why := _wrong(text, wanted):
            raise UnsafeProgram(f"{place} is {text[:80]!r}, {why}", where=str(path), hint=_HINT)


_HINT = "export the model again with this torch: torch.export.save(torch.export.export(model, inputs), path)"


def read_records(path: Path) -> dict[str, Record]:
    """Place of every file of the archive, by name without the archive's own folder. Raises CorruptWeights."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            found = {}
            for name, full in _short_names(archive).items():
                info = archive.getinfo(full)
                if info.compress_type != zipfile.ZIP_STORED:
                    raise CorruptWeights(f"{name} is compressed", where=str(path), hint=_HINT)
                file.seek(info.header_offset + 26)
                lengths = struct.unpack("<HH", file.read(4))
                start = info.header_offset + 30 + sum(lengths)
                if start + info.file_size > path.stat().st_size:
                    raise CorruptWeights(f"{name} ends behind the end of the file", where=str(path))
                found[name] = Record(start, info.file_size)
            return found
    except (zipfile.BadZipFile, struct.error, OSError, EOFError) as error:
        raise CorruptWeights(f"not a whole .pt2 archive ({error})", where=str(path)) from error


def _short_names(archive: zipfile.ZipFile) -> dict[str, str]:
    """`data/…` -> the name in the file, which begins with the archive's own folder."""
    return {
        full.partition("/")[2]: full for full in archive.namelist() if "/" in full and not full.endswith("/")
    }


def _check_layout(path: Path, names: Mapping[str, str]) -> None:
    needed = (_MODEL, "archive_format", "data/sample_inputs/model.pt")
    configs = (f"{_WEIGHTS}model_weights_config.json", f"{_CONSTANTS}model_constants_config.json")
    missing = [name for name in (*needed, *configs) if name not in names]
    if missing:
        raise CorruptWeights(
            f"there is no {missing[0]} in the archive: it was not written by torch.export.save of torch 2.9 or later",
            where=str(path),
            hint=_HINT,
        )


def _forbidden(name: str) -> str | None:
    """Why a file may not be in an archive, or None."""
    if name.startswith("data/aotinductor/") or name.endswith((".so", ".cubin", ".ptx")):
        return "compiled code"
    if name.startswith(_CONSTANTS) and Path(name).name.startswith(("custom_obj", "opaque_obj")):
        return "a pickled object"
    if name.startswith((_WEIGHTS, _CONSTANTS)) and name.endswith(".pt"):
        return "pickled weights"
    if name.startswith("models/") and name != _MODEL:
        return "a second program"
    return None


def _check_inputs(path: Path, data: bytes) -> None:
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UnsafeProgram(
            f"the example inputs are not plain tensors ({reason})", where=str(path), hint=_HINT
        ) from error


def _check_payloads(path: Path, config: Any, folder: str, records: Mapping[str, Record]) -> None:
    for name, payload in config.get("config", {}).items():
        file = str(payload.get("path_name", ""))
        if payload.get("use_pickle") or not _IDENTIFIER.match(file) or not _DOTTED.match(name):
            raise UnsafeProgram(
                f"{folder}{file} is not a raw tensor of a plain name", where=str(path), hint=_HINT
            )
        if f"{folder}{file}" not in records:
            raise CorruptWeights(f"there is no {folder}{file}", where=str(path))


def _json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise CorruptWeights(f"the program can't be read ({error})", where=str(path)) from error


def _texts(value: Any, place: str, wanted: str = "text") -> Iterator[tuple[str, str, str]]:
    """Every text of the program that torch reads: where it stands, itself, and what it must be."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in _FREE:
                continue
            if place.rpartition(".")[2] in _KEYS_OF_NAMES:
                yield f"{place}.{key}", key, "name"
            yield from _texts(item, f"{place}.{key}", _wanted(key))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, place, wanted)
    elif isinstance(value, str):
        yield place, value, wanted


def _wanted(key: str) -> str:
    if key in _SIZES_OF:
        return "size"
    if key == "target":
        return "target"
    if key in _WEIGHT_NAMES:
        return "weight"
    return "name" if key in _NAMES or key == "forward_arg_names" else "text"


def _wrong(text: str, wanted: str) -> str | None:
    """Why a text is not what it must be, or None."""
    if wanted == "size":
        return None if is_size(text) else "which is no expression of sizes"
    if wanted == "target":
        return None if _TARGET.match(text) else "which is no operator"
    if wanted == "weight":
        return None if _DOTTED.match(text) else "which is no name of a weight"
    if wanted == "name":
        return None if _IDENTIFIER.match(text) or not text else "which is no name"
    return None if re.match(r"[\w.+\-: ]*\Z", text) else "which is no plain text"
