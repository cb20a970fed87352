"""What a backend refuses, and the reason it must give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from optcc.quant.rounding import round_to_nearest
from optcc.recipe.schemes import WeightFormat
from tests.conformance.cases import IMAGE, A, X, call, weight
from tests.conformance.harness import Case

Q: Any = torch.ops.optcc
WIDE = {"x": "f32[T, 64]"}


@dataclass(frozen=True)
class Refused:
    """A case, the backend that refuses one node of it, and part of the reason."""

    backend: str
    case: Case
    reason: str


def _linear(form: WeightFormat, act: tuple[str, int, str] = ("", 0, "float32")) -> Any:
    def make(b: Any, x: Any) -> Any:
        made = round_to_nearest(weight(6, 64), form)
        whole = None if made.tensor_scale is None else b.new_weight("w.tensor_scale", made.tensor_scale)
        stored = b.new_weight("w.packed", made.packed), b.new_weight("w.scale", made.scale), None, whole
        return b.call(Q.quantized_linear.default, x, *stored, None, form.type, form.group, form.rows, *act)

    return make


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
        (Case("max-places", IMAGE, lambda b, x: b.call(
            A.add.Tensor, b.item(b.call(A.adaptive_max_pool2d.default, x, [1, 1]), 1), 1)), "places of the maxima"),
        (Case("reflecting", IMAGE, call(A.pad.default, [1, 1, 1, 1], "reflect")), "mode reflect"),
        (Case("scaled-elu", X, call(A.elu.default, 1.0, 1.05)), "a scale of its own"),
        (Case("static-int4", X, lambda b, x: b.call(Q.quantize_static.default, x, b.new_weight("s", weight(1)), None,
              "int4")), "static int4"),
        (Case("int3", WIDE, _linear(WeightFormat("int3", 32))), "no kernel for int3"),
        (Case("fp8", WIDE, _linear(WeightFormat("e4m3", 0))), "no kernel for e4m3"),
        (Case("nvfp4", WIDE, _linear(WeightFormat("e2m1", 16, scale="e4m3"))), "no kernel for e2m1"),
        (Case("int4-channel", WIDE, _linear(WeightFormat("int4", 0))), "groups of 16, 32, 64"),
        (Case("int4-other-groups", WIDE, _linear(WeightFormat("int4", 32), ("int8", 64, "float32"))),
         "int4 weights in groups of 32 with activations in groups of 64"),
        (Case("fp8-activations", WIDE, _linear(WeightFormat("int8", 64), ("e4m3", 64, "float32"))),
         "e4m3 activations"),
        (Case("int4-dequantize", {"p": "u8[T, 4]", "s": "f32[T, 1]"},
              lambda b, p, s: b.call(Q.dequantize.default, p, s, None, None, "int4", 8, 1, torch.float32)), "int4"),
        (Case("symbolic-heads", dict.fromkeys("qkv", "f32[T, S, 4]") | {"q_starts": "i32[R + 1]"},
              call(Q.attention.default, 0.5)), "symbolic heads"),
    )
]  # fmt: skip
