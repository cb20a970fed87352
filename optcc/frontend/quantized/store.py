"""Converted weights in the cache: one safetensors file for each module, so that a killed conversion goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from optcc.cache import default_cache, mark_used
from optcc.errors import CannotWrite, CorruptWeights
from optcc.frontend.program import WeightSource
from optcc.frontend.safetensors import read_header

_FORM = "1"  # raise when the converted form changes, so that old cache entries are not used


@dataclass(frozen=True)
class TensorFiles:
    """The files of one checkpoint below the cache."""

    directory: Path

    @classmethod
    def in_cache(cls, key: str) -> TensorFiles:
        """The files of a checkpoint, by a digest of everything they depend on."""
        files = cls(default_cache() / "converted" / f"{key}-{_FORM}")
        if files.directory.is_dir():
            mark_used(files.directory)
        return files

    def _path(self, module: str) -> Path:
        return self.directory / f"{hashlib.sha256(module.encode()).hexdigest()[:32]}.safetensors"

    def read(self, module: str) -> dict[str, WeightSource] | None:
        """A module's tensors by name, or None when they aren't there or damaged."""
        path = self._path(module)
        if not path.is_file():
            return None
        try:
            return read_header(path)
        except CorruptWeights:
            return None

    def write(self, module: str, tensors: Mapping[str, Tensor]) -> dict[str, WeightSource]:
        """Store a module's tensors, whole or not at all. Raises CannotWrite."""
        return _write(self._path(module), tensors)


def mapped_original(weight: WeightSource) -> WeightSource:
    """The dequantized values of a packed weight as a file of the cache: float32 [O, K], made once.

    So the original of a quantized model costs disk, not memory. Raises CannotWrite.
    """
    assert weight.packed is not None
    beside = weight.packed.packed.path
    assert beside is not None
    path = beside.with_suffix(".float32.safetensors")
    if path.is_file():
        try:
            return read_header(path)["weight"]
        except CorruptWeights:
            pass  # written again
    return _write(path, {"weight": weight.packed.dequantized()})["weight"]


def _write(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, WeightSource]:
    from safetensors.torch import save_file

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(partial))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CannotWrite(
            f"the cache can't be written ({error.strerror or error})",
            where=str(path.parent),
            hint="free some space, or point OPTCC_CACHE at another disk",
        ) from error
    return read_header(path)
