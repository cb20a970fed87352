"""One tensor of a checkpoint, made when it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""torch's types as safetensors names them."""


@dataclass(frozen=True)
class OutTensor:
    """A tensor to write.

    Attributes:
        name: in the checkpoint.
        dtype, shape: what `read` gives.
        read: makes it; called once, when its turn comes.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    def bytes(self) -> memoryview:
        """The tensor's bytes."""
        tensor = self.read().contiguous()
        found = (tensor.dtype, tuple(tensor.shape))
        if found != (self.dtype, self.shape):
            raise ValueError(f"{self.name}: {found} where {(self.dtype, self.shape)} was announced")
        return memoryview(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else memoryview(b"")  # type: ignore[arg-type]
