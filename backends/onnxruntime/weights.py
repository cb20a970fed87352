"""The tensors of the weight file in ONNX Runtime's form.

Weights stay as the module has them, with one exception: 8-bit packed weights become unsigned (128 added), which is what
MatMulNBits and GatherBlockQuantized read. Both read the same bytes, so a tied embedding and head is stored once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from optcc.backends.protocol import StoredTensor
from optcc.backends.reference.weights import DTYPES
from optcc.ir.module import Module

BIASED_BY = 128


def is_biased(module: Module, name: str) -> bool:
    """Whether a weight is stored unsigned: int8 values that a quantized linear or embedding reads."""
    if module.weights.spec(name)[0] != torch.int8:
        return False
    packed = {"optcc.quantized_linear.default": 1, "optcc.quantized_embedding.default": 1}
    users = [u for n in module.nodes() if n.op == "get_attr" and n.target == name for u in n.users]
    return any(str(u.target) in packed for u in users)


def plan_weights(module: Module) -> list[StoredTensor]:
    """What the weight file holds, by the module's names."""
    planned = []
    for name in sorted(module.weights):
        dtype, shape = module.weights.spec(name)
        biased = is_biased(module, name)
        stored = "U8" if biased else DTYPES[dtype]
        planned.append(StoredTensor(name, stored, shape, (name,), partial(_read, module, name, biased)))
    return planned


def _read(module: Module, name: str, biased: bool) -> npt.NDArray[Any]:
    tensor = module.weights[name].contiguous()
    if biased:
        return (tensor.view(torch.uint8) ^ BIASED_BY).numpy()  # two's complement plus 128 flips the top bit
    return tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else tensor.numpy()


def unpack(stored: Mapping[str, npt.NDArray[Any]], biased: set[str]) -> dict[str, npt.NDArray[Any]]:
    """The module's own tensors from the stored ones: what the ledger and diffs read."""
    return {
        name: (array ^ np.uint8(BIASED_BY)).view(np.int8) if name in biased else array for name, array in stored.items()
    }
