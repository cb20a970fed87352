"""The operators of canonical graphs, one small graph or more for each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optcc.ir.builder import Builder
from tests.conformance.harness import Case, Make

A: Any = torch.ops.aten
X = {"x": "f32[T, 8]"}
XY = {"x": "f32[T, 8]", "y": "f32[T, 8]"}
IJ = {"i": "i64[T, 8]", "j": "i64[T, 8]"}
IMAGE = {"x": "f32[B, 4, 12, 12]"}


def call(target: Any, *rest: Any, **named: Any) -> Make:
    """A single call on all inputs, then constants."""
    return lambda b, *inputs: b.call(target, *inputs, *rest, **named)


def weight(*shape: int, seed: int = 1, positive: bool = False) -> Tensor:
    """Random weights."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.abs() * 0.5 + 0.1 if positive else values


def chain(*steps: Make) -> Make:
    """Each step on the result of the one before."""

    def make(b: Builder, *inputs: Any) -> Any:
        value = steps[0](b, *inputs)
        for step in steps[1:]:
            value = step(b, value)
        return value

    return make


def _positive(target: Any, *rest: Any) -> Make:
    return chain(call(A.abs.default), call(A.add.Tensor, 0.1), call(target, *rest))


def _linear(*, bias: bool) -> Make:
    def make(b: Builder, x: Any) -> Any:
        extra = [b.new_weight("bias", weight(5, seed=2))] if bias else []
        return b.call(A.linear.default, x, b.new_weight("w", weight(5, 8)), *extra)

    return make


def _tied(b: Builder, ids: Any) -> Any:
    table = b.new_weight("table", weight(11, 8))
    return b.call(A.linear.default, b.call(A.embedding.default, table, ids), table)


def _dims(b: Builder, x: Any) -> Any:
    """[B, S, 8] to [B * S, 2, 4] and back by computed sizes."""
    import operator

    rows, length = b.call(A.sym_size.int, x, 0), b.call(A.sym_size.int, x, -2)
    flat = b.reshape(x, [b.call(operator.mul, rows, length), 2, 4])
    more = b.call(operator.floordiv, b.call(operator.mul, length, 3), 3)
    return b.reshape(b.call(A.mul.Tensor, flat, length), [rows, more, 8])


def _normal(target: Any, *more: str) -> Make:
    def make(b: Builder, *inputs: Any) -> Any:
        return b.call(target, *inputs, b.new_weight("w", weight(8)), 1e-5)

    return make


def _layer_norm(b: Builder, x: Any) -> Any:
    w, bias = b.new_weight("w", weight(8)), b.new_weight("b", weight(8, seed=2))
    return b.call(A.layer_norm.default, x, [8], w, bias, 1e-5), b.call(A.layer_norm.default, x, [8])


def _convolution(b: Builder, x: Any) -> Any:
    w, bias = b.new_weight("w", weight(6, 2, 3, 3)), b.new_weight("b", weight(6, seed=2))
    strided = b.call(A.conv2d.default, x, w, bias, [2, 1], [1, 0], [1, 1], 2)
    return strided, b.call(A.conv2d.default, x, b.new_weight("one", weight(3, 4, 1, 1)))


def _batch_norm(b: Builder, x: Any) -> Any:
    w, bias, mean = (b.new_weight(n, weight(4, seed=i)) for i, n in enumerate(("w", "b", "mean")))
    variance = b.new_weight("var", weight(4, positive=True))
    return b.call(A.batch_norm.default, x, w, bias, mean, variance, False, 0.1, 1e-5, True)


def _parts(b: Builder, x: Any) -> Any:
    pieces = b.call(A.split_with_sizes.default, x, [3, 4, 1], -1)
    return b.item(pieces, 0), b.item(pieces, 2), b.call(A.cat.default, [b.item(pieces, 1), x], -1)


def _attention(causal: bool, masked: bool) -> Make:
    def make(b: Builder, q: Any, k: Any, v: Any, mask: Any) -> Any:
        return b.call(A.scaled_dot_product_attention.default, q, k, v, mask if masked else None, 0.0, causal)

    return make


QKV = dict.fromkeys("qkv", "f32[B, 2, S, 4]") | {"mask": "f32[S, S]"}

