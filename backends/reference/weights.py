"""Canonical weights to the artifact's file and back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from optcc.artifact.weights import SafetensorsIndex
from optcc.backends.protocol import StoredTensor
from optcc.ir.module import Module
from optcc.ir.weights import TensorRef, WeightStore

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""torch's types as safetensors names them."""
_TORCH = {name: dtype for dtype, name in DTYPES.items()}


def canonical_weights(module: Module) -> list[StoredTensor]:
    """Every weight of the module, unchanged, by its own name."""
    return [
        StoredTensor(name, DTYPES[dtype], shape, (name,), partial(_bytes, module, name))
        for name in sorted(module.weights)
        for dtype, shape in [module.weights.spec(name)]
    ]


def _bytes(module: Module, name: str) -> npt.NDArray[Any]:
    data = module.weights[name].contiguous()
    raw: npt.NDArray[Any] = data.reshape(-1).view(torch.uint8).numpy() if data.numel() else data.numpy()
    return raw


def open_weights(path: Path) -> WeightStore:
    """The tensors of an artifact as a mapped store."""
    index = SafetensorsIndex.open(path)
    store = WeightStore()
    for name, info in index.tensors.items():
        store.refs[name] = TensorRef(path, info.offset, info.nbytes, _TORCH[info.dtype], tuple(info.shape))
    return store
