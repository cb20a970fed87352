"""Convolution, batch normalization and pooling, as vision models use them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from optcc.backends.onnxruntime.emit import Emit
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.ir.pattern import normalized


def _pair(value: Any) -> list[int]:
    numbers = [value, value] if isinstance(value, int) else [int(v) for v in value]
    return numbers * 2 if len(numbers) == 1 else numbers


def _refuse_conv(node: fx.Node) -> str | None:
    return "padding given by name" if isinstance(normalized(node)[0][4], str) else None


@lowers("aten.conv2d.default", refuse=_refuse_conv)
def conv2d(emit: Emit, node: fx.Node) -> Any:
    """Conv over [B, C, H, W]."""
    x, weight, bias, stride, padding, dilation, groups = normalized(node)[0]
    inputs = [emit.value(x), emit.value(weight), *([] if bias is None else [emit.value(bias)])]
    pads = _pair(padding)
    return emit.op(
        "Conv", inputs, strides=_pair(stride), pads=[*pads, *pads], dilations=_pair(dilation), group=int(groups)
    )


def _refuse_batch_norm(node: fx.Node) -> str | None:
    operands, names, _ = normalized(node)
    given = dict(zip(names, operands, strict=True))
    return "batch normalization in training mode" if given.get("training") else None


@lowers("aten.batch_norm.default", refuse=_refuse_batch_norm)
def batch_norm(emit: Emit, node: fx.Node) -> Any:
    """With its running statistics."""
    x, weight, bias, mean, variance, _, _, eps, _ = normalized(node)[0]
    channels = int(x.meta["val"].shape[1])
    scale = emit.const(np.ones(channels), np.float32) if weight is None else emit.value(weight)
    shift = emit.const(np.zeros(channels), np.float32) if bias is None else emit.value(bias)
    return emit.op("BatchNormalization", [emit.value(x), scale, shift, emit.value(mean), emit.value(variance)], epsilon=eps)


@lowers("aten.max_pool2d.default")
def max_pool2d(emit: Emit, node: fx.Node) -> Any:
    """Largest in each window."""
    x, size, stride, padding, dilation, ceil = normalized(node)[0]
    pads = _pair(padding)
    return emit.op(
        "MaxPool",
        [emit.value(x)],
        kernel_shape=_pair(size),
        strides=_pair(stride or size),
        pads=[*pads, *pads],
        dilations=_pair(dilation),
        ceil_mode=int(ceil),
    )


def _refuse_average(node: fx.Node) -> str | None:
    return "a divisor of its own" if normalized(node)[0][6] is not None else None


@lowers("aten.avg_pool2d.default", refuse=_refuse_average)
def avg_pool2d(emit: Emit, node: fx.Node) -> Any:
    """Mean of each window."""
    x, size, stride, padding, ceil, include, _ = normalized(node)[0]
    pads = _pair(padding)
    return emit.op(
        "AveragePool",
        [emit.value(x)],
        kernel_shape=_pair(size),
        strides=_pair(stride or size),
        pads=[*pads, *pads],
        ceil_mode=int(ceil),
        count_include_pad=int(include),
    )


def _refuse_adaptive(node: fx.Node) -> str | None:
    return None if list(node.args[1]) == [1, 1] else "adaptive pooling to more than one element"  # type: ignore[arg-type]


@lowers("aten.adaptive_avg_pool2d.default", refuse=_refuse_adaptive)
def adaptive_avg_pool2d(emit: Emit, node: fx.Node) -> Any:
    """Mean of the whole image."""
    return emit.op("GlobalAveragePool", [emit.value(node.args[0])])
