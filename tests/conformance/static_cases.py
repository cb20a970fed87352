"""Activations with scales found by calibration, around convolutions, sums, pools and linears.

Steps are no multiples of each other: integer kernels and floats may round a tie to different sides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.quant.rounding import round_to_nearest
from optcc.recipe.schemes import WeightFormat
from tests.conformance.cases import IMAGE, A, weight
from tests.conformance.harness import Case

Q: Any = torch.ops.optcc


def rounded(b: Builder, x: Any, step: float, zero: int | None) -> fx.Node:
    """A value on an int8 grid, as quantize.static leaves it."""
    scale = b.new_weight("step", torch.tensor([step]))
    shift = None if zero is None else b.new_weight("offset", torch.tensor([zero], dtype=torch.int8))
    levels = b.call(Q.quantize_static.default, x, scale, shift, "int8")
    return b.call(Q.dequantize.default, levels, scale, shift, None, "int8", 0, 1, torch.float32)


def stored(b: Builder, *shape: int, seed: int = 1) -> fx.Node:
    """An int8 weight with one scale per row, in the shape its product wants."""
    packed = round_to_nearest(weight(*shape, seed=seed).flatten(1), WeightFormat("int8", 0))
    values, scale = b.new_weight("w.packed", packed.packed), b.new_weight("w.scale", packed.scale)
    wide = b.call(Q.dequantize.default, values, scale, None, None, "int8", 0, 1, torch.float32)
    return b.reshape(wide, list(shape)) if len(shape) > 2 else wide


def _levels(b: Builder, x: Any) -> Any:
    """The levels themselves as results, and rounded for another reader."""
    scale, shift = (
        b.new_weight("step", torch.tensor([0.02])),
        b.new_weight("z", torch.tensor([5], dtype=torch.int8)),
    )
    levels = b.call(Q.quantize_static.default, x, scale, shift, "int8")
    wide = b.call(Q.dequantize.default, levels, scale, shift, None, "int8", 0, 1, torch.float32)
    return levels, wide, rounded(b, x, 0.03, None)


def _block(groups: int) -> Any:
    """A residual block, its pool and its classifier."""

    def make(b: Builder, x: Any) -> Any:
        start = rounded(b, x, 0.0317, 3)
        first = b.call(
            A.conv2d.default, start, stored(b, 4, 4 // groups, 3, 3), None, [1, 1], [1, 1], [1, 1], groups
        )
        middle = rounded(b, first, 0.0513, -128)
        bias = b.new_weight("bias", weight(4, seed=5))
        second = b.call(A.conv2d.default, middle, stored(b, 4, 4, 1, 1, seed=2), bias)
        total = rounded(b, b.call(A.add.Tensor, rounded(b, second, 0.1973, None), start), 0.2119, -100)
        pooled = rounded(b, b.call(A.max_pool2d.default, total, [2, 2]), 0.2119, -100)
        flat = rounded(
            b, b.reshape(b.call(A.adaptive_avg_pool2d.default, pooled, [1, 1]), [-1, 4]), 0.1031, -50
        )
        return total, b.call(A.linear.default, flat, stored(b, 6, 4, seed=3), b.new_weight("b", weight(6)))

    return make


def _linear(b: Builder, x: Any) -> Any:
    y = b.call(A.linear.default, rounded(b, x, 0.0317, 7), stored(b, 12, 8), b.new_weight("b", weight(12)))
    return y, b.call(A.linear.default, rounded(b, y, 0.1973, None), stored(b, 5, 12))


STATIC = [
    Case("static-levels", {"x": "f32[B, S, 8]"}, _levels, tolerance=1e-6),
    Case(
        "static-block", IMAGE, _block(1), tolerance=0.03
    ),  # one level of the sum: one element of 576 is a tie
    Case("static-depthwise", IMAGE, _block(4), tolerance=1e-5),
    Case("static-linear", {"x": "f32[T, 8]"}, _linear, tolerance=1e-5),
    Case("static-linear-batch", {"x": "f32[B, S, 8]"}, _linear, tolerance=1e-5),
    Case(
        "static-conv-alone",
        IMAGE,
        lambda b, x: b.call(A.conv2d.default, rounded(b, x, 0.03, 3), stored(b, 6, 4, 3, 3)),
        tolerance=1e-5,
    ),
    Case(
        "static-weight-alone",
        IMAGE,
        lambda b, x: b.call(A.conv2d.default, x, stored(b, 6, 4, 3, 3)),
        tolerance=1e-5,
    ),
]
