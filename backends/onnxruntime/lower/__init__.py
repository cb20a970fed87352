"""One file per family of operators; importing this package registers them all."""

from __future__ import annotations

from typing import Any

from torch import fx

from optcc.backends.onnxruntime.emit import Emit
from optcc.backends.onnxruntime.lower import (
    attention,
    convolution,
    elementwise,
    linear,
    norm,
    quantized,
    reduction,
    rope,
    shape,
)
from optcc.backends.onnxruntime.lower.registry import LOWERINGS
from optcc.ir.text import target_name

__all__ = [
    "attention",
    "convolution",
    "elementwise",
    "linear",
    "lower_node",
    "norm",
    "quantized",
    "reduction",
    "refuse",
    "rope",
    "shape",
]


def refuse(node: fx.Node) -> str | None:
    """Why a node can't be lowered, or None."""
    found = LOWERINGS.get(target_name(node))
    return "no ONNX Runtime lowering" if found is None else found.refuse(node)


def lower_node(emit: Emit, node: fx.Node) -> Any:
    """The ONNX value (or list of values) of a call."""
    return LOWERINGS[target_name(node)].run(emit, node)