UNARY = [
    Case(name, X, call(getattr(A, name).default))
    for name in (
        "abs",
        "ceil",
        "cos",
        "erf",
        "exp",
        "floor",
        "neg",
        "relu",
        "round",
        "sigmoid",
        "sign",
        "silu",
        "sin",
    )
]
POSITIVE = [
    Case(name, X, _positive(getattr(A, name).default)) for name in ("log", "reciprocal", "rsqrt", "sqrt")
]
BINARY = [
    Case(f"{name}-{kind}", inputs, call(getattr(A, name).Tensor, *rest))
    for name in ("add", "sub", "mul", "div")
    for kind, inputs, rest in (
        ("tensors", XY, ()),
        ("rows", {"x": "f32[T, 8]", "y": "f32[8]"}, ()),
        ("float", X, (2.5,)),
        ("integers", {"i": "i64[T, 8]"}, (3,)),
        ("integer-float", {"i": "i64[T, 8]"}, (2.5,)),
        ("mixed", {"x": "f32[T, 8]", "i": "i64[T, 8]"}, ()),
        ("truth", {"x": "f32[T, 8]", "m": "bool[T, 8]"}, ()),
        ("narrow", {"i": "i32[T, 8]"}, (2,)),
    )
    if (name, kind) != ("sub", "truth")  # torch refuses it
]
COMPARE = [
    Case(f"{name}-{kind}", inputs, call(getattr(getattr(A, name), overload), *rest))
    for name in ("eq", "ne", "lt", "le", "gt", "ge")
    for kind, overload, inputs, rest in (
        ("integers", "Tensor", IJ, ()),
        ("mixed", "Tensor", {"i": "i64[T, 8]", "k": "i32[T, 8]"}, ()),
        ("float", "Scalar", X, (0.25,)),
        ("integer-float", "Scalar", {"i": "i64[T, 8]"}, (0.5,)),
    )
]
ARITHMETIC = [
    Case("add-alpha", XY, call(A.add.Tensor, alpha=0.5)),
    Case("sub-alpha", IJ, call(A.sub.Tensor, alpha=2)),
    Case("rsub", X, call(A.rsub.Scalar, 1.0)),
    Case("mul-truth", {"m": "bool[T]", "n": "bool[T]"}, call(A.mul.Tensor)),
    Case("floor-divide", {"i": "i64[T, 8]"}, call(A.floor_divide.default, 4)),
    Case("div-floor", X, call(A.div.Tensor_mode, 0.3, rounding_mode="floor")),
    Case("remainder", {"i": "i64[T, 8]"}, call(A.remainder.Scalar, 4)),
    Case("remainder-float", X, call(A.remainder.Scalar, 0.7)),
    Case("maximum", XY, call(A.maximum.default)),
    Case("minimum", IJ, call(A.minimum.default)),
    Case("clamp", X, call(A.clamp.default, -0.5, 0.5)),
    Case("clamp-low", {"i": "i64[T]"}, call(A.clamp.default, 2)),
    Case("clamp-min", X, call(A.clamp_min.default, 0.1)),
    Case("square", X, call(A.pow.Tensor_Scalar, 2)),
    Case("cube", X, call(A.pow.Tensor_Scalar, 3)),
    Case("power", X, _positive(A.pow.Tensor_Scalar, 1.7), tolerance=5e-6),
    Case("power-inverse-root", X, _positive(A.pow.Tensor_Scalar, -0.5)),
    Case("power-of-integers", {"i": "i64[T]"}, call(A.pow.Tensor_Scalar, 2)),
    Case("power-base", X, lambda b, x: b.call(A.pow.Scalar, 2.0, x)),
    Case("gelu", X, call(A.gelu.default)),
    Case("gelu-tanh", X, call(A.gelu.default, approximate="tanh")),
    Case("tanh-steep", X, chain(call(A.mul.Tensor, 20.0), call(A.tanh.default))),
    Case("cos-far", {"i": "i64[T]"}, chain(call(A.mul.Tensor, 811.0), call(A.cos.default)), {"i": 9}, 2e-6),
    Case("integer-sqrt", {"i": "i64[T]"}, call(A.sqrt.default), {"i": 99}),
]
LOGIC = [
    Case("and", {"m": "bool[T, S]", "n": "bool[S]"}, call(A.bitwise_and.Tensor)),
    Case("or", {"m": "bool[T]", "n": "bool[T]"}, call(A.logical_or.default)),
    Case("xor", {"m": "bool[T]", "n": "bool[T]"}, call(A.bitwise_xor.Tensor)),
    Case("not", {"m": "bool[T]"}, call(A.logical_not.default)),
    Case("bits-not", {"i": "i64[T]"}, call(A.bitwise_not.default)),
    Case("where", {"m": "bool[T, 8]", "x": "f32[T, 8]", "i": "i64[8]"}, call(A.where.self)),
    Case("masked-fill", X | {"m": "bool[T, 8]"}, call(A.masked_fill.Scalar, -1e9)),
    Case("any", {"m": "bool[T, 8]"}, call(A.any.dim, -1)),
    Case("all", {"m": "bool[T, 8]"}, call(A.all.dim, 0, True)),
]
CASTS = [
    Case(
        f"cast-{kind}-{dtype}".replace("torch.", ""),
        {"x": f"{kind}[T, 8]"},
        call(A._to_copy.default, dtype=dtype),
    )
    for kind in ("f32", "i64", "bool")
    for dtype in (torch.float32, torch.int64, torch.int32, torch.bool, torch.float64)
]
SHAPE = [
    Case(
        "reshape", {"x": "f32[B, S, 8]"}, lambda b, x: b.reshape(x, [b.call(A.sym_size.int, x, 0), -1, 2, 4])
    ),
    Case("dims", {"x": "f32[B, S, 8]"}, _dims),
    Case("transpose", {"x": "f32[B, S, 8]"}, call(A.transpose.int, -1, 0)),
    Case("permute", {"x": "f32[B, S, 8]"}, call(A.permute.default, [1, -1, 0])),
    Case("unsqueeze", X, call(A.unsqueeze.default, -1)),
    Case(
        "squeeze",
        {"x": "f32[T, 1, 8]"},
        lambda b, x: (b.call(A.squeeze.dim, x, 1), b.call(A.squeeze.dim, x, 2)),
    ),
    Case("expand", {"x": "f32[T, 1, 8]"}, call(A.expand.default, [-1, 3, -1])),
    Case(
        "expand-dims",
        {"x": "f32[8]"} | {"y": "i64[T]"},
        lambda b, x, y: b.call(A.expand.default, x, [b.call(A.sym_size.int, y, 0), 8]),
    ),
    Case("repeat", X, call(A.repeat.default, [2, 1, 3])),
    Case("split", X, _parts),
    Case("chunk", X, lambda b, x: tuple(b.item(b.call(A.chunk.default, x, 3, 1), i) for i in range(3))),
    Case("unbind", {"x": "f32[T, 3]"}, lambda b, x: b.item(b.call(A.unbind.int, x, 1), 2)),
    Case("slice", X, call(A.slice.Tensor, -1, 2, -1, 2)),
    Case("slice-end", X, call(A.slice.Tensor, 0, 0, 9223372036854775807)),
    Case("slice-back", X, call(A.slice.Tensor, 1, -3)),
    Case("flip", X, call(A.flip.default, [1])),
    Case("cat", XY, lambda b, x, y: b.call(A.cat.default, [x, y, x], 0)),
    Case("cat-mixed", {"x": "f32[T]", "i": "i64[T]"}, lambda b, x, i: b.call(A.cat.default, [x, i], 0)),
    Case("stack", XY, lambda b, x, y: b.call(A.stack.default, [x, y], -1)),
]
INDEX = [
    Case("select", X, call(A.select.int, 1, -2)),
    Case("index", X | {"i": "i64[W]"}, lambda b, x, i: b.call(A.index.Tensor, x, [i]), {"i": 1}),
    Case(
        "index-both",
        X | {"i": "i64[W, 1]", "j": "i64[3]"},
        lambda b, x, i, j: b.call(A.index.Tensor, x, [i, j]),
        {"i": 1, "j": 8},
    ),
    Case(
        "index-second", X | {"i": "i64[W, 3]"}, lambda b, x, i: b.call(A.index.Tensor, x, [None, i]), {"i": 8}
    ),
    Case(
        "index-select", X | {"i": "i64[W]"}, lambda b, x, i: b.call(A.index_select.default, x, 1, i), {"i": 8}
    ),
    Case("gather", X | {"i": "i64[T, 3]"}, lambda b, x, i: b.call(A.gather.default, x, 1, i), {"i": 8}),
    Case(
        "embedding",
        {"i": "i64[B, S]"},
        lambda b, i: b.call(A.embedding.default, b.new_weight("w", weight(7, 4)), i),
        {"i": 7},
        0,
    ),
    Case("tied", {"i": "i64[T]"}, _tied, {"i": 11}),
]
CREATE = [
    Case("arange", {"i": "i64[T]"}, lambda b, i: b.call(A.arange.default, b.call(A.sym_size.int, i, 0))),
    Case(
        "arange-step",
        {"i": "i64[T]"},
        lambda b, i: b.call(A.arange.start_step, 3, 20, 2, dtype=torch.float32),
    ),
    Case("arange-float", {"i": "i64[T]"}, lambda b, i: b.call(A.arange.start, 0.5, 4.0)),
    Case(
        "full", {"i": "i64[T]"}, lambda b, i: b.call(A.full.default, [b.call(A.sym_size.int, i, 0), 2], 1.5)
    ),
    Case("full-number", {"i": "i64[T]"}, lambda b, i: b.call(A.full.default, [], 3, dtype=torch.int32)),
    Case("ones", {"i": "i64[T]"}, lambda b, i: b.call(A.ones.default, [2, 3])),
    Case("zeros-like", {"m": "i64[T]"}, call(A.zeros_like.default)),
    Case("new-ones", X, call(A.new_ones.default, [4])),
    Case("tril", {"x": "f32[T, 8]"}, call(A.tril.default, -1)),
    Case("constant", X, lambda b, x: b.call(A.scalar_tensor.default, 2.5)),
]
REDUCE = [
    Case("mean", {"x": "f32[B, S, 8]"}, call(A.mean.dim, [-1], True)),
    Case("mean-many", {"x": "f32[B, S, 8]"}, call(A.mean.dim, [0, 2])),
    Case("mean-all", X, call(A.mean.default)),
    Case("sum", {"x": "f32[B, S, 8]"}, call(A.sum.dim_IntList, [1])),
    Case("sum-integers", {"i": "i32[T, 8]"}, call(A.sum.dim_IntList, [1])),
    Case("sum-truth", {"m": "bool[T, 8]"}, call(A.sum.default)),
    Case("amax", X, call(A.amax.default, [1], True)),
    Case("argmax", X, call(A.argmax.default, -1)),
    Case("norm", X, call(A.linalg_vector_norm.default, 2, [-1], True)),
    Case("softmax", {"x": "f32[B, S, 8]"}, call(A.softmax.int, 1)),
    Case("log-softmax", X, call(A.log_softmax.int, -1)),
    Case("cumsum", {"i": "i32[B, S]"}, call(A.cumsum.default, 1)),
]
LINEAR = [
    Case("linear", X, _linear(bias=False)),
    Case("linear-bias", X, _linear(bias=True)),
    Case("linear-batch", {"x": "f32[B, S, 8]"}, _linear(bias=True)),
    Case("linear-vector", {"x": "f32[8]"}, _linear(bias=True)),
    Case("matmul", {"x": "f32[B, S, 8]", "y": "f32[8, 3]"}, call(A.matmul.default)),
    Case("bmm", {"x": "f32[B, S, 8]", "y": "f32[B, 8, S]"}, call(A.bmm.default)),
    Case("addmm", {"c": "f32[5]", "x": "f32[T, 8]", "w": "f32[8, 5]"}, call(A.addmm.default)),
    Case("attention", QKV, _attention(causal=False, masked=False)),
    Case("attention-causal", QKV, _attention(causal=True, masked=False)),
    Case("attention-bias", QKV, _attention(causal=False, masked=True)),
    Case(
        "attention-mask",
        QKV | {"mask": "bool[B, 1, 1, S]"},
        lambda b, q, k, v, m: _attention(False, True)(
            b, q, k, v, b.call(A.logical_or.default, m, _first(b, m))
        ),
    ),
]


