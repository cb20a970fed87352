"""Element types: torch's to ONNX's and back, and what two operands are promoted to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

ONNX: dict[torch.dtype, int] = {
    torch.float32: 1,
    torch.uint8: 2,
    torch.int8: 3,
    torch.int32: 6,
    torch.int64: 7,
    torch.bool: 9,
    torch.float16: 10,
    torch.float64: 11,
}
"""ONNX's numbers of the types that can be stored (`TensorProto.DataType`)."""

COMPUTED = frozenset(ONNX) - {torch.float16}
"""The types whose operators ONNX Runtime has on a CPU; float16 scales are widened when the model is opened."""

STORED = frozenset(ONNX)
"""The types of inputs and results: a float16 KV pool is read by operators that widen it."""

NUMPY: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
}

Shape = tuple[int | None, ...]
"""A shape with None for every symbolic dim."""


def val(node: Any) -> Any:
    """A node's type (`meta["val"]`), or the constant itself."""
    return node.meta["val"] if isinstance(node, fx.Node) else node


def dtype_of(value: Any) -> torch.dtype:
    """Element type of a node, a dim or a number."""
    kind = val(value)
    if isinstance(kind, torch.Tensor):
        return kind.dtype
    if isinstance(kind, bool):
        return torch.bool
    return torch.float32 if isinstance(kind, float) else torch.int64


def shape_of(node: Any) -> Shape:
    """A tensor's shape."""
    return tuple(d if isinstance(d, int) else None for d in val(node).shape)


def rank_of(node: Any) -> int:
    """A tensor's rank."""
    return int(val(node).dim())


def promoted(a: Any, b: Any) -> torch.dtype:
    """The type torch computes `a op b` in: numbers and 0-d tensors don't widen a tensor of the same kind."""
    return torch.result_type(_plain(a), _plain(b))


def _plain(value: Any) -> Any:
    kind = val(value)
    return 1 if isinstance(kind, torch.SymInt) else kind


def axis_of(axis: int, rank: int) -> int:
    """A dimension counted from the front."""
    return axis + rank if axis < 0 else axis


def array(value: Any, dtype: torch.dtype) -> npt.NDArray[Any]:
    """A constant as an array of `dtype`."""
    return np.asarray(value, NUMPY[dtype])
