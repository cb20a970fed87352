"""Normalizations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx

from optcc.backends.onnxruntime.lower.emit import MICROSOFT, Emitter
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.types import dtype_of, rank_of, shape_of, val

if TYPE_CHECKING:
    import onnx_ir as ir


@lowers("optcc.rms_norm.default")
def rms_norm(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """One kernel."""
    x, weight, eps = operands
    return _rms(emit, emit.value(x), emit.cast(weight, dtype_of(x)), eps)


def _rms(emit: Emitter, x: ir.Value, weight: ir.Value, eps: float) -> ir.Value:
    attributes = {"epsilon": float(eps), "axis": -1, "stash_type": 1}
    return emit.op("SimplifiedLayerNormalization", [x, weight], attributes)


@lowers("optcc.add_rms_norm.default")
def add_rms_norm(emit: Emitter, node: fx.Node, operands: list[Any]) -> list[ir.Value]:
    """Sum and norm in one kernel where shapes allow it."""
    x, residual, weight, eps = operands
    a, b, w = emit.value(x), emit.value(residual), emit.cast(weight, dtype_of(x))
    # The kernel takes equal shapes of rank 2 or 3.
    if rank_of(x) not in (2, 3) or [str(d) for d in val(x).shape] != [str(d) for d in val(residual).shape]:
        total = emit.op("Add", [a, b])
        return [_rms(emit, total, w, eps), total]
    results = emit.ops(
        "SkipSimplifiedLayerNormalization", [a, b, w], {"epsilon": float(eps)}, MICROSOFT, outputs=4
    )
    for unused in results[1:3]:
        unused.name = ""
    return [results[0], results[3]]


@lowers("aten.layer_norm.default")
def layer_norm(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Over the last dims."""
    x, shape, weight, bias, eps = operands[:5]
    extents = [int(d) for d in shape]
    scale = emit.constant(np.ones(extents, np.float32)) if weight is None else emit.value(weight)
    inputs = [emit.value(x), scale] if bias is None else [emit.value(x), scale, emit.value(bias)]
    attributes = {"axis": rank_of(x) - len(extents), "epsilon": float(eps), "stash_type": 1}
    return emit.op("LayerNormalization", inputs, attributes)


def _refuse_training(node: fx.Node, operands: list[Any]) -> str | None:
    if len(operands) == 9 and operands[5]:
        return "batch normalization in training mode"
    return (
        None
        if operands[3] is not None and operands[4] is not None
        else "batch normalization without running statistics"
    )


@lowers(
    "aten.batch_norm.default", "aten._native_batch_norm_legit_no_training.default", refuse=_refuse_training
)
def batch_norm(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value | list[ir.Value]:
    """With running statistics."""
    x, weight, bias, mean, variance = operands[:5]
    functional = str(node.target) == "aten.batch_norm.default"
    eps = operands[7] if functional else operands[6]
    channels = int(val(mean).shape[0])
    scale = emit.constant(np.ones(channels, np.float32)) if weight is None else emit.value(weight)
    shift = emit.constant(np.zeros(channels, np.float32)) if bias is None else emit.value(bias)
    inputs = [emit.value(x), scale, shift, emit.value(mean), emit.value(variance)]
    result = emit.op("BatchNormalization", inputs, {"epsilon": float(eps)})
    return result if functional else [result]


def _refuse_group_norm(node: fx.Node, operands: list[Any]) -> str | None:
    return None if None not in shape_of(operands[0])[1:] else "group normalization of symbolic extents"


@lowers("aten.group_norm.default", refuse=_refuse_group_norm)
def group_norm(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Each group of channels as one row of a layer norm."""
    x, groups, weight, bias, eps = operands[:5]
    extents = [int(d or 0) for d in shape_of(x)[1:]]
    rows = emit.reshape(emit.value(x), [-1, math.prod(extents) // groups])
    ones = emit.constant(np.ones(math.prod(extents) // groups, np.float32))
    attributes = {"axis": -1, "epsilon": float(eps), "stash_type": 1}
    y = emit.reshape(emit.op("LayerNormalization", [rows, ones], attributes), [-1, *extents])
    per_channel = [extents[0], *(1 for _ in extents[1:])]
    if weight is not None:
        y = emit.op("Mul", [y, emit.reshape(emit.value(weight), per_channel)])
    return (
        y if bias is None else emit.op("Add", [y, emit.reshape(emit.cast(bias, torch.float32), per_channel)])
    )