def _first(b: Builder, mask: Any) -> Any:
    """True in the first column: a row that sees nothing is undefined."""
    return b.call(A.lt.Scalar, b.call(A.cumsum.default, b.call(A.ones_like.default, mask), -1), 2)


NORM = [
    Case("rms-norm", {"x": "f32[B, S, 8]"}, _normal(torch.ops.optcc.rms_norm.default)),
    *(
        Case(
            f"add-rms-norm-{rank}",
            dict.fromkeys("xy", kind),
            lambda b, *xs: tuple(
                b.item(_normal(torch.ops.optcc.add_rms_norm.default)(b, *xs), i) for i in (0, 1)
            ),
        )
        for rank, kind in ((2, "f32[T, 8]"), (3, "f32[1, T, 8]"), (4, "f32[1, B, S, 8]"))
    ),
    Case("layer-norm", {"x": "f32[B, S, 8]"}, _layer_norm),
    Case(
        "group-norm",
        IMAGE,
        lambda b, x: b.call(
            A.group_norm.default, x, 2, b.new_weight("w", weight(4)), b.new_weight("b", weight(4, seed=2))
        ),
    ),
    Case("batch-norm", IMAGE, _batch_norm),
]
IMAGES = [
    Case("conv2d", IMAGE, _convolution, tolerance=5e-6),
    Case(
        "conv1d",
        {"x": "f32[B, 4, 12]"},
        lambda b, x: b.call(A.conv1d.default, x, b.new_weight("w", weight(3, 4, 5)), None, [2], [2]),
    ),
    Case("max-pool", IMAGE, call(A.max_pool2d.default, [3, 2], [2], [1, 0])),
    Case(
        "adaptive-max-pool",
        IMAGE,
        lambda b, x: tuple(
            b.item(b.call(A.adaptive_max_pool2d.default, x, sizes), 0) for sizes in ([1, 1], [3, 4])
        ),
    ),
    Case(
        "depthwise",
        IMAGE,
        lambda b, x: b.call(
            A.conv2d.default, x, b.new_weight("w", weight(8, 1, 3, 3)), None, [1, 1], [2, 2], [2, 2], 4
        ),
    ),
    Case("pad", IMAGE, call(A.pad.default, [1, 2, 0, 3], "constant", 0.5)),
    Case("constant-pad", IMAGE, call(A.constant_pad_nd.default, [1, 1, 0, 2])),
    Case("avg-pool", IMAGE, call(A.avg_pool2d.default, [3], [2], [1], False, False)),
    Case(
        "adaptive-pool",
        IMAGE,
        lambda b, x: (
            b.call(A.adaptive_avg_pool2d.default, x, [1, 1]),
            b.call(A.adaptive_avg_pool2d.default, x, [3, 4]),
        ),
    ),
]
ACTIVATIONS = [
    *(
        Case(name, X, chain(call(A.mul.Tensor, 3.0), call(getattr(A, name).default, *rest)))
        for name, *rest in (("hardswish",), ("hardsigmoid",), ("leaky_relu", 0.2), ("elu", 1.5), ("mish",))
    )
]
GATED = [
    Case(f"gated-{kind}", {"x": "f32[1, T, 8]"}, call(torch.ops.optcc.gated_activation.default, kind))
    for kind in ("silu", "gelu", "gelu_tanh", "relu")
]
ROPE = [
    Case(f"rope-{heads}x{half}-{'interleaved' if pairs else 'halves'}-{lead}",
         {"x": f"f32[{lead}T, {heads}, 8]", "c": f"f32[T, {half}]", "s": f"f32[T, {half}]"},
         call(torch.ops.optcc.rope.default, pairs))
    for lead in ("", "1, ", "B, ")
    for heads, half, pairs in ((3, 4, False), (1, 4, False), (2, 2, False), (2, 4, True), (2, 1, True))
]  # fmt: skip

CASES = [*UNARY, *POSITIVE, *BINARY, *COMPARE, *ARITHMETIC, *LOGIC, *CASTS, *SHAPE, *INDEX, *CREATE, *REDUCE,
         *LINEAR, *NORM, *IMAGES, *ACTIVATIONS, *GATED, *ROPE]  # fmt: skip
