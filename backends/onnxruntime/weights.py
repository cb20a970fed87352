"""What is stored: every weight under its own name, in the form a kernel reads it. Sizes never change.

8-bit weights of block kernels are stored as uint8 with 128 added; everything else as the module has it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from optcc.backends.onnxruntime.lower.quantized import stored_offset
from optcc.backends.protocol import StoredTensor
from optcc.backends.reference.weights import DTYPES
from optcc.ir.module import Module


def plan(module: Module) -> list[StoredTensor]:
    """The tensors to store; reads none."""
    shifted = stored_offset(list(module.graphs.values()))
    return [_stored(module, name, name in shifted) for name in sorted(module.weights)]


def _stored(module: Module, name: str, shifted: bool) -> StoredTensor:
    dtype, shape = module.weights.spec(name)
    kind = "U8" if shifted else DTYPES[dtype]
    return StoredTensor(name, kind, shape, (name,), partial(_read, module, name, shifted))


def _read(module: Module, name: str, shifted: bool) -> npt.NDArray[Any]:
    data = module.weights[name].contiguous()
    if not data.numel():
        return np.zeros(0, np.uint8)
    raw: npt.NDArray[Any] = data.reshape(-1).view(torch.uint8).numpy()
    # The bytes of int8 plus 128 as uint8: the sign bit turned over.
    return raw ^ np.uint8(0x80) if shifted else raw
