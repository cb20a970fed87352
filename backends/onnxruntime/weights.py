"""What is stored: every weight under its own name, in the form a kernel reads it (`lower/blocks.py`)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from optcc.backends.onnxruntime.lower.blocks import Repacking
from optcc.backends.onnxruntime.lower.storage import plan_storage
from optcc.backends.onnxruntime.lower.tables import NativeTable
from optcc.backends.protocol import StoredTensor
from optcc.backends.reference.weights import DTYPES
from optcc.ir.module import Module


def plan(module: Module) -> list[StoredTensor]:
    """The tensors to store; reads none."""
    storage = plan_storage(module)
    inside = {part for table in storage.native.values() for part in table.parts}
    found = [_packed(module, table) for table in storage.native.values()]
    found += [
        _stored(module, name, storage.repackings.get(name)) for name in module.weights if name not in inside
    ]
    return sorted(found, key=lambda tensor: tensor.name)


def _packed(module: Module, table: NativeTable) -> StoredTensor:
    def read() -> npt.NDArray[Any]:
        return table.packing.pack(table.read(module))

    return StoredTensor(table.packed, "U8", table.packing.shape, table.parts, read, table.padding)


def _stored(module: Module, name: str, repacking: Repacking | None) -> StoredTensor:
    dtype, shape = module.weights.spec(name)
    kind, stored = ("U8", repacking.shape) if repacking else (DTYPES[dtype], shape)
    return StoredTensor(name, kind, stored, (name,), partial(_read, module, name, repacking))


def _read(module: Module, name: str, repacking: Repacking | None) -> npt.NDArray[Any]:
    data = module.weights[name].contiguous()
    if not data.numel():
        return np.zeros(0, np.uint8)
    raw: npt.NDArray[Any] = data.reshape(-1).view(torch.uint8).numpy()
    return repacking.forward(raw) if repacking else raw
