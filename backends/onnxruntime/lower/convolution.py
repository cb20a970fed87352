"""Convolutions and pooling over images [B, channels, height, width]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import fx

from optcc.backends.onnxruntime.lower.emit import Attributes, Emitter
from optcc.backends.onnxruntime.lower.registry import lowers
from optcc.backends.onnxruntime.lower.static import conv_weight
from optcc.backends.onnxruntime.lower.types import dtype_of, rank_of, shape_of

if TYPE_CHECKING:
    import onnx_ir as ir


def _both(value: Any) -> list[int]:
    """One number stands for two."""
    listed = [value] if isinstance(value, int) else [int(v) for v in value]
    return listed * 2 if len(listed) == 1 else listed


@lowers("aten.conv1d.default", "aten.conv2d.default")
def convolution(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """A convolution over one or two dims."""
    x, weight, bias, stride, padding, dilation, groups = operands
    count = rank_of(x) - 2
    sizes = [_both(v)[:count] for v in (stride, padding, dilation)]
    attributes: Attributes = {
        "strides": sizes[0],
        "pads": sizes[1] * 2,
        "dilations": sizes[2],
        "group": int(groups),
    }
    inputs = [emit.value(x), conv_weight(emit, x, weight)]
    return emit.op("Conv", inputs if bias is None else [*inputs, emit.value(bias)], attributes)


def _pool(
    emit: Emitter, kind: str, x: Any, kernel: Any, stride: Any, padding: Any, ceil: Any, more: Attributes
) -> ir.Value:
    """A pooling operator over windows; an empty stride is the kernel's size."""
    attributes: Attributes = {
        "kernel_shape": _both(kernel),
        "strides": _both(stride or kernel),
        "pads": _both(padding) * 2,
        "ceil_mode": int(ceil),
        **more,
    }
    return emit.op(kind, [emit.value(x)], attributes)


@lowers("aten.max_pool2d.default")
def max_pool(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Largest of each window."""
    x, kernel, stride, padding, dilation, ceil = operands
    return _pool(emit, "MaxPool", x, kernel, stride, padding, ceil, {"dilations": _both(dilation)})


def _refuse_average(node: fx.Node, operands: list[Any]) -> str | None:
    return "average pooling with its own divisor" if operands[6] is not None else None


@lowers("aten.avg_pool2d.default", refuse=_refuse_average)
def average_pool(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Mean of each window."""
    x, kernel, stride, padding, ceil, include = operands[:6]
    return _pool(emit, "AveragePool", x, kernel, stride, padding, ceil, {"count_include_pad": int(include)})


def _refuse_adaptive(node: fx.Node, operands: list[Any]) -> str | None:
    wanted, have = _both(operands[1]), shape_of(operands[0])[-2:]
    if wanted == [1, 1] or all(h is not None and h % w == 0 for h, w in zip(have, wanted)):
        return None
    return f"adaptive pooling from {have} to {wanted}, whose windows differ in size"


@lowers("aten.adaptive_avg_pool2d.default", refuse=_refuse_adaptive)
def adaptive_average_pool(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """Mean over everything, or over equal windows."""
    x, wanted = operands[0], _both(operands[1])
    if wanted == [1, 1]:
        return emit.op("GlobalAveragePool", [emit.value(x)])
    kernel = [int(h or 0) // w for h, w in zip(shape_of(x)[-2:], wanted)]
    return _pool(emit, "AveragePool", x, kernel, kernel, 0, False, {})


def _refuse_adaptive_max(node: fx.Node, operands: list[Any]) -> str | None:
    if any(user.args[1] != 0 and user.users for user in node.users):
        return "the places of the maxima are read"
    return _refuse_adaptive(node, operands)


@lowers("aten.adaptive_max_pool2d.default", refuse=_refuse_adaptive_max)
def adaptive_max_pool(emit: Emitter, node: fx.Node, operands: list[Any]) -> list[ir.Value]:
    """Largest of everything, or of equal windows; where it lies is not computed."""
    x, wanted = operands[0], _both(operands[1])
    if wanted == [1, 1]:
        found = emit.op("GlobalMaxPool", [emit.value(x)])
    else:
        kernel = [int(h or 0) // w for h, w in zip(shape_of(x)[-2:], wanted)]
        found = emit.op("MaxPool", [emit.value(x)], {"kernel_shape": kernel, "strides": kernel})
    return [found, found]


def _refuse_pad(node: fx.Node, operands: list[Any]) -> str | None:
    mode = operands[2] if len(operands) == 4 else "constant"
    return None if mode == "constant" else f"padding of mode {mode}"


@lowers("aten.pad.default", "aten.constant_pad_nd.default", refuse=_refuse_pad)
def pad(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """A constant around the last dims."""
    x, widths = operands[0], [int(w) for w in operands[1]]
    fill = operands[3] if len(operands) == 4 else operands[2]
    rank = rank_of(x)
    # torch lists (before, after) from the last dim backwards, ONNX all starts and then all ends.
    starts, ends = [0] * rank, [0] * rank
    for place in range(len(widths) // 2):
        starts[rank - 1 - place], ends[rank - 1 - place] = widths[2 * place : 2 * place + 2]
    number = emit.number(0.0 if fill is None else fill, dtype_of(x))
    return emit.op("Pad", [emit.value(x), emit.ints(starts + ends), number])
