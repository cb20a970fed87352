"""An artifact's stored tensors back in the module's own form, so that others can read what is really there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from optcc.artifact.weights import SafetensorsIndex
from optcc.backends.onnxruntime.lower.storage import read_storage
from optcc.backends.reference.weights import open_weights
from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.ir.weights import WeightStore


def unpack(root: Path) -> Module:
    """The module of an artifact over its canonical weights; what was repacked is turned back when it is read here.

    Raises:
        CorruptWeights, IRTextError: the files can't be read.
    """
    path = root / "weights.safetensors"
    index = SafetensorsIndex.open(path)
    declared = parse_module((root / "model.ir").read_text())
    store: WeightStore = open_weights(path)
    storage = read_storage(declared, index)
    for name, repacking in storage.repackings.items():
        dtype, shape = declared.weights.spec(name)
        raw = repacking.back(np.asarray(index.view(name)).reshape(-1))
        store.put(name, torch.from_numpy(raw).view(dtype).reshape(shape))
    for table in storage.native.values():
        found = table.packing.unpack(np.asarray(index.view(table.packed)))
        for name, part in zip(table.parts, (found.packed, found.scale, found.zero), strict=False):
            store.put(name, torch.from_numpy(part))
    return parse_module((root / "model.ir").read_text(), store)
