"""Rounded values in a graph: `dequantize(quantize(x))`, the one form that fusions and backends know."""

from __future__ import annotations

import torch
from torch import fx

from optcc.ir.builder import Builder

_OPS = torch.ops.optcc


def round_dynamic(
    build: Builder, x: fx.Node, format: str, group: int, scale: str, tensor_scale: fx.Node | None = None
) -> fx.Node:
    """X [..., K] rounded with scales that it gets at run time, and back in its own type.

    Arguments as of `optcc::quantize_activation`.
    """
    pair = build.call(_OPS.quantize_activation.default, x, format, group, scale, tensor_scale)
    parts = build.item(pair, 0), build.item(pair, 1), None, tensor_scale
    return build.call(_OPS.dequantize.default, *parts, format, group, 1, x.meta["val"].dtype)


def round_static(build: Builder, x: fx.Node, step: fx.Node, zero: fx.Node | None, format: str) -> fx.Node:
    """X [..., K] rounded to a stored grid, and back in its own type.

    Args:
        build: where.
        x: the value.
        step, zero: weights, float32 [1] and int8 [1]; None is a symmetric grid.
        format: of the levels.
    """
    levels = build.call(_OPS.quantize_static.default, x, step, zero, format)
    return build.call(_OPS.dequantize.default, levels, step, zero, None, format, 0, 1, x.meta["val"].dtype)
