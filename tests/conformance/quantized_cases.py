"""Quantized operators: what block kernels take, and what is written out."""

from __future__ import annotations

from typing import Any

import torch

from optcc.ir.builder import Builder
from tests.conformance.cases import weight
from tests.conformance.harness import Case, Make

Q: Any = torch.ops.optcc


def packed(b: Builder, rows: int, width: int, group: int, name: str = "w") -> tuple[Any, Any]:
    """int8 weights and their scales, as a quantization pass leaves them."""
    values, scale = Q.quantize_activation(weight(rows, width), 8, group)
    return b.new_weight(f"{name}.packed", values), b.new_weight(f"{name}.scale", scale)


def linear(
    rows: int, width: int, group: int, act: tuple[int, int], *, bias: bool = False, zero: bool = False
) -> Make:
    """A quantized linear."""

    def make(b: Builder, x: Any) -> Any:
        values, scale = packed(b, rows, width, group)
        extra = b.new_weight("bias", weight(rows, seed=3)) if bias else None
        shift = b.new_weight("zero", _zeros(rows, width, group)) if zero else None
        return b.call(Q.quantized_linear.default, x, values, scale, shift, extra, 8, group, *act)

    return make


def _zeros(rows: int, width: int, group: int) -> torch.Tensor:
    return torch.randint(-8, 8, (rows, width // group if group else 1), dtype=torch.int8)


def _embedding(group: int) -> Make:
    def make(b: Builder, ids: Any) -> Any:
        values, scale = packed(b, 9, 64, group)
        return b.call(Q.quantized_embedding.default, ids, values, scale, None, 8, group, torch.float32)

    return make


def _tied(group: int, act: tuple[int, int]) -> Make:
    def make(b: Builder, ids: Any) -> Any:
        values, scale = packed(b, 9, 64, group)
        rows = b.call(Q.quantized_embedding.default, ids, values, scale, None, 8, group, torch.float32)
        return rows, b.call(Q.quantized_linear.default, rows, values, scale, None, None, 8, group, *act)

    return make


def _unfused(group: int) -> Make:
    """What a graph looks like before fuse.dequant-linear."""

    def make(b: Builder, x: Any) -> Any:
        values, scale = packed(b, 5, 64, group)
        pair = b.call(Q.quantize_activation.default, x, 8, group)
        rounded = b.call(
            Q.dequantize.default, b.item(pair, 0), b.item(pair, 1), None, 8, group, torch.float32
        )
        wide = b.call(Q.dequantize.default, values, scale, None, 8, group, torch.float32)
        return b.item(pair, 0), b.item(pair, 1), b.call(torch.ops.aten.linear.default, rounded, wide)

    return make


def _nibbles(b: Builder, x: Any) -> Any:
    values = torch.randint(0, 256, (6, 32), dtype=torch.uint8)
    names = b.new_weight("w.packed", values), b.new_weight("w.scale", weight(6, 2, positive=True))
    return b.call(Q.quantized_linear.default, x, *names, None, None, 4, 32, 8, 32)


X = {"x": "f32[T, 64]"}
QUANTIZED = [
    *(
        Case(f"quantized-linear-g{group}-a{act[0]}g{act[1]}", X, linear(12, 64, group, act), tolerance=4e-6)
        for group, act in (
            (64, (8, 64)),
            (32, (8, 32)),
            (16, (8, 16)),
            (64, (0, 0)),
            (32, (0, 0)),
            (0, (0, 0)),
            (32, (8, 64)),
            (64, (8, 0)),
            (0, (8, 0)),
            (8, (8, 8)),
        )
    ),
    Case(
        "quantized-linear-batch",
        {"x": "f32[B, S, 128]"},
        linear(7, 128, 64, (8, 64), bias=True),
        tolerance=4e-6,
    ),
    Case("quantized-linear-bias", X, linear(7, 64, 0, (0, 0), bias=True), tolerance=4e-6),
    Case("quantized-linear-zero", X, linear(7, 64, 32, (0, 0), zero=True), tolerance=4e-6),
    Case("quantized-linear-4bit", X, _nibbles, tolerance=4e-6),
    *(
        Case(f"quantized-embedding-g{g}", {"ids": "i64[B, S]"}, _embedding(g), {"ids": 9})
        for g in (64, 16, 0)
    ),
    *(
        Case(f"quantized-tied-g{group}-a{act[0]}", {"ids": "i64[T]"}, _tied(group, act), {"ids": 9}, 4e-6)
        for group, act in ((32, (8, 32)), (32, (0, 0)), (0, (0, 0)))
    ),
    *(
        Case(f"unfused-g{group}", {"x": "f32[B, S, 64]"}, _unfused(group), tolerance=4e-6)
        for group in (32, 0)
    ),
]
