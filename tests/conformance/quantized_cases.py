"""Quantized operators: what block kernels take, and what is written out."""

from __future__ import annotations

from typing import Any

import torch

from optcc.ir.builder import Builder
from optcc.quant.rounding import round_to_nearest
from optcc.recipe.schemes import WeightFormat
from tests.conformance.cases import weight
from tests.conformance.harness import Case, Make

Q: Any = torch.ops.optcc


def packed(b: Builder, rows: int, width: int, group: int, name: str = "w") -> tuple[Any, Any]:
    """int8 weights and their scales, as a quantization pass leaves them."""
    values, scale = Q.quantize_activation(weight(rows, width), "int8", group, "float32", None)
    return b.new_weight(f"{name}.packed", values), b.new_weight(f"{name}.scale", scale)


def acts(act: tuple[int, int]) -> tuple[str, int, str]:
    """Format, group and scale of activations of (bits, group)."""
    return ("int8" if act[0] else "", act[1], "float32")


def linear(
    rows: int, width: int, group: int, act: tuple[int, int], *, bias: bool = False, zero: bool = False
) -> Make:
    """A quantized linear."""

    def make(b: Builder, x: Any) -> Any:
        values, scale = packed(b, rows, width, group)
        extra = b.new_weight("bias", weight(rows, seed=3)) if bias else None
        shift = b.new_weight("zero", _zeros(rows, width, group)) if zero else None
        return b.call(
            Q.quantized_linear.default, x, values, scale, shift, None, extra, "int8", group, 1, *acts(act)
        )

    return make


def _zeros(rows: int, width: int, group: int) -> torch.Tensor:
    return torch.randint(-8, 8, (rows, width // group if group else 1), dtype=torch.int8)


def _embedding(group: int) -> Make:
    def make(b: Builder, ids: Any) -> Any:
        values, scale = packed(b, 9, 64, group)
        return b.call(
            Q.quantized_embedding.default, ids, values, scale, None, None, "int8", group, torch.float32
        )

    return make


def _tied(group: int, act: tuple[int, int]) -> Make:
    def make(b: Builder, ids: Any) -> Any:
        values, scale = packed(b, 9, 64, group)
        rows = b.call(
            Q.quantized_embedding.default, ids, values, scale, None, None, "int8", group, torch.float32
        )
        return rows, b.call(
            Q.quantized_linear.default, rows, values, scale, None, None, None, "int8", group, 1, *acts(act)
        )

    return make


def _unfused(group: int) -> Make:
    """What a graph looks like before fuse.dequant-linear."""

    def make(b: Builder, x: Any) -> Any:
        values, scale = packed(b, 5, 64, group)
        pair = b.call(Q.quantize_activation.default, x, "int8", group, "float32", None)
        rounded = b.call(
            Q.dequantize.default,
            b.item(pair, 0),
            b.item(pair, 1),
            None,
            None,
            "int8",
            group,
            1,
            torch.float32,
        )
        wide = b.call(Q.dequantize.default, values, scale, None, None, "int8", group, 1, torch.float32)
        return b.item(pair, 0), b.item(pair, 1), b.call(torch.ops.aten.linear.default, rounded, wide)

    return make


def _fields(form: WeightFormat, act: int = 0, rows: int = 6, *, signed: bool = False) -> Make:
    """A linear and a look-up of one weight in fields of a few bits; about half of the scales negative if signed."""

    # The linear reads other values than the table's: those lie on a grid, where activations meet exact ties.
    def make(b: Builder, ids: Any, x: Any) -> Any:
        made = round_to_nearest(weight(rows, 96), form, search=4 if signed else 0, signed=signed)
        assert bool((made.scale < 0).any()) == signed
        shift = None if made.zero is None else b.new_weight("w.zero", made.zero)
        stored = b.new_weight("w.packed", made.packed), b.new_weight("w.scale", made.scale), shift, None
        table = b.call(Q.quantized_embedding.default, ids, *stored, form.type, form.group, torch.float32)
        layout = form.type, form.group, 1, *acts((8 if act else 0, act))
        return table, b.call(Q.quantized_linear.default, x, *stored, None, *layout)

    return make


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
    *(
        Case(
            f"quantized-{form.type}-g{form.group}{'' if form.symmetric else '-asym'}-{form.scale}-a{act}",
            {"ids": "i64[T]", "x": "f32[T, 96]"},
            _fields(form, act),
            {"ids": 6},
            4e-6,
        )
        for form, act in (
            (WeightFormat("int4", 32), 32),
            (WeightFormat("int4", 32), 0),
            (WeightFormat("int4", 32, scale="float16"), 32),
            (WeightFormat("int4", 32, symmetric=False), 32),
            (WeightFormat("int4", 16, symmetric=False), 0),
            (WeightFormat("int8", 32, symmetric=False), 32),
            (WeightFormat("int8", 32, symmetric=False), 0),
            (WeightFormat("int8", 0, symmetric=False), 0),
            (WeightFormat("ternary", 32), 32),
            (WeightFormat("ternary", 16), 0),
        )
    ),
    *(
        Case(
            f"quantized-int4-g32-negative-{scale}-a{act}",
            {"ids": "i64[T]", "x": "f32[T, 96]"},
            _fields(WeightFormat("int4", 32, scale=scale), act, signed=True),
            {"ids": 6},
            4e-6,
        )
        for scale, act in (("float32", 32), ("float16", 32), ("float32", 0))
    ),
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
