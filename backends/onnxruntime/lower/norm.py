"""Normalizations."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from optcc.backends.onnxruntime.emit import CONTRIB, Emit
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.ir.pattern import normalized


@lowers("optcc.rms_norm.default")
def rms_norm(emit: Emit, node: fx.Node) -> Any:
    """SimplifiedLayerNormalization, ONNX Runtime's own kernel."""
    x, weight, eps = normalized(node)[0]
    return _simplified(emit, emit.value(x), emit.value(weight), eps)


def _simplified(emit: Emit, x: Any, weight: Any, eps: float) -> Any:
    return emit.op("SimplifiedLayerNormalization", [x, weight], axis=-1, epsilon=eps, stash_type=1)


@lowers("optcc.add_rms_norm.default")
def add_rms_norm(emit: Emit, node: fx.Node) -> Any:
    """SkipSimplifiedLayerNormalization; it takes two or three dimensions."""
    x, residual, weight, eps = normalized(node)[0]
    if len(node.meta["val"][0].shape) not in (2, 3):
        total = emit.op("Add", [emit.value(x), emit.value(residual)])
        return [_simplified(emit, total, emit.value(weight), eps), total]
    inputs = [emit.value(x), emit.value(residual), emit.value(weight)]
    outputs = emit.ops("SkipSimplifiedLayerNormalization", inputs, 4, CONTRIB, epsilon=eps)
    outputs[1].name = outputs[2].name = ""  # mean and inverse deviation, which only training reads
    return [outputs[0], outputs[3]]


@lowers("aten.layer_norm.default")
def layer_norm(emit: Emit, node: fx.Node) -> Any:
    """LayerNormalization over the last dimensions."""
    x, shape, weight, bias, eps, _ = normalized(node)[0]
    scale = emit.const(np.ones([int(n) for n in shape]), np.float32) if weight is None else emit.value(weight)
    inputs = [emit.value(x), scale, *([] if bias is None else [emit.value(bias)])]
    return emit.op("LayerNormalization", inputs, axis=-len(shape), epsilon=eps)
