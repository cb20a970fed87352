"""What a backend refuses, and the reason it must give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tests.conformance.cases import IMAGE, A, X, call, weight
from tests.conformance.harness import Case

Q: Any = torch.ops.optcc


@dataclass(frozen=True)
class Refused:
    """A case, the backend that refuses one node of it, and part of the reason."""

    backend: str
    case: Case
    reason: str


def _four_bits(b: Any, x: Any) -> Any:
    values = torch.randint(0, 256, (6, 4), dtype=torch.uint8)
    names = b.new_weight("w.packed", values), b.new_weight("w.scale", weight(6, 1, positive=True))
    return b.call(Q.quantized_linear.default, x, *names, None, None, 4, 8, 0, 0)


REFUSED = [
    Refused("onnxruntime", case, reason)
    for case, reason in (
        (Case("unknown", X, call(A.erfinv.default)), "no lowering"),
        (Case("half", {"x": "f16[T, 8]"}, call(A.tanh.default)), "float16 has no kernels on a CPU"),
        (Case("complex", {"x": "c64[T]"}, call(A.abs.default)), "complex64 has no kernels"),
        (Case("later-indices", {"x": "f32[T, 8, 8]", "i": "i64[W]"},
              lambda b, x, i: b.call(A.index.Tensor, x, [None, i, i])), "2 tensors at once behind"),
        (Case("truncated", X, call(A.div.Tensor_mode, 2.0, rounding_mode="trunc")), "rounding_mode='trunc'"),
        (Case("integer-matmul", {"i": "i64[T, 8]", "j": "i64[8, 2]"}, call(A.matmul.default)), "of integers"),
        (Case("bits", {"i": "i64[T]", "j": "i64[T]"}, call(A.bitwise_and.Tensor)), "bits of integers"),
        (Case("dropout", X, call(A.dropout.default, 0.5, True)), "training"),
        (Case("order-three-norm", X, call(A.linalg_vector_norm.default, 3, [-1])), "order 3"),
        (Case("uneven-pool", IMAGE, call(A.adaptive_avg_pool2d.default, [5, 5])), "windows differ"),
        (Case("four-bit-floats", X, _four_bits), "4-bit weights without 8-bit activations"),
        (Case("four-bit-dequantize", {"p": "u8[T, 4]", "s": "f32[T, 1]"},
              lambda b, p, s: b.call(Q.dequantize.default, p, s, None, 4, 8, torch.float32)), "4-bit"),
        (Case("symbolic-heads", dict.fromkeys("qkv", "f32[T, S, 4]") | {"q_starts": "i32[R + 1]"},
              call(Q.attention.default, 0.5)), "symbolic heads"),
    )
]  # fmt: skip
