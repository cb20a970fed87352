"""From a quantized checkpoint's tensors to the weights of the model, converted once into the cache."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from optcc.errors import UnsupportedCheckpoint
from optcc.frontend.program import ModelSource, PackedSource, WeightSource
from optcc.frontend.quantized import awq, compressed, gptq, modelopt
from optcc.frontend.quantized.found import Config, Found, Stored
from optcc.frontend.quantized.store import TensorFiles
from optcc.frontend.safetensors import read_directory

METHODS: Mapping[str, Callable[[Config, Stored, str], list[Found]]] = {
    "compressed-tensors": compressed.find,
    "gptq": gptq.find,
    "awq": awq.find,
    "modelopt": modelopt.find,
}
"""`quant_method` of a checkpoint -> its reader."""
# Scales of a KV cache: the recipe says how optcc stores its cache.
_CACHE_SCALES = re.compile(r"\.[kvq]_(scale|zero_point|bias)$")
_PLAIN = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.bool)


def refuse_quantized(config: Mapping[str, object], where: str) -> None:
    """Raise UnsupportedCheckpoint for a method that isn't read. Called before any weight is looked at."""
    entry = config.get("quantization_config")
    method = entry.get("quant_method") if isinstance(entry, Mapping) else None
    if entry and method not in METHODS:
        raise UnsupportedCheckpoint(
            f"the checkpoint is quantized by {method or 'an unnamed method'}, which is not read",
            where=where,
            hint=f"read are {', '.join(METHODS)}; or compile the original model with a recipe of optcc",
        )


def read_quantized(
    source: ModelSource, stored: Stored, config: Mapping[str, object]
) -> dict[str, WeightSource]:
    """The tensors of a checkpoint with every quantized weight as one WeightSource.

    A weight's parts are rearranged into optcc's layout, not rounded, and kept in the cache; one weight is in memory at
    a time. A checkpoint that isn't quantized is given back as it is.

    Args:
        source: where it came from; its digest names the cache entry.
        stored: everything its files hold.
        config: its `config.json`.

    Raises:
        UnsupportedCheckpoint: a layout or combination without a format here.
        CorruptWeights: a tensor is missing.
        CannotWrite: the cache is full.
    """
    where = str(source.directory)
    entry = config.get("quantization_config")
    if not isinstance(entry, Mapping) or not entry:
        _refuse_leftovers(stored, where)
        return dict(stored)
    refuse_quantized(config, where)
    settings = _settings(entry, source.directory)
    found = METHODS[str(entry["quant_method"])](settings, stored, where)
    text = json.dumps(settings, sort_keys=True, default=str) + source.digest
    files = TensorFiles.in_cache(hashlib.sha256(text.encode()).hexdigest())
    used = {name for item in found for name in item.used}
    weights = {n: s for n, s in stored.items() if n not in used and not _CACHE_SCALES.search(n)}
    _refuse_leftovers(weights, where)
    for item in found:
        weights[f"{item.module}.weight"] = _weight(item, files)
    return weights


def find_quantized(directory: Path) -> list[Found]:
    """The quantized weights of a checkpoint directory; nothing is read or converted yet.

    Raises UnsupportedCheckpoint, CorruptWeights.
    """
    from optcc.frontend.resolve import read_config

    config = read_config(directory / "config.json")
    entry = config.get("quantization_config")
    if not isinstance(entry, Mapping):
        return []
    refuse_quantized(config, str(directory))
    reader = METHODS[str(entry["quant_method"])]
    return reader(_settings(entry, directory), read_directory(directory), str(directory))


def _settings(entry: Mapping[str, object], directory: Path | None) -> Config:
    """`quantization_config`, with what modelopt writes into a file beside it only."""
    beside = directory / "hf_quant_config.json" if directory else None
    if entry.get("quant_method") != "modelopt" or beside is None or not beside.is_file():
        return dict(entry)
    return {**json.loads(beside.read_text("utf-8")).get("quantization", {}), **entry}


def _refuse_leftovers(stored: Stored, where: str) -> None:
    """A tensor in a storage type that nobody has claimed would be read as numbers without their scales."""
    for name, source in stored.items():
        if source.packed is None and source.dtype not in _PLAIN:
            kind = str(source.dtype).removeprefix("torch.")
            raise UnsupportedCheckpoint(
                f"{name} is stored as {kind}, and nothing says with what scale",
                where=where,
                hint="the checkpoint's quantization_config is missing or describes another checkpoint",
            )


def _weight(item: Found, files: TensorFiles) -> WeightSource:
    """The parts from the cache, converted now if they aren't there."""
    parts = files.read(item.module)
    if parts is None:
        parts = files.write(item.module, item.read().tensors())
    form = PackedSource(item.format, item.group, item.rows, **parts, activation=item.activation)
    return WeightSource(torch.float32, item.shape, packed=form)
