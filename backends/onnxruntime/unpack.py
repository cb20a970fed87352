"""An artifact's stored tensors back in the module's own form, so that others can read what is really there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from optcc.artifact.weights import SafetensorsIndex
from optcc.backends.onnxruntime.lower.storage import read_storage
from optcc.backends.reference.weights import open_weights
from optcc.errors import CorruptWeights
from optcc.ir.module import Module
from optcc.ir.parse import parse_module


def unpack(root: Path) -> Module:
    """The module of an artifact over its canonical weights; what was repacked is turned back when it is read here.

    Raises:
        CorruptWeights, IRTextError: the files can't be read.
    """
    path = root / "weights.safetensors"
    index, stored = SafetensorsIndex.open(path), open_weights(path)
    module = parse_module((root / "model.ir").read_text())
    storage, weights = read_storage(module, index), module.weights
    specs = {name: weights.spec(name) for name in weights}
    for name, repacking in storage.repackings.items():
        dtype, shape = specs[name]
        raw = repacking.back(np.asarray(index.view(name)).reshape(-1))
        weights.put(name, torch.from_numpy(raw).view(dtype).reshape(shape))
    for table in storage.native.values():
        found = table.packing.unpack(np.asarray(index.view(table.packed)))
        for name, part in zip(table.parts, (found.packed, found.scale, found.zero), strict=False):
            weights.put(name, torch.from_numpy(part))
    turned = {*storage.repackings, *(name for table in storage.native.values() for name in table.parts)}
    for name in specs.keys() - turned:
        if name not in stored:
            raise CorruptWeights(f"the weight {name} of the graph is not in the file", where=str(path))
        weights.refs[name] = stored.refs[name]
    for name, (dtype, shape) in specs.items():
        if weights.spec(name) != (dtype, shape):
            raise CorruptWeights(f"the weight {name} is not stored as {dtype} {shape}", where=str(path))
    return module
