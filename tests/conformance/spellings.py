"""Other spellings of what `cases` has: graphs that were not canonicalized, or only partly."""

from __future__ import annotations

import operator
from typing import Any

import torch

from optcc.ir.builder import Builder
from tests.conformance.cases import IMAGE, XY, A, X, call, weight
from tests.conformance.harness import Case

I = {"i": "i64[T, 8]"}  # noqa: E741 - integers
MN = {"m": "bool[T, 8]", "n": "bool[T, 8]"}


def _functional_batch_norm(b: Builder, x: Any) -> Any:
    w, bias, mean = (b.new_weight(n, weight(4, seed=i)) for i, n in enumerate(("w", "b", "mean")))
    variance = b.new_weight("var", weight(4, positive=True))
    made = b.call(A._native_batch_norm_legit_no_training.default, x, w, bias, mean, variance, 0.1, 1e-5)
    return b.item(made, 0)


def _dims(b: Builder, x: Any) -> Any:
    """All arithmetic on dims, as the length of a range."""
    rows, length = b.call(A.sym_size.int, x, 0), b.call(A.sym_size.int, x, 1)
    most = b.call(torch.sym_max, rows, length)
    least = b.call(torch.sym_min, rows, length)
    apart = b.call(operator.sub, b.call(operator.add, most, 5), least)
    odd = b.call(operator.mod, b.call(operator.neg, rows), 3)
    return b.call(A.arange.default, b.call(operator.add, apart, odd))


SPELLINGS = [
    *(Case(f"{name}-scalar", X, call(getattr(A, name).Scalar, 1.5)) for name in ("add", "sub", "mul", "div")),
    *(Case(f"bitwise-{n}-scalar", {"m": "bool[T]"}, call(getattr(A, f"bitwise_{n}").Scalar, True))
      for n in ("and", "or", "xor")),
    *(Case(f"bitwise-{n}", MN, call(getattr(A, f"bitwise_{n}").Tensor)) for n in ("or", "xor")),
    *(Case(f"logical-{n}", MN, call(getattr(A, f"logical_{n}").default)) for n in ("and", "xor")),
    *(Case(f"operator-{n}", MN, call(getattr(A, f"__{n}__").Tensor)) for n in ("and", "or", "xor")),
    *(Case(f"identity-{n}", X, call(getattr(A, n).default))
      for n in ("alias", "clone", "contiguous", "detach", "lift_fresh_copy")),
    Case("dropout", X, call(A.dropout.default, 0.1, False)),
    Case("to", I, call(A.to.dtype, torch.float32)),
    Case("type-as", I | X, call(A.type_as.default)),
    Case("internal-softmax", X, call(A._softmax.default, -1, False)),
    Case("internal-log-softmax", X, call(A._log_softmax.default, -1, False)),
    Case("functional-batch-norm", IMAGE, _functional_batch_norm),
    Case("any-all", MN, lambda b, m, n: (b.call(A.any.default, m), b.call(A.all.default, n))),
    Case("amin", X, call(A.amin.default, [0, 1])),
    Case("argmin", X, call(A.argmin.default)),
    Case("clamp-max", I, call(A.clamp_max.default, 3)),
    Case("divide-floor", I, call(A.div.Scalar_mode, 4, rounding_mode="floor")),
    Case("divide-plain", I, call(A.div.Scalar_mode, 4, rounding_mode=None)),
    Case("remainder-tensor", XY, call(A.remainder.Tensor)),
    Case("power-tensor", XY, lambda b, x, y: b.call(A.pow.Tensor_Tensor, b.call(A.exp.default, x), y), tolerance=1e-5),
    Case("masked-fill-tensor", X | MN | {"v": "f32[]"}, lambda b, x, m, _, v: b.call(A.masked_fill.Tensor, x, m, v)),
    Case("where-other", X | MN, lambda b, x, m, _: b.call(A.where.ScalarOther, m, x, 0.5)),
    Case("where-self", X | MN, lambda b, x, m, _: b.call(A.where.ScalarSelf, m, 0.5, x)),
    Case("where-numbers", MN, lambda b, m, _: b.call(A.where.Scalar, m, 1.0, 0.0)),
    Case("flatten", {"x": "f32[B, 2, 3, 4]"}, call(A.flatten.using_ints, 1, -2)),
    Case("unflatten", X, call(A.unflatten.int, -1, [2, -1])),
    Case("view", X, call(A.view.default, [-1, 4])),
    Case("unsafe-view", X, call(A._unsafe_view.default, [-1, 2, 4])),
    Case("t", X, call(A.t.default)),
    Case("mm", {"x": "f32[T, 8]", "y": "f32[8, 3]"}, call(A.mm.default)),
    Case("split-equal", X, lambda b, x: tuple(b.item(b.call(A.split.Tensor, x, 3, -1), i) for i in range(3))),
    Case("squeeze-all", {"x": "f32[1, T, 1, 8]"}, lambda b, x: b.call(A.squeeze.dims, x, [0, 2, 3])),
    Case("squeeze-any", {"x": "f32[1, 3, 1, 8]"}, call(A.squeeze.default)),
    Case("full-like", I, call(A.full_like.default, 7)),
    Case("new-full", I, call(A.new_full.default, [2, 2], 7)),
    Case("new-zeros", X, call(A.new_zeros.default, [2])),
    Case("zeros", X, lambda b, x: b.call(A.zeros.default, [b.call(A.sym_size.int, x, 0)])),
    Case("triu", {"x": "f32[B, S, S]"}, call(A.triu.default)),
    Case("dim-arithmetic", {"x": "f32[T, S]"}, _dims),
]  # fmt: skip
